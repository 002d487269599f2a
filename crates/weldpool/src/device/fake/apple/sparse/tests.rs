#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::time::Duration;

use super::*;
use crate::device::StorageMode::{Private, Shared};
use crate::device::fake::{FakeApple, FakeAppleBuilder, PurgeableState};
use crate::device::metal::raw::{
    Allocation, BlitEncoder as _, CommandBuffer as _, CommandQueue as _, Encoder as _,
    MappingQueue as _, Metal as _, ResidencySet as _,
};
use crate::error::ErrorKind;

const SIZE: SparsePageSize = SparsePageSize::Size64;
const PAGE: usize = SIZE.bytes();

/// The model, a queue that maps, one that works, and what tells how far both have come. Queues are numbered in that order.
struct Bench {
    device: FakeApple,
    metal: Metal,
    mappings: MappingQueue,
    queue: super::super::commands::Queue,
    mapped: Event,
    done: Event,
}

fn bench_of(builder: FakeAppleBuilder) -> Bench {
    let device = builder.build().unwrap();
    let metal = device.metal().clone();
    Metal::pooled(|| Bench {
        mappings: metal.new_mapping_queue("mappings").unwrap(),
        queue: metal.new_command_queue(64).unwrap(),
        mapped: metal.new_shared_event().unwrap(),
        done: metal.new_shared_event().unwrap(),
        device,
        metal,
    })
}

fn bench() -> Bench {
    bench_of(FakeApple::builder().seed(5))
}

fn tiles(first: usize, count: usize) -> Tiles {
    Tiles {
        page: SIZE,
        first,
        count,
    }
}

impl Bench {
    fn heap(&self, pages: usize) -> Heap {
        self.metal
            .new_sparse_heap(pages * PAGE, Private, SIZE)
            .unwrap()
    }

    fn buffer(&self, pages: usize) -> Buffer {
        self.metal
            .new_sparse_buffer(pages * PAGE, Private, SIZE)
            .unwrap()
    }

    /// Keeps a heap resident.
    fn set(&self, heap: &Heap) -> Set {
        let set = self.metal.new_residency_set("set").unwrap();
        set.add(Allocation::Heap(heap));
        set.commit();
        self.queue.add_residency_set(&set);
        set
    }

    /// Fills bytes once the event has a value, and waits for that; the rules broken until then.
    fn fill(&self, buffer: &Buffer, at: usize, bytes: usize, wait: u64, value: u64) -> Vec<Rule> {
        self.submit(buffer, at, bytes, wait, value);
        assert!(raw::SharedEvent::wait(&self.done, value, 60_000));
        self.rules()
    }

    fn submit(&self, buffer: &Buffer, at: usize, bytes: usize, wait: u64, value: u64) {
        let commands = self.queue.command_buffer().unwrap();
        if wait > 0 {
            commands.wait_for(&self.mapped, wait);
        }
        let blit = commands.blit_encoder().unwrap();
        blit.fill(buffer, at..at + bytes, 7);
        blit.end();
        commands.signal(&self.done, value);
        commands.commit();
    }

    fn rules(&self) -> Vec<Rule> {
        let broken = self.device.violations();
        broken.iter().map(|violation| violation.rule).collect()
    }
}

fn queue_wait(event: &Event, value: u64) -> bool {
    crate::device::Timeline::wait(event, value, Some(Duration::from_secs(60))).unwrap()
}

fn in_a_pool(test: impl FnOnce()) {
    Metal::pooled(test);
}

#[test]
fn mapped_pages_are_used_behind_the_event_of_their_update() {
    in_a_pool(|| {
        let bench = bench();
        let (heap, buffer) = (bench.heap(4), bench.buffer(8));
        let _set = bench.set(&heap);
        assert_eq!(buffer.contents(), None);
        // The heap's last two tiles, at two places.
        bench.mappings.map(&buffer, tiles(1, 2), &heap, 2).unwrap();
        bench.mappings.map(&buffer, tiles(5, 2), &heap, 2).unwrap();
        bench.mappings.signal(&bench.mapped, 1);
        assert_eq!(bench.fill(&buffer, PAGE, 2 * PAGE, 1, 1), []);
        assert_eq!(bench.fill(&buffer, 6 * PAGE - 8, 16, 1, 2), []);
    });
}

