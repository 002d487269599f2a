//! What outputs are, where they lie, and when they go.

use weldpool::{Allocator, StorageMode};
use weldpool_response_allocator::{Options, Place, ResponseAllocator, Source};
use weldpool_triton_sys::DataType;

use crate::triton::{Command, Request, Server, server};

/// A pool of the host's, and an allocator on it.
pub(crate) fn pooled(server: &Server) -> (Allocator, ResponseAllocator) {
    let pool = Allocator::host().unwrap();
    let source = Source::pool(&pool, StorageMode::Shared).unwrap();
    let functions = server.functions(None);
    let allocator =
        ResponseAllocator::with_functions(functions, [source], &Options::default()).unwrap();
    (pool, allocator)
}

/// That everything which was handed out came back.
pub(crate) fn assert_all_released(pool: &Allocator, allocator: &ResponseAllocator) {
    let stats = allocator.stats();
    assert_eq!(
        stats.allocations,
        stats.releases + stats.reclaimed,
        "{stats}"
    );
    assert_eq!((stats.live_buffers, stats.live_bytes), (0, 0), "{stats}");
    assert_eq!(pool.stats().live.value, 0);
}

fn identity(values: &[f32]) -> Request {
    Request {
        model: c"identity",
        input: c"INPUT0",
        data_type: DataType::Fp32,
        shape: values.len() as i64,
        data: values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect(),
    }
}

#[test]
fn results_are_right_and_lie_in_the_pool() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    for count in [1_u16, 16, 1000, 60_000] {
        let values: Vec<f32> = (0..count).map(|number| f32::from(number) / 3.0).collect();
        let responses = identity(&values).infer(server, &allocator);
        assert_eq!(responses.len(), 1);
        let output = responses[0].only();
        let expected: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();
        assert_eq!(output.name, "OUTPUT0");
        assert_eq!(output.bytes, expected);
        assert_eq!(output.place, Place::CPU);
        let block = pool.find(output.address).expect("it is the pool's memory");
        assert_eq!(block.address, output.address.addr());
        assert_eq!(
            (block.bytes, block.name.as_str()),
            (expected.len(), "triton response")
        );
        assert_eq!(allocator.stats().live_bytes, expected.len() as u64);
    }
    let stats = allocator.stats();
    assert_eq!(
        (stats.responses, stats.allocations, stats.releases),
        (4, 4, 4)
    );
    assert_all_released(&pool, &allocator);
}

/// As a program makes it, that has loaded Triton and knows nothing of tables of functions.
#[test]
fn tritons_functions_are_found_in_the_process() {
    let Some(server) = server() else { return };
    let pool = Allocator::host().unwrap();
    let source = Source::pool(&pool, StorageMode::Shared).unwrap();
    let allocator = ResponseAllocator::new([source], &Options::default()).unwrap();
    let command = Command::default();
    let responses = command.request().infer(server, &allocator);
    let output = responses[0].only();
    command.check(0, &output);
    assert!(pool.find(output.address).is_some());
    drop(responses);
    assert_eq!(allocator.stats().releases, 1);
    assert_all_released(&pool, &allocator);
}

#[test]
fn memory_is_used_again() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    for _ in 0..50 {
        identity(&[1.0; 10_000]).infer(server, &allocator);
    }
    let stats = pool.stats();
    assert!(stats.reserved.total <= 4 << 20, "{stats}");
    assert_eq!(allocator.stats().live_bytes_peak, 40_000);
    assert_all_released(&pool, &allocator);
}

#[test]
fn outputs_without_bytes_have_no_buffer() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        outputs: 3,
        bytes: 0,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    let outputs = responses[0].outputs();
    assert_eq!(outputs.len(), 3);
    for output in outputs {
        assert!(
            output.address.is_null() && output.userp.is_null(),
            "{output:?}"
        );
        assert!(output.bytes.is_empty());
    }
    drop(responses);
    let stats = allocator.stats();
    assert_eq!((stats.empty, stats.allocations, stats.releases), (3, 0, 0));
    assert_all_released(&pool, &allocator);
}

#[test]
fn each_response_of_a_decoupled_model_has_buffers_of_its_own() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        responses: 20,
        outputs: 4,
        bytes: 5000,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    assert_eq!(responses.len(), 20);
    let mut addresses = std::collections::BTreeSet::new();
    for (number, response) in responses.iter().enumerate() {
        for output in response.outputs() {
            command.check(number, &output);
            assert!(addresses.insert(output.address));
        }
    }
    let stats = allocator.stats();
    assert_eq!((stats.responses, stats.live_buffers), (20, 80));
    assert_eq!(stats.live_bytes, 80 * 5000);
    drop(responses);
    assert_eq!(allocator.stats().releases, 80);
    assert_all_released(&pool, &allocator);
}

#[test]
fn responses_may_outlive_the_allocator() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        outputs: 3,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    drop(allocator);
    assert_eq!(pool.stats().live.value, 3000);
    for output in responses[0].outputs() {
        command.check(0, &output);
    }
    drop(responses);
    assert_eq!(pool.stats().live.value, 0);
}
