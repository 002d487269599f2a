//! What Triton's core expects of the callbacks.

use weldpool::{Allocator, Config, Request, StorageMode};
use weldpool_triton_sys::ErrorCode;

use super::fake::{
    Attributes, RUBBISH, Recorded, Triton, allocator, allocator_of, another_error_new, fail_setter,
    functions_of, is_live, live_errors, made_by_another,
};
use crate::callbacks::guarded;
use crate::{Options, Source};

const CPU: (i32, i64) = (0, 0);
const GPU: (i32, i64) = (2, 0);
const MIB: usize = 1 << 20;

fn limited(bytes: u64) -> Allocator {
    let config = Config {
        reserved_bytes_max: Some(bytes),
        wait_max: std::time::Duration::ZERO,
        ..Config::default()
    };
    let device = Allocator::host().unwrap().device().clone();
    Allocator::builder(device).config(config).build().unwrap()
}

fn pooled(pool: &Allocator) -> Triton {
    let source = Source::pool(pool, StorageMode::Shared).unwrap();
    allocator([source], &Options::default())
}

fn knows(pool: &Allocator, recorded: &Recorded) -> bool {
    let found = pool.find(std::ptr::without_provenance(recorded.buffer));
    found.is_some_and(|block| {
        (block.address, block.bytes) == (recorded.buffer, recorded.bytes)
            && block.name.as_str() == "triton response"
    })
}

/// Rule 1: the type may differ from what is preferred; the buffer is written in any case.
#[test]
fn buffer_and_actual_memory_are_written_whatever_lay_there() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    let (told, given) = triton.alloc_alone(1000, GPU);
    told.unwrap();
    assert_eq!((given.memory_type, given.id), CPU, "there is no GPU");
    assert!(knows(&pool, &given), "{given:?}");
    triton.release(given).unwrap();

    let (told, given) = triton.alloc_alone(usize::MAX, CPU);
    let (code, message) = told.unwrap_err();
    assert_eq!(code, ErrorCode::InvalidArgument, "{message}");
    assert_eq!(
        (given.buffer, given.userp),
        (0, 0),
        "{RUBBISH:x} may not stay"
    );
    assert!(message.contains("output 'out'"), "{message}");
    assert_eq!(live_errors(), 0);
}

/// Rule 2: no bytes is success without a buffer, and nothing that a release would have to free.
#[test]
fn no_bytes_have_no_buffer_and_nothing_to_release() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    let output = triton.output(0, GPU).unwrap();
    assert_eq!(
        output,
        Recorded {
            buffer: 0,
            userp: 0,
            memory_type: 0,
            id: 0,
            bytes: 0
        }
    );
    triton.release(output).unwrap();
    let stats = triton.allocator.stats();
    assert_eq!((stats.empty, stats.allocations, stats.releases), (1, 0, 0));
    assert_eq!(pool.stats().live.value, 0);
}

/// Rule 3: after an error of the attributes function nobody calls release; it frees the buffer itself.
#[test]
fn a_buffer_whose_attributes_fail_is_freed_at_once() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    for setter in [1, 2, 3] {
        fail_setter(setter);
        let (code, message) = triton.output(MIB, CPU).unwrap_err();
        assert_eq!(code, ErrorCode::Internal);
        assert!(message.ends_with(": on purpose"), "{message}");
        assert_eq!(pool.stats().live.value, 0);
        // An output of no bytes has nothing to free.
        triton.output(0, CPU).unwrap_err();
    }
    fail_setter(0);
    let stats = triton.allocator.stats();
    assert_eq!((stats.allocations, stats.reclaimed), (3, 3));
    assert_eq!(
        (stats.releases, stats.live_buffers, stats.live_bytes),
        (0, 0, 0)
    );
    assert_eq!(live_errors(), 0);
}

/// Rule 4: attributes are not filled in before the function runs, so all of them are set.
#[test]
fn attributes_are_filled_in_completely() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    let (told, given) = triton.alloc_alone(12_345, GPU);
    told.unwrap();
    let attributes = triton.attributes(&given).unwrap();
    assert_eq!(
        attributes,
        Attributes {
            memory_type: 0,
            id: 0,
            bytes: 12_345
        }
    );
    triton.release(given).unwrap();
    let (_, empty) = triton.alloc_alone(0, GPU);
    assert_eq!(triton.attributes(&empty).unwrap(), Attributes::default());
}

/// Rule 5: release is given nothing but the buffer's own pointer, on any thread, and even after the allocator.
#[test]
fn release_needs_neither_the_allocator_nor_the_thread() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    let outputs: Vec<_> = [100, MIB, 5 * MIB]
        .map(|bytes| triton.output(bytes, CPU).unwrap())
        .into();
    assert_eq!(triton.allocator.stats().live_bytes, 100 + 6 * MIB as u64);
    let release = triton.releaser();
    let object = triton.allocator.as_ptr().addr();
    drop(triton);
    assert!(is_live(object), "buffers are out");
    let done = std::thread::spawn(move || {
        for output in outputs {
            release(output).unwrap();
        }
        live_errors()
    });
    assert_eq!(done.join().unwrap(), 0);
    assert_eq!(pool.stats().live.value, 0);
    assert!(!is_live(object));
}

