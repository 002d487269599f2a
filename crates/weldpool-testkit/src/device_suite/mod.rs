//! The suite that every device runs, through the allocator and its queues; a file per topic.
//!
//! A device joins it with one line in a test binary:
//!
//! ```text
//! weldpool_testkit::device_suite!(host, || Arc::new(HostDevice::new().unwrap()));
//! ```

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these functions are tests: their names say what holds, and they report by panicking"
)]

mod case;
pub mod device;
pub mod ends;
pub mod faults;
pub mod guards;
pub mod limits;
pub mod memory;
mod probe;
pub mod queues;
pub mod threads;
pub mod transfers;
pub mod virtual_memory;
pub mod waste;
pub mod zero_copy;

use std::sync::Arc;

use weldpool::{Allocator, Buffer, Config, Device};

pub use self::case::Case;

/// Makes the device under test.
pub type MakeDevice = fn() -> Arc<dyn Device>;

/// Runs the suite on a device as a module of tests: `device_suite!(name, make)`.
///
/// The list of cases stands here alone; [`Case::all`](crate::device_suite::Case::all) is the same list for programs.
#[macro_export]
macro_rules! device_suite {
    ($name:ident, $make:expr) => {
        $crate::device_suite!(@list tests ($name, $make));
    };
    // Gives the list to one of the rules below, for items or for an expression.
    (@list $to:ident ($($arguments:tt)*)) => {
        $crate::device_suite! { @$to ($($arguments)*)
            device: [
                properties_and_budget_are_sane
            ],
            memory: [
                segments_are_aligned_disjoint_and_zero,
                a_freed_buffer_is_reused_without_a_driver_call,
                every_size_and_alignment_is_kept,
                every_storage_mode_keeps_contents,
                addresses_find_their_buffers,
                registered_memory_is_used_where_it_is
            ],
            virtual_memory: [
                mapped_memory_is_what_was_obtained,
                every_failing_virtual_memory_call_changes_nothing
            ],
            limits: [
                wrong_requests_are_errors,
                a_limit_is_an_error_that_passes,
                pre_allocation_clear_and_pooling,
                presets_start_and_stop_where_documented,
                the_preset_pooling_keeps_few_of_each_size,
                idle_memory_has_a_limit,
                segments_outgrown_give_way
            ],
            guards: [
                guards_check_type_length_and_each_other,
                private_storage_refuses_the_host,
                work_in_flight_keeps_guards_away
            ],
            queues: [
                freed_memory_waits_for_its_fence,
                queues_wait_for_each_other,
                a_queue_may_be_dropped_before_its_work,
                a_fence_that_never_passes_costs_only_its_memory,
                a_function_frees_on_its_own_queue_while_others_fill_it,
                functions_see_what_came_before_and_work_sees_what_they_wrote,
                copies_check_length_and_overlap
            ],
            threads: [
                threads_share_one_pool
            ],
            transfers: [
                every_place_copies_to_every_other,
                rows_are_copied_and_what_lies_between_is_left,
                copies_that_do_not_fit_are_errors,
                copies_wait_for_work_that_uses_either_side,
                copies_and_allocations_are_futures,
                a_cancelled_copy_is_a_prefix,
                a_cancelled_copy_is_over_whatever_the_driver_says,
                a_copy_cancelled_before_it_begins_asks_the_driver_for_nothing,
                a_dropped_copy_gives_everything_back,
                queues_write_and_read_host_memory_in_order,
                registered_memory_is_copied_where_it_is,
                threads_copy_at_once,
                every_failing_call_of_a_copy_is_survived
            ],
            ends: [
                leaks_are_reported_by_name,
                buffers_outlive_their_allocator
            ],
            waste: [
                waste_is_told_apart_at_every_step
            ],
            zero_copy: [
                adopted_memory_is_there_either_way,
                buffers_have_objects_or_say_why_not
            ],
            faults: [
                every_failing_driver_call_is_survived
            ]
        }
    };
    (@tests ($name:ident, $make:expr) $($topic:ident: [$($case:ident),+]),+) => {
        mod $name {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $crate::device_suite::$topic::$case($make);
                }
            )+)+
        }
    };
    (@table () $($topic:ident: [$($case:ident),+]),+) => {
        &[$($(
            $crate::device_suite::Case::new(
                stringify!($topic),
                stringify!($case),
                $crate::device_suite::$topic::$case,
            )
        ),+),+]
    };
}

fn allocator(make: MakeDevice) -> Allocator {
    Allocator::builder(make()).build().unwrap()
}

fn with_config(make: MakeDevice, change: impl FnOnce(&mut Config)) -> Allocator {
    let mut config = Config::default();
    change(&mut config);
    Allocator::builder(make()).config(config).build().unwrap()
}

fn address(buffer: &Buffer) -> usize {
    buffer.binding().host.unwrap().as_ptr().addr()
}