#[test]
fn an_update_names_pages_and_tiles_that_there_are() {
    in_a_pool(|| {
        let bench = bench();
        let (heap, buffer) = (bench.heap(4), bench.buffer(8));
        let plain = bench.metal.new_buffer(8 * PAGE, Private).unwrap();
        let untold = raw::Metal::new_heap(&bench.metal, 4 * PAGE, Private).unwrap();
        let smaller = bench
            .metal
            .new_sparse_heap(4 * PAGE, Private, SparsePageSize::Size16)
            .unwrap();
        let shared = bench.metal.new_sparse_heap(4 * PAGE, Shared, SIZE).unwrap();
        let other_page = Tiles {
            page: SparsePageSize::Size16,
            ..tiles(0, 1)
        };
        for (buffer, pages, heap, tile, rule) in [
            (&plain, tiles(0, 1), &heap, 0, Rule::SparsePages),
            (&buffer, other_page, &heap, 0, Rule::SparsePages),
            (&buffer, tiles(0, 1), &untold, 0, Rule::SparsePages),
            (&buffer, tiles(0, 1), &smaller, 0, Rule::SparsePages),
            (&buffer, tiles(0, 1), &shared, 0, Rule::SparseStorage),
            (&buffer, tiles(7, 2), &heap, 0, Rule::InsideBuffer),
            (&buffer, tiles(usize::MAX, 2), &heap, 0, Rule::InsideBuffer),
            (&buffer, tiles(0, 0), &heap, 0, Rule::InsideBuffer),
            (&buffer, tiles(0, 2), &heap, 3, Rule::InsideHeap),
        ] {
            let error = bench.mappings.map(buffer, pages, heap, tile).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
            assert_eq!(bench.rules().last(), Some(&rule), "{error}");
        }
        for (buffer, pages, rule) in [
            (&plain, tiles(0, 1), Rule::SparsePages),
            (&buffer, tiles(8, 1), Rule::InsideBuffer),
        ] {
            bench.mappings.unmap(buffer, pages).unwrap_err();
            assert_eq!(bench.rules().last(), Some(&rule));
        }
        // A heap for larger pages does.
        let larger = bench
            .metal
            .new_sparse_heap(4 * PAGE, Private, SparsePageSize::Size256)
            .unwrap();
        let before = bench.rules().len();
        bench
            .mappings
            .map(&buffer, tiles(0, 1), &larger, 0)
            .unwrap();
        assert_eq!(bench.rules().len(), before);
    });
}

#[test]
fn sparse_buffers_are_whole_pages_of_private_storage_up_to_the_longest() {
    in_a_pool(|| {
        let longest = 16 * PAGE;
        let bench = bench_of(FakeApple::builder().max_buffer_length(longest as u64));
        let make = |length, storage| bench.metal.new_sparse_buffer(length, storage, SIZE);
        for (length, storage, rule) in [
            (0, Private, Rule::SparsePages),
            (PAGE + 1, Private, Rule::SparsePages),
            (PAGE, Shared, Rule::SparseStorage),
            (longest + PAGE, Private, Rule::BufferLength),
        ] {
            make(length, storage).unwrap_err();
            assert_eq!(bench.rules().last(), Some(&rule), "{length} {storage}");
        }
        let before = bench.metal.current_allocated_size();
        let buffer = make(longest, Private).unwrap();
        assert_eq!(bench.metal.current_allocated_size(), before, "no memory");
        assert!(buffer.gpu_address().is_multiple_of(PAGE as u64));
    });
}

#[test]
fn work_that_does_not_wait_for_its_mapping_is_found_however_late_it_runs() {
    in_a_pool(|| {
        let bench = bench();
        let (heap, buffer) = (bench.heap(2), bench.buffer(4));
        let _set = bench.set(&heap);
        bench.mappings.map(&buffer, tiles(0, 1), &heap, 0).unwrap();
        bench.mappings.signal(&bench.mapped, 1);
        bench.mappings.map(&buffer, tiles(1, 1), &heap, 1).unwrap();
        bench.mappings.signal(&bench.mapped, 2);
        assert!(queue_wait(&bench.mapped, 2));
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 1), []);
        // Another command buffer waited, but no fence orders this one behind it.
        assert_eq!(bench.fill(&buffer, 64, 4, 0, 2), [Rule::MappingAwaited]);
        // What was waited for is an update before.
        let two = [Rule::MappingAwaited; 2];
        assert_eq!(bench.fill(&buffer, PAGE, 4, 1, 3), two);
        assert_eq!(bench.fill(&buffer, PAGE, 4, 2, 4), two);
    });
}