/// Rule 6: the start function reports nothing, and comes once for each response.
#[test]
fn responses_are_counted() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    for _ in 0..3 {
        triton.start().unwrap();
    }
    assert_eq!(triton.allocator.stats().responses, 3);
}

/// Rule 6: the query function answers what an allocation gets, name and size unknown.
#[test]
fn queries_are_answered_as_allocations_are() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    for place in [CPU, (1, 0), GPU, (2, 7), (99, -1)] {
        let output = triton.output(64, place).unwrap();
        assert_eq!(
            triton.query(place).unwrap(),
            (output.memory_type, output.id)
        );
        triton.release(output).unwrap();
    }
    assert_eq!(triton.allocator.stats().queries, 5);
}

#[test]
fn memory_that_is_out_is_unavailable_until_some_is_released() {
    let pool = limited(8 << 20);
    let triton = pooled(&pool);
    let held = triton.output(6 * MIB, CPU).unwrap();
    let (code, message) = triton.output(6 * MIB, CPU).unwrap_err();
    assert_eq!(code, ErrorCode::Unavailable, "{message}");
    assert!(message.contains(pool.name()), "{message}");
    triton.release(held).unwrap();
    let again = triton.output(6 * MIB, CPU).unwrap();
    triton.release(again).unwrap();
    let stats = triton.allocator.stats();
    assert_eq!(
        (stats.failures, stats.allocations, stats.releases),
        (1, 2, 2)
    );
    assert_eq!(stats.live_bytes_peak, 6 * MIB as u64);
}

#[test]
fn null_where_triton_passes_none_is_an_error_and_touches_nothing() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool);
    let [alloc, attributes, query, start, release] = triton.nothing_but_null();
    for (told, name) in [
        (alloc, "buffer is null"),
        (attributes, "buffer_attributes is null"),
        (query, "memory_type is null"),
        (start, "response_allocator_userp is null"),
    ] {
        let (code, message) = told.unwrap_err();
        assert_eq!(code, ErrorCode::InvalidArgument);
        assert!(message.contains(name), "{message}");
    }
    release.unwrap();
    assert_eq!(live_errors(), 0);
}

/// A process may have a second Triton, whose errors only that one can read and delete.
#[test]
fn errors_are_made_by_the_triton_of_the_allocator() {
    let pool = limited(4 << 20);
    let first = pooled(&pool);
    let sources = [Source::pool(&pool, StorageMode::Shared).unwrap()];
    let second = allocator_of(functions_of(another_error_new), sources);
    let before = made_by_another();
    first.output(8 * MIB, CPU).unwrap_err();
    assert_eq!(made_by_another(), before);
    second.output(8 * MIB, CPU).unwrap_err();
    assert_eq!(made_by_another(), before + 1);
    let output = second.alloc_alone(1000, CPU).1;
    fail_setter(1);
    second.attributes(&output).unwrap_err();
    fail_setter(0);
    assert_eq!(made_by_another(), before + 2);
    assert_eq!(live_errors(), 0);
}

#[test]
fn a_panic_does_not_leave_a_callback() {
    let pool = limited(64 << 20);
    let triton = pooled(&pool); // so that errors can be made
    let error = guarded(None, || panic!("on purpose"));
    let (code, message) = super::fake::result(error).unwrap_err();
    assert_eq!(code, ErrorCode::Internal);
    assert!(message.starts_with("a panic"), "{message}");
    drop(triton);
}

#[test]
fn many_threads_at_once_leave_nothing() {
    let pool = limited(256 << 20);
    let triton = pooled(&pool);
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel();
        let triton = &triton;
        for thread in 0..4_usize {
            let send = send.clone();
            scope.spawn(move || {
                for turn in 0..500 {
                    fail_setter(if turn % 17 == 0 { 3 } else { 0 });
                    if let Ok(output) =
                        triton.output(1 + (thread * 7919 + turn * 104_729) % 300_000, CPU)
                    {
                        send.send(output).unwrap();
                    }
                }
                fail_setter(0);
            });
        }
        drop(send);
        for output in receive {
            triton.release(output).unwrap();
        }
    });
    let stats = triton.allocator.stats();
    assert_eq!((stats.allocations, stats.reclaimed), (2000, 120));
    assert_eq!(
        (stats.releases, stats.live_buffers, stats.live_bytes),
        (1880, 0, 0)
    );
    assert_eq!(pool.stats().live.value, 0);
    // The pool serves others as before.
    assert!(pool.allocate_with(&Request::new(MIB)).is_ok());
}
