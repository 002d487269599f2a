//! The waits that ordered reuse depends on, and the tests that notice when one is left out.

use super::build::{Built, Outcome, Program};
use crate::error::{Failure, Result};
use crate::progress::Steps;

/// A wait of `crates/weldpool/src/wait.rs`, and the tests each of which fails without it.
const MUTANTS: [(&str, &[&str]); 16] = [
    (
        "HostAccess",
        &[
            "discrete::the_host_is_refused_while_work_uses_a_buffer",
            "apple::the_host_is_refused_while_work_uses_a_buffer",
        ],
    ),
    (
        "Settle",
        &[
            "discrete::the_host_is_refused_memory_that_its_last_owner_still_uses",
            "apple::the_host_is_refused_memory_that_its_last_owner_still_uses",
        ],
    ),
    (
        "FreeElsewhere",
        &[
            "discrete::memory_freed_on_one_queue_waits_for_another_that_it_came_from",
            "apple::memory_freed_on_one_queue_waits_for_another_that_it_came_from",
        ],
    ),
    (
        "Drop",
        &[
            "discrete::the_host_does_not_reuse_what_a_queued_copy_has_yet_to_read",
            "apple::the_host_does_not_reuse_what_a_queued_copy_has_yet_to_read",
        ],
    ),
    (
        "Here",
        &[
            "discrete::memory_freed_on_a_queue_waits_for_work_since_its_last_signal",
            "apple::memory_freed_on_a_queue_waits_for_work_since_its_last_signal",
        ],
    ),
    (
        "Free",
        &[
            "discrete::another_queue_does_not_steal_what_a_queue_still_uses",
            "apple::another_queue_does_not_steal_what_a_queue_still_uses",
            "discrete::memory_freed_on_a_queue_by_another_thread_waits_too",
            "apple::memory_freed_on_a_queue_by_another_thread_waits_too",
            "handles_go_back_after_the_work_at_all_of_their_addresses",
        ],
    ),
    (
        "Collect",
        &[
            "discrete::a_fence_that_never_passes_keeps_its_memory",
            "apple::a_fence_that_never_passes_keeps_its_memory",
        ],
    ),
    (
        "SeveralQueues",
        &[
            "discrete::memory_that_two_queues_use_waits_for_both",
            "apple::memory_that_two_queues_use_waits_for_both",
        ],
    ),
    (
        "OtherQueue",
        &[
            "discrete::work_waits_for_the_work_of_another_queue",
            "apple::work_waits_for_the_work_of_another_queue",
        ],
    ),
    (
        "Ended",
        &[
            "discrete::a_queue_that_is_dropped_first_keeps_its_memory",
            "apple::a_queue_that_is_dropped_first_keeps_its_memory",
        ],
    ),
    ("Unmap", &["addresses_stay_mapped_until_work_has_passed"]),
    (
        "UnmapWindow",
        &["windows_stay_mapped_until_work_has_passed"],
    ),
    (
        "Remap",
        &["remapped_memory_waits_for_work_at_its_old_addresses"],
    ),
    // These two not on Metal: a command buffer keeps the heaps that it uses, whoever else lets them go.
    (
        "Close",
        &["discrete::a_pool_that_is_closed_keeps_the_memory_of_work_in_flight"],
    ),
    (
        "CloseKept",
        &["discrete::a_pool_that_is_closed_keeps_what_other_threads_freed_on_a_queue"],
    ),
    (
        "Unregister",
        &[
            "registered_memory_that_is_dropped_stays_for_the_work_that_uses_it",
            "registered_memory_is_given_back_after_the_work_that_uses_it",
        ],
    ),
];

/// The tests among which those above are.
const MODULE: &str = "ordered_reuse::";

/// Runs the tests without any mutation, then with each.
pub(super) fn check(built: &Built, steps: &mut Steps) -> Result<()> {
    let pairs = MUTANTS.iter();
    let pairs = pairs.flat_map(|(wait, tests)| {
        let tests = tests.iter();
        tests.map(move |test| (wait, format!("{MODULE}{test}")))
    });
    let pairs = pairs.filter(|(_, test)| built.has(Program::It, test));
    let pairs: Vec<(&&str, String)> = pairs.collect();
    let tests: Vec<String> = pairs.iter().map(|(_, test)| test.clone()).collect();
    steps.work("run the hard cases of ordered reuse", || {
        built.all_pass(Program::It, &tests)
    })?;
    steps.work("leave out each wait of ordered reuse", || {
        for (wait, test) in &pairs {
            let outcome = built.run(Program::It, test, wait)?;
            if outcome == Outcome::Passed {
                return Err(Failure::new(format!(
                    "the test {test} passes although the wait {wait} is left out"
                ))
                .hint(
                    "it no longer shows what that wait is for; see crates/weldpool/src/wait.rs",
                ));
            }
            eprintln!("  without {wait}: {test} {outcome}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::MUTANTS;

    /// A mutant that no test names, or a test that is gone, would pass unseen.
    #[test]
    fn every_wait_has_a_test_that_exists() {
        let waits = include_str!("../../../crates/weldpool/src/wait.rs");
        let tests = include_str!("../../../crates/weldpool/tests/it/ordered_reuse.rs");
        let body = waits.split("pub(crate) enum Wait {").nth(1).unwrap();
        let names: Vec<&str> = body
            .lines()
            .map(str::trim)
            .take_while(|line| *line != "}")
            .filter_map(|line| line.strip_suffix(','))
            .filter(|line| !line.starts_with("//"))
            .collect();
        assert_eq!(names, MUTANTS.map(|(wait, _)| wait));
        for test in MUTANTS.iter().flat_map(|(_, tests)| *tests) {
            let (module, name) = test.split_once("::").unwrap_or(("", test));
            let written = match module {
                "" => format!("fn {name}()"),
                _ => format!("fn {name}(bench: Bench)"),
            };
            assert!(tests.contains(&written), "{test}");
            assert!(
                module.is_empty() || tests.contains(&format!("    {name},\n")),
                "{test}"
            );
        }
    }
}