#[test]
fn work_touches_pages_that_are_mapped_when_it_runs() {
    in_a_pool(|| {
        let bench = bench();
        let (heap, buffer) = (bench.heap(2), bench.buffer(4));
        let _set = bench.set(&heap);
        assert_eq!(bench.fill(&buffer, 0, 4, 0, 1), [Rule::Mapped]);
        bench.mappings.map(&buffer, tiles(0, 2), &heap, 0).unwrap();
        bench.mappings.signal(&bench.mapped, 1);
        let mut broken = vec![Rule::Mapped; 2];
        let over = bench.fill(&buffer, 2 * PAGE - 4, 8, 1, 2);
        assert_eq!(over, broken, "one byte too far");
        bench.mappings.unmap(&buffer, tiles(1, 1)).unwrap();
        bench.mappings.signal(&bench.mapped, 2);
        assert_eq!(bench.fill(&buffer, 0, PAGE, 2, 3), broken, "the first is");
        broken.push(Rule::Mapped);
        assert_eq!(bench.fill(&buffer, PAGE, 4, 2, 4), broken);
    });
}

#[test]
fn the_heap_behind_a_page_is_alive_resident_and_not_volatile() {
    in_a_pool(|| {
        let bench = bench();
        let (heap, buffer) = (bench.heap(1), bench.buffer(1));
        bench.mappings.map(&buffer, tiles(0, 1), &heap, 0).unwrap();
        bench.mappings.signal(&bench.mapped, 1);
        let mut broken = vec![Rule::SparseResident];
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 1), broken, "in no set");
        let set = bench.metal.new_residency_set("set").unwrap();
        bench.queue.add_residency_set(&set);
        set.add(Allocation::Heap(&heap));
        broken.push(Rule::SparseResident);
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 2), broken, "not committed");
        set.commit();
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 3), broken);
        raw::Heap::set_purgeable_state(&heap, PurgeableState::Volatile);
        broken.push(Rule::NotVolatile);
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 4), broken);
        raw::Heap::set_purgeable_state(&heap, PurgeableState::NonVolatile);
        set.remove(Allocation::Heap(&heap));
        set.commit();
        drop(heap);
        broken.push(Rule::NotReleased);
        assert_eq!(bench.fill(&buffer, 0, 4, 1, 5), broken);
    });
}

#[test]
fn what_an_update_names_lives_until_it_is_done() {
    in_a_pool(|| {
        let bench = bench_of(FakeApple::builder().manual(true));
        let (heap, buffer) = (bench.heap(1), bench.buffer(1));
        bench.mappings.map(&buffer, tiles(0, 1), &heap, 0).unwrap();
        drop(heap);
        bench.device.control().run_all();
        assert_eq!(bench.rules(), [Rule::MappingKept]);
        let heap = bench.heap(1);
        bench.mappings.map(&buffer, tiles(0, 1), &heap, 0).unwrap();
        bench.device.control().run_all();
        assert_eq!(bench.rules().len(), 1);
        bench.mappings.unmap(&buffer, tiles(0, 1)).unwrap();
        drop(buffer);
        bench.device.control().run_all();
        assert_eq!(bench.rules(), [Rule::MappingKept; 2]);
    });
}

#[test]
fn there_are_sparse_buffers_only_with_metal_4_and_pages_that_the_device_has() {
    in_a_pool(|| {
        for builder in [
            FakeApple::builder().macos(15),
            FakeApple::builder().metal4(false),
        ] {
            let device = builder.build().unwrap();
            let metal = device.metal();
            metal.new_sparse_buffer(PAGE, Private, SIZE).unwrap_err();
            metal.new_sparse_heap(PAGE, Private, SIZE).unwrap_err();
            let broken = device.violations();
            assert!(broken.iter().all(|one| one.rule == Rule::SparseOffered));
            assert_eq!(broken.len(), 2);
        }
        let bench = bench_of(FakeApple::builder().sparse_page_max(SparsePageSize::Size16));
        // That is no broken rule: Metal makes none.
        let error = bench.metal.new_sparse_buffer(PAGE, Private, SIZE);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(bench.rules(), []);
    });
}

#[test]
fn calls_outside_of_an_autorelease_pool_are_found() {
    let bench = bench();
    let (heap, buffer) = Metal::pooled(|| (bench.heap(1), bench.buffer(1)));
    let update = || bench.mappings.map(&buffer, tiles(0, 1), &heap, 0).unwrap();
    Metal::pooled(update);
    assert_eq!(bench.rules(), []);
    update();
    bench.mappings.signal(&bench.mapped, 1);
    assert_eq!(bench.rules(), [Rule::AutoreleasePool; 2]);
    assert!(queue_wait(&bench.mapped, 1));
}
