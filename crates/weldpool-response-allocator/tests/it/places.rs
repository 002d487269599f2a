//! Which memory outputs get.

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::{Allocator, Config, Device, StorageMode};
use weldpool_response_allocator::{MemoryType, Options, Place, ResponseAllocator, Source};
use weldpool_triton_sys::ErrorCode;

use crate::outputs::assert_all_released;
use crate::triton::{Command, Server, server};

const MIB: usize = 1 << 20;
const GPU: Place = Place {
    memory_type: MemoryType::Gpu,
    id: 0,
};

fn limited(device: Arc<dyn Device>, bytes: u64) -> Allocator {
    let config = Config {
        reserved_bytes_max: Some(bytes),
        wait_max: Duration::ZERO,
        ..Config::default()
    };
    Allocator::builder(device).config(config).build().unwrap()
}

fn host() -> Arc<dyn Device> {
    Arc::clone(Allocator::host().unwrap().device())
}

fn over(server: &Server, sources: impl IntoIterator<Item = Source>) -> ResponseAllocator {
    ResponseAllocator::with_functions(server.functions(None), sources, &Options::default()).unwrap()
}

fn shared(pool: &Allocator) -> Source {
    Source::pool(pool, StorageMode::Shared).unwrap()
}

#[test]
fn a_pool_at_its_limit_falls_back_to_the_next_and_then_to_plain_memory() {
    let Some(server) = server() else { return };
    let (first, second) = (limited(host(), 8 << 20), limited(host(), 4 << 20));
    let allocator = over(server, [shared(&first), shared(&second), Source::plain()]);
    let command = Command {
        responses: 10,
        bytes: 2 * MIB,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    let mut held = [0; 3];
    for (number, response) in responses.iter().enumerate() {
        let output = response.only();
        command.check(number, &output);
        assert_eq!(output.place, Place::CPU);
        let pools = [&first, &second].map(|pool| pool.find(output.address).is_some());
        match pools {
            [true, false] => held[0] += 1,
            [false, true] => held[1] += 1,
            _ => held[2] += 1,
        }
    }
    // The first was full after four at most, the second after two at most.
    assert!(
        (3..=4).contains(&held[0]) && (1..=2).contains(&held[1]),
        "{held:?}"
    );
    let stats = allocator.stats();
    assert_eq!(stats.fallbacks, held[1] + held[2], "{stats}");
    assert_eq!((stats.allocations, stats.failures), (10, 0));
    drop(responses);
    let again = Command {
        bytes: 2 * MIB,
        ..Command::default()
    };
    let responses = again.request().infer(server, &allocator);
    assert!(
        first.find(responses[0].only().address).is_some(),
        "it has room again"
    );
    drop(responses);
    assert_all_released(&first, &allocator);
    assert_eq!(second.stats().live.value, 0);
}

#[test]
fn without_a_fallback_the_response_says_that_memory_is_out_and_the_next_is_served() {
    let Some(server) = server() else { return };
    let pool = limited(host(), 4 << 20);
    let allocator = over(server, [shared(&pool)]);
    let large = Command {
        bytes: 6 * MIB,
        ..Command::default()
    };
    let responses = large.request().infer(server, &allocator);
    let (code, message) = responses[0].error().unwrap_err();
    assert_eq!(code, ErrorCode::Unavailable, "{message}");
    assert!(
        message.contains("output 'OUTPUT0'") && message.contains(pool.name()),
        "{message}"
    );
    // Two of three outputs fit; they are released with the response.
    let three = Command {
        outputs: 3,
        bytes: 3 * MIB / 2,
        ..Command::default()
    };
    let responses_of_three = three.request().infer(server, &allocator);
    assert_eq!(
        responses_of_three[0].error().unwrap_err().0,
        ErrorCode::Unavailable
    );
    drop((responses, responses_of_three));
    assert_eq!(allocator.stats().failures, 2);
    assert!(allocator.stats().releases >= 1);
    assert_all_released(&pool, &allocator);
    let small = Command::default();
    small.check(0, &small.request().infer(server, &allocator)[0].only());
    assert_all_released(&pool, &allocator);
}

#[test]
fn backends_get_the_memory_that_they_ask_for_and_are_told_of_it_before() {
    let Some(server) = server() else { return };
    let pinned = limited(Arc::new(FakeDiscrete::new().unwrap()), 64 << 20);
    let unified = limited(Arc::new(FakeApple::new().unwrap()), 64 << 20);
    let allocator = over(server, [shared(&unified), shared(&pinned)]);
    // There is no memory of a GPU's, which pinned memory is next to.
    for (wanted, served, pool) in [
        (Place::CPU, Place::CPU, &unified),
        (Place::PINNED, Place::PINNED, &pinned),
        (GPU, Place::PINNED, &pinned),
    ] {
        let command = Command {
            outputs: 2,
            place: wanted,
            query: true,
            ..Command::default()
        };
        let responses = command.request().infer(server, &allocator);
        for output in responses[0].outputs() {
            assert_eq!(output.place, served, "{wanted} was asked for");
            assert_eq!(
                pool.find(output.address).unwrap().address,
                output.address.addr()
            );
            command.check(0, &output);
        }
    }
    assert_eq!(allocator.stats().queries, 6);
    assert_all_released(&pinned, &allocator);
    assert_all_released(&unified, &allocator);
}
