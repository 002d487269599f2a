//! Which node's memory serves whom, and where it goes when it is freed.

use std::time::{Duration, Instant};

use weldpool::{Config, ErrorKind, Request, StorageMode};

use super::{LOOKED, allocator, devices, host, node_of, nodes, on, run_on, sum};

const SIZES: [usize; 5] = [100, 4096, 60_000, 1 << 20, 9 << 20];

#[test]
fn each_thread_is_served_from_its_own_node() {
    for count in [2, 4] {
        for device in devices(&nodes(count, None)) {
            let allocator = allocator(&device, Config::default());
            let mut held = Vec::new();
            for node in 0..count {
                held.extend(on(node, || {
                    let buffers = SIZES.map(|bytes| allocator.allocate(bytes).unwrap());
                    for buffer in &buffers {
                        assert_eq!(node_of(&allocator, buffer), node);
                    }
                    buffers
                }));
            }
            let stats = allocator.stats();
            assert_eq!(stats.nodes.len(), count as usize);
            for (number, node) in (0..).zip(&stats.nodes) {
                assert_eq!(node.number, number);
                assert_eq!(node.local_allocations, SIZES.len() as u64, "{node:?}");
                assert_eq!(node.remote_allocations, 0, "{node:?}");
                let wanted: usize = SIZES.iter().sum();
                assert!(node.block_bytes >= wanted as u64, "{node:?}");
                assert!(node.reserved.value >= node.block_bytes, "{node:?}");
            }
            assert_eq!(
                sum(&allocator, |node| node.reserved.value),
                stats.reserved.value
            );
            drop(held);
            let _bytes = allocator.clear();
            assert_eq!(allocator.stats().reserved.value, 0);
            assert_eq!(sum(&allocator, |node| node.reserved.value), 0);
        }
    }
}

#[test]
fn one_node_is_no_nodes() {
    for device in devices(&nodes(1, None)) {
        let allocator = allocator(&device, Config::default());
        let buffer = allocator.allocate(4096).unwrap();
        let address = buffer.binding().host.unwrap();
        assert_eq!(allocator.find(address.as_ptr()).unwrap().node, None);
        assert_eq!(allocator.stats().nodes, []);
        assert!(device.topology(StorageMode::Shared).is_none());
    }
}

