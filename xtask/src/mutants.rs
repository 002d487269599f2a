//! `cargo xtask mutants`: each wait that ordered reuse depends on is left out once, and a test must notice.

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::paths::Paths;
use crate::process::Run;
use crate::progress::Steps;

/// A wait of `crates/weldpool/src/wait.rs`, and the test that fails without it.
const MUTANTS: [(&str, &str); 14] = [
    ("HostAccess", "the_host_is_refused_while_work_uses_a_buffer"),
    (
        "Settle",
        "the_host_is_refused_memory_that_its_last_owner_still_uses",
    ),
    (
        "FreeElsewhere",
        "memory_freed_on_one_queue_waits_for_another_that_it_came_from",
    ),
    (
        "Drop",
        "the_host_does_not_reuse_what_a_queued_copy_has_yet_to_read",
    ),
    (
        "Here",
        "memory_freed_on_a_queue_waits_for_work_since_its_last_signal",
    ),
    (
        "Free",
        "another_queue_does_not_steal_what_a_queue_still_uses",
    ),
    ("Collect", "a_fence_that_never_passes_keeps_its_memory"),
    ("SeveralQueues", "memory_that_two_queues_use_waits_for_both"),
    ("OtherQueue", "work_waits_for_the_work_of_another_queue"),
    ("Ended", "a_queue_that_is_dropped_first_keeps_its_memory"),
    ("Unmap", "addresses_stay_mapped_until_work_has_passed"),
    (
        "Remap",
        "remapped_memory_waits_for_work_at_its_old_addresses",
    ),
    (
        "Close",
        "a_pool_that_is_closed_keeps_the_memory_of_work_in_flight",
    ),
    (
        "CloseKept",
        "a_pool_that_is_closed_keeps_what_other_threads_freed_on_a_queue",
    ),
];

/// The tests among which those above are.
const MODULE: &str = "ordered_reuse::";

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    check(paths, &mut steps)?;
    steps.done("mutants");
    Ok(())
}

/// Builds once and runs the tests without any mutation, then with each.
pub(crate) fn check(paths: &Paths, steps: &mut Steps) -> Result<()> {
    let tests = || {
        Run::cargo()
            .directory(paths.root())
            .args(["test", "--package", "weldpool", "--test", "it"])
            .compiled_with("--cfg weldpool_mutation", &paths.variant("mutants"))
    };
    steps.log(
        "run the hard cases of ordered reuse",
        tests().args(["--", MODULE]),
    )?;
    for (wait, test) in MUTANTS {
        let mutant = tests()
            .args(["--", "--exact"])
            .arg(format!("{MODULE}{test}"))
            .env("WELDPOOL_MUTATION", wait);
        if steps.log(&format!("leave out {wait}"), mutant).is_ok() {
            return Err(Failure::new(format!(
                "the test {test} passes although the wait {wait} is left out"
            ))
            .hint("it no longer shows what that wait is for; see crates/weldpool/src/wait.rs"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::MUTANTS;

    /// A mutant that no test names, or a test that is gone, would pass unseen.
    #[test]
    fn every_wait_has_a_test_that_exists() {
        let waits = include_str!("../../crates/weldpool/src/wait.rs");
        let tests = include_str!("../../crates/weldpool/tests/it/ordered_reuse.rs");
        let body = waits.split("pub(crate) enum Wait {").nth(1).unwrap();
        let names: Vec<&str> = body
            .lines()
            .map(str::trim)
            .take_while(|line| *line != "}")
            .filter_map(|line| line.strip_suffix(','))
            .filter(|line| !line.starts_with("//"))
            .collect();
        assert_eq!(names, MUTANTS.map(|(wait, _)| wait));
        for (_, test) in MUTANTS {
            assert!(tests.contains(&format!("fn {test}()")), "{test}");
        }
    }
}
