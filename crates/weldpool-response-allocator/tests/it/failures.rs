//! What goes wrong between Triton, a backend and the allocator.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use weldpool::{Allocator, StorageMode};
use weldpool_response_allocator::{Options, ResponseAllocator, Source};
use weldpool_triton_sys::{self as sys, ErrorCode};

use crate::outputs::{assert_all_released, pooled};
use crate::triton::{Command, server};

static ASKED: AtomicU32 = AtomicU32::new(0);

/// `TRITONSERVER_BufferAttributesSetByteSize` as it fails for every second buffer.
unsafe extern "C" fn set_byte_size(_: *mut sys::BufferAttributes, _: usize) -> *mut sys::Error {
    if ASKED.fetch_add(1, SeqCst).is_multiple_of(2) {
        // The core overwrites the size in any case.
        return std::ptr::null_mut();
    }
    server().map_or(std::ptr::null_mut(), |server| server.error("on purpose"))
}

/// Triton forgets a buffer whose attributes failed and never releases it.
#[test]
fn buffers_whose_attributes_fail_are_not_lost() {
    let Some(server) = server() else { return };
    let pool = Allocator::host().unwrap();
    let source = Source::pool(&pool, StorageMode::Shared).unwrap();
    let functions = server.functions(Some(set_byte_size));
    let allocator =
        ResponseAllocator::with_functions(functions, [source], &Options::default()).unwrap();
    let command = Command {
        outputs: 2,
        bytes: 100_000,
        ..Command::default()
    };
    for round in 1..=10 {
        let responses = command.request().infer(server, &allocator);
        let (code, message) = responses[0].error().unwrap_err();
        assert_eq!(code, ErrorCode::Internal);
        assert!(message.contains("on purpose"), "{message}");
        drop(responses);
        // The first output's buffer was released, the second's freed by its allocator.
        let stats = allocator.stats();
        assert_eq!((stats.releases, stats.reclaimed), (round, round), "{stats}");
        assert_all_released(&pool, &allocator);
    }
}

#[test]
fn an_output_has_one_buffer() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        outputs: 2,
        twice: true,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    for output in responses[0].outputs() {
        command.check(0, &output);
    }
    drop(responses);
    assert_eq!(allocator.stats().allocations, 2);
    assert_all_released(&pool, &allocator);
}

#[test]
fn outputs_of_a_response_that_is_an_error_are_released() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        responses: 3,
        outputs: 2,
        fail: true,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    assert_eq!(responses.len(), 3);
    for response in &responses {
        assert_eq!(response.error().unwrap_err().0, ErrorCode::Cancelled);
    }
    drop(responses);
    assert_eq!(allocator.stats().allocations, 6);
    assert_all_released(&pool, &allocator);
}