/// A node that is out is helped out by the nearest, then by the others, and only then is memory out.
#[test]
fn a_node_that_is_out_borrows_from_the_nearest() {
    const EACH: u64 = 64 << 20;
    for device in devices(&nodes(4, Some(EACH))) {
        let allocator = allocator(&device, Config::default());
        run_on(1);
        let mut held = Vec::new();
        let error = loop {
            match allocator.allocate(6 << 20) {
                Ok(buffer) => held.push(buffer),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        let order: Vec<u32> = held
            .iter()
            .map(|buffer| node_of(&allocator, buffer))
            .collect();
        let mut wanted = order.clone();
        // Node 3 is an even distance from node 1, the others are further and alike.
        wanted.sort_by_key(|node| [2, 0, 3, 1][*node as usize]);
        assert_eq!(order, wanted);
        for node in 0..4 {
            let served = order.iter().filter(|&&one| one == node).count();
            assert_eq!(served, 10, "{order:?}");
        }
        let stats = allocator.stats();
        assert_eq!(stats.nodes[1].local_allocations, 10);
        assert_eq!(stats.nodes[1].remote_allocations, 30);
        assert!((stats.nodes[1].locality() - 0.25).abs() < 1e-9);
        assert!(stats.nodes.iter().all(|node| node.reserved.value <= EACH));
        assert_eq!(stats.memory_failures, 1);

        // With memory there again, it is the thread's own.
        held.clear();
        let _bytes = allocator.clear();
        assert_eq!(sum(&allocator, |node| node.reserved.value), 0);
        let again = allocator.allocate(6 << 20).unwrap();
        assert_eq!(node_of(&allocator, &again), 1);
    }
}

/// Small blocks of another node are obtained one by one: none lie in the thread's cache.
#[test]
fn small_blocks_are_borrowed_too() {
    let device = host(nodes(2, Some(1 << 20)));
    let allocator = allocator(&device, Config::default());
    run_on(0);
    let held: Vec<_> = (0..600)
        .map(|_| allocator.allocate(2048).unwrap())
        .collect();
    let remote = held
        .iter()
        .filter(|one| node_of(&allocator, one) == 1)
        .count();
    let stats = allocator.stats();
    assert!(remote > 50, "{:?}", stats.nodes);
    assert_eq!(stats.nodes[0].remote_allocations, remote as u64);
}

#[test]
fn bypassing_the_pool_has_nodes_too() {
    for device in devices(&nodes(2, Some(8 << 20))) {
        let config = Config {
            pooling: false,
            ..Config::default()
        };
        let allocator = allocator(&device, config);
        run_on(1);
        let first = allocator.allocate(6 << 20).unwrap();
        let second = allocator.allocate(6 << 20).unwrap();
        assert_eq!(
            [&first, &second].map(|one| node_of(&allocator, one)),
            [1, 0]
        );
        drop((first, second));
        assert_eq!(sum(&allocator, |node| node.reserved.value), 0);
    }
}

/// What is freed by a thread of another node serves its own node again, whether or not the thread that
/// freed it had a cache for such blocks.
#[test]
fn a_block_comes_home() {
    for device in devices(&nodes(2, None)) {
        for bytes in [512, 40_000, 3 << 20] {
            let allocator = allocator(&device, Config::default());
            run_on(0);
            let buffers: Vec<_> = (0..20)
                .map(|_| allocator.allocate(bytes).unwrap())
                .collect();
            let reserved = allocator.stats().nodes[0].reserved.value;
            on(1, || {
                drop(buffers);
                let own = allocator.allocate(bytes).unwrap();
                assert_eq!(node_of(&allocator, &own), 1);
            });
            assert_eq!(allocator.stats().nodes[0].returned_blocks, 20);
            let again: Vec<_> = (0..20)
                .map(|_| allocator.allocate(bytes).unwrap())
                .collect();
            for buffer in &again {
                assert_eq!(node_of(&allocator, buffer), 0);
            }
            assert_eq!(
                allocator.stats().nodes[0].reserved.value,
                reserved,
                "{bytes} bytes: its own memory was used again"
            );
        }
    }
}

/// A cache with room takes what is freed whatever its node; it does not hand it out for ever.
#[test]
fn a_cache_gives_up_what_is_not_of_its_node() {
    for sample_interval_bytes in [0, 512 << 10] {
        for device in devices(&nodes(2, None)) {
            let config = Config {
                sample_interval_bytes,
                ..Config::default()
            };
            let allocator = allocator(&device, config);
            let bytes = 4096;
            run_on(0);
            let foreign: Vec<_> = (0..8).map(|_| allocator.allocate(bytes).unwrap()).collect();
            on(1, || {
                // Opens the cache for this size.
                drop(allocator.allocate(bytes).unwrap());
                drop(foreign);
                let mut last_remote = 0;
                for number in 0..200_000 {
                    let buffer = allocator.allocate(bytes).unwrap();
                    // A look-up of every one would take long.
                    if number % 64 == 0 && node_of(&allocator, &buffer) == 0 {
                        last_remote = number;
                    }
                }
                assert!(last_remote < 100_000, "{last_remote}");
            });
            assert!(allocator.stats().nodes[0].returned_blocks >= 7);
        }
    }
}

#[test]
fn a_thread_that_moves_leaves_its_old_node_behind() {
    for device in devices(&nodes(2, None)) {
        let allocator = allocator(&device, Config::default());
        // No cache has blocks of such an alignment.
        let past = || {
            let request = Request::new(100).alignment(512);
            let mut node = None;
            for _ in 0..=LOOKED {
                let buffer = allocator.allocate_with(&request).unwrap();
                node = Some(node_of(&allocator, &buffer));
            }
            node
        };
        run_on(0);
        let small: Vec<_> = (0..40).map(|_| allocator.allocate(1000).unwrap()).collect();
        drop(small);
        run_on(1);
        // Nobody notices before the thread has come past its cache.
        let buffer = allocator.allocate(1000).unwrap();
        assert_eq!(node_of(&allocator, &buffer), 0);
        drop(buffer);
        assert_eq!(past(), Some(1));
        assert!(allocator.stats().nodes[0].returned_blocks >= 40);
        let buffer = allocator.allocate(1000).unwrap();
        assert_eq!(node_of(&allocator, &buffer), 1);
        // And back.
        run_on(0);
        assert_eq!(past(), Some(0));
        let buffer = allocator.allocate(1000).unwrap();
        assert_eq!(node_of(&allocator, &buffer), 0);
    }
}

/// Under a limit, what lies idle on another node makes way before it is borrowed.
#[test]
fn idle_memory_of_another_node_goes_back_first() {
    for device in devices(&nodes(2, None)) {
        let config = Config {
            reserved_bytes_max: Some(64 << 20),
            ..Config::default()
        };
        let allocator = allocator(&device, config);
        on(1, || drop(allocator.allocate(60 << 20).unwrap()));
        run_on(0);
        let buffer = allocator.allocate(60 << 20).unwrap();
        assert_eq!(node_of(&allocator, &buffer), 0);
        assert_eq!(allocator.stats().nodes[1].reserved.value, 0);
    }
}

/// A free hole of another node that cannot go back serves at last.
#[test]
fn what_cannot_go_back_is_borrowed() {
    // Segments here are returned whole.
    let [_, device] = devices(&nodes(2, None));
    let config = Config {
        reserved_bytes_max: Some(16 << 20),
        segment_bytes_min: 16 << 20,
        ..Config::default()
    };
    let allocator = allocator(&device, config);
    let kept = on(1, || allocator.allocate(1 << 20).unwrap());
    run_on(0);
    let buffer = allocator.allocate(4 << 20).unwrap();
    assert_eq!(node_of(&allocator, &buffer), 1);
    assert_eq!(allocator.stats().nodes[0].remote_allocations, 1);
    drop(kept);
}

#[test]
fn private_memory_of_a_discrete_device_has_no_nodes() {
    let [_, device] = devices(&nodes(2, None));
    let allocator = allocator(&device, Config::default());
    let request = Request::new(1 << 20).storage(StorageMode::Private);
    for node in 0..2 {
        on(node, || drop(allocator.allocate_with(&request).unwrap()));
    }
    let stats = allocator.stats();
    assert!(stats.reserved.value > 0);
    assert_eq!(sum(&allocator, |node| node.reserved.value), 0);
    assert_eq!(sum(&allocator, |node| node.local_allocations), 0);
}

/// Blocks freed in the order of a queue are kept apart as well.
#[test]
fn queues_have_memory_of_their_threads_node() {
    for device in devices(&nodes(2, None)) {
        let allocator = allocator(&device, Config::default());
        let queue = allocator.create_queue().unwrap();
        for node in [0, 1, 0, 1] {
            on(node, || {
                let request = Request::new(2 << 20).queue(&queue);
                for _ in 0..8 {
                    let buffer = allocator.allocate_with(&request).unwrap();
                    assert_eq!(node_of(&allocator, &buffer), node);
                    buffer.free_on(&queue);
                }
            });
        }
        // What is freed on a queue is everybody's once the queue has come so far.
        let start = Instant::now();
        while sum(&allocator, |node| node.reserved.value) > 0 {
            let _bytes = allocator.clear();
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }
}
