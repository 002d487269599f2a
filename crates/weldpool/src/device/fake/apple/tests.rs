//! Each rule of the model that only the device's own calls can break: what breaks it is noticed, and what keeps it is not.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::commands::Queue;
use super::event::Event;
use super::fence::Fence;
use super::heap::{Buffer, Heap};
use super::metal::Metal;
use super::pools::pooled;
use super::residency::{Figures, Set};
use super::{AppleGpu, FakeApple};
use crate::allocator::Allocator;
use crate::binding::Resource;
use crate::device::StorageMode;
use crate::device::fake::Rule;
use crate::device::metal::ResidencyConfig;
use crate::device::metal::raw::{
    Allocation, BlitEncoder as _, CommandBuffer as _, CommandQueue as _, ComputeEncoder as _,
    Encoder as _, Metal as _, ResidencySet as _, SharedEvent as _,
};
use crate::error::ErrorKind;
use crate::registered::MappedFile;
use crate::sync::Arc;

const PAGE: usize = 16 << 10;

/// A model, and what is made of it.
struct Made {
    device: FakeApple,
    metal: Metal,
    queue: Queue,
    heap: Heap,
    buffer: Buffer,
    fence: Fence,
    event: Event,
}

/// Runs `work` in a pool with objects of a new model, and says which rules were broken.
fn broken(work: impl FnOnce(&Made)) -> Vec<Rule> {
    let device = FakeApple::new().unwrap();
    let metal = device.metal().clone();
    pooled(|| {
        let heap = metal.new_heap_of(4 * PAGE);
        let made = Made {
            queue: metal.new_command_queue(64).unwrap(),
            buffer: heap.new_buffer(4 * PAGE, 0).unwrap(),
            heap,
            fence: metal.new_fence().unwrap(),
            event: metal.new_shared_event().unwrap(),
            device,
            metal,
        };
        work(&made);
        finish(&made);
        let violations = made.device.violations();
        violations.iter().map(|violation| violation.rule).collect()
    })
}

impl Metal {
    fn new_heap_of(&self, bytes: usize) -> Heap {
        <Self as super::super::super::metal::raw::Metal>::new_heap(self, bytes, StorageMode::Shared)
            .unwrap()
    }
}

/// Waits until what was committed is done.
fn finish(made: &Made) {
    finish_of(&made.queue);
}

fn finish_of(queue: &Queue) {
    let (done, is_done) = std::sync::mpsc::channel();
    let Ok(commands) = queue.command_buffer() else {
        // It is lost.
        return;
    };
    commands.on_completed(Box::new(move |_| done.send(()).unwrap()));
    commands.commit();
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
}

/// Commits a pass that fills a page.
fn fill(made: &Made, page: usize, fenced: bool) {
    fill_by(&made.queue, made, page, fenced);
}

fn fill_by(queue: &Queue, made: &Made, page: usize, fenced: bool) {
    let commands = queue.command_buffer().unwrap();
    let blit = commands.blit_encoder().unwrap();
    if fenced {
        blit.wait_for_fence(&made.fence);
    }
    blit.fill(&made.buffer, page * PAGE..(page + 1) * PAGE, 1);
    if fenced {
        blit.update_fence(&made.fence);
    }
    blit.end();
    commands.commit();
}

#[test]
fn blits_are_of_multiples_of_four() {
    for (offset, bytes, fault) in [(4, 8, false), (2, 8, true), (4, 6, true)] {
        let broken = broken(|made| {
            let commands = made.queue.command_buffer().unwrap();
            let blit = commands.blit_encoder().unwrap();
            blit.copy((&made.buffer, offset), (&made.buffer, PAGE), bytes);
            blit.end();
            commands.commit();
        });
        assert_eq!(
            broken.contains(&Rule::BlitAlignment),
            fault,
            "{offset} {bytes}"
        );
        assert!(broken.iter().all(|rule| *rule == Rule::BlitAlignment));
    }
}

#[test]
fn encoders_follow_one_another_and_end_before_the_commit() {
    type Case = fn(&Made);
    let cases: [(Case, bool); 6] = [
        (|made| fill(made, 0, false), false),
        (
            |made| {
                let commands = made.queue.command_buffer().unwrap();
                let first = commands.blit_encoder().unwrap();
                assert!(commands.blit_encoder().is_err());
                first.end();
            },
            true,
        ),
        (
            |made| {
                let commands = made.queue.command_buffer().unwrap();
                let blit = commands.blit_encoder().unwrap();
                commands.commit();
                blit.end();
            },
            true,
        ),
        (
            |made| {
                let commands = made.queue.command_buffer().unwrap();
                let blit = commands.blit_encoder().unwrap();
                commands.signal(&made.event, 1);
                blit.end();
            },
            true,
        ),
        (
            |made| {
                let commands = made.queue.command_buffer().unwrap();
                commands.commit();
                commands.commit();
            },
            true,
        ),
        (
            // Released at the end of the pool.
            |made| pooled(|| drop(made.queue.command_buffer().unwrap().blit_encoder())),
            true,
        ),
    ];
    for (number, (case, fault)) in cases.into_iter().enumerate() {
        let expected: &[Rule] = if fault { &[Rule::OneEncoder] } else { &[] };
        assert_eq!(broken(case), expected, "case {number}");
    }
}

#[test]
fn passes_that_write_the_same_memory_need_a_fence() {
    let twice = |fenced: bool| {
        broken(|made| {
            fill(made, 0, fenced);
            fill(made, 1, fenced);
            fill(made, 0, fenced);
        })
    };
    assert_eq!(twice(true), []);
    assert_eq!(twice(false), [Rule::Ordered]);
}

/// Commits a pass that fills a page, and has the GPU or the host signal behind it.
fn signalled(made: &Made, by_gpu: bool) {
    let commands = made.queue.command_buffer().unwrap();
    let blit = commands.blit_encoder().unwrap();
    blit.fill(&made.buffer, 0..PAGE, 1);
    blit.end();
    if by_gpu {
        commands.signal(&made.event, 1);
    }
    commands.commit();
    finish(made);
    if !by_gpu {
        made.event.set_signaled_value(1);
    }
}

/// It was told to a handler and has long run; but a handler orders no memory for the device's code.
#[test]
fn a_pass_is_in_the_way_until_the_host_has_seen_an_event_behind_it() {
    type See = fn(&Event);
    let cases: [(See, bool, &[Rule]); 5] = [
        (|_| (), true, &[Rule::Ordered]),
        (|event| assert_eq!(event.signaled_value(), 1), true, &[]),
        (|event| assert!(event.wait(1, 60_000)), true, &[]),
        (
            |event| {
                let (say, said) = std::sync::mpsc::channel();
                event.notify(1, Box::new(move || say.send(()).unwrap()));
                said.recv_timeout(Duration::from_secs(60)).unwrap();
            },
            true,
            &[],
        ),
        // What the host has signalled itself proves nothing.
        (
            |event| assert_eq!(event.signaled_value(), 1),
            false,
            &[Rule::Ordered],
        ),
    ];
    for (number, (see, by_gpu, expected)) in cases.into_iter().enumerate() {
        let broken = broken(|made| {
            signalled(made, by_gpu);
            see(&made.event);
            fill(made, 0, false);
        });
        assert_eq!(broken, expected, "case {number}");
    }
}

#[test]
fn what_a_lost_queue_has_done_is_over_when_the_host_was_told() {
    for lost in [true, false] {
        let broken = broken(|made| {
            fill(made, 0, false);
            let other = made.metal.new_command_queue(64).unwrap();
            finish(made);
            if lost {
                let (say, said) = std::sync::mpsc::channel();
                made.device.control().hang(0);
                let commands = made.queue.command_buffer().unwrap();
                commands.on_completed(Box::new(move |outcome| say.send(outcome).unwrap()));
                commands.commit();
                made.device.control().lose_queue(0);
                let outcome = said.recv_timeout(Duration::from_secs(60)).unwrap();
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeviceLost);
            }
            fill_by(&other, made, 0, false);
            finish_of(&other);
        });
        let expected: &[Rule] = if lost { &[] } else { &[Rule::Ordered] };
        assert_eq!(broken, expected);
    }
}

#[test]
fn memory_that_was_freed_and_is_given_out_again_was_touched_by_nobody() {
    let broken = broken(|made| {
        let mut places = Vec::new();
        for _ in 0..2 {
            pooled(|| {
                let heap = made.metal.new_heap_of(PAGE);
                let buffer = heap.new_buffer(PAGE, 0).unwrap();
                places.push(buffer.gpu_address());
                let commands = made.queue.command_buffer().unwrap();
                let blit = commands.blit_encoder().unwrap();
                blit.fill(&buffer, 0..PAGE, 1);
                blit.end();
                commands.commit();
            });
            // The command buffer keeps the memory until its end.
            let end = Instant::now() + Duration::from_secs(60);
            while made.metal.current_allocated_size() > 4 * PAGE as u64 {
                assert!(Instant::now() < end);
                thread::yield_now();
            }
        }
        assert_eq!(places[0], places[1], "the same addresses");
    });
    assert_eq!(broken, []);
}

#[test]
fn handlers_are_added_before_the_commit() {
    let broken = broken(|made| {
        let commands = made.queue.command_buffer().unwrap();
        commands.on_completed(Box::new(|_| ()));
        commands.commit();
        commands.on_completed(Box::new(|_| panic!("it is never called")));
    });
    assert_eq!(broken, [Rule::HandlerAfterCommit]);
}

#[test]
fn few_bytes_are_set_without_a_buffer() {
    for (bytes, fault) in [(0, true), (1, false), (4096, false), (4097, true)] {
        let broken = broken(|made| {
            let commands = made.queue.command_buffer().unwrap();
            let encoder = commands.compute_encoder().unwrap();
            encoder.set_bytes(&vec![0; bytes], 2);
            encoder.end();
        });
        let expected: &[Rule] = if fault { &[Rule::BytesLength] } else { &[] };
        assert_eq!(broken, expected, "{bytes}");
    }
}

#[test]
fn an_encoder_that_has_ended_takes_no_calls() {
    let broken = broken(|made| {
        let commands = made.queue.command_buffer().unwrap();
        let encoder = commands.compute_encoder().unwrap();
        encoder.end();
        encoder.set_bytes(&[0], 2);
    });
    assert_eq!(broken, [Rule::OneEncoder]);
}

#[test]
fn encoders_are_used_in_autorelease_pools() {
    let made = FakeApple::new().unwrap();
    let metal = made.metal();
    let (encoder, pipeline, heap) = pooled(|| {
        let queue = metal.new_command_queue(64).unwrap();
        let commands = queue.command_buffer().unwrap();
        let encoder = commands.compute_encoder().unwrap();
        let pipeline = metal.new_pipeline("", "weldpool_fill").unwrap();
        (encoder, pipeline, metal.new_heap_of(PAGE))
    });
    let buffer = heap.new_buffer(PAGE, 0).unwrap();
    assert_eq!(made.violations(), []);
    encoder.set_pipeline(&pipeline);
    encoder.set_buffer(&buffer, 0, 1);
    encoder.set_bytes(&[0; 16], 2);
    encoder.dispatch(4);
    pooled(|| encoder.end());
    let rules = made.violations().into_iter().map(|broken| broken.rule);
    assert_eq!(rules.collect::<Vec<_>>(), [Rule::AutoreleasePool; 4]);
}

/// The call's documentation speaks of the commands before it in the same command buffer alone.
#[test]
fn a_signal_alone_in_a_command_buffer_overtakes_work() {
    let broken = broken(|made| {
        made.device.control().hang(0);
        fill(made, 0, true);
        let commands = made.queue.command_buffer().unwrap();
        commands.signal(&made.event, 1);
        commands.commit();
        assert_eq!(made.event.signaled_value(), 1, "nothing was done");
        // Behind a pass that waits for the fence it stands for all.
        let commands = made.queue.command_buffer().unwrap();
        let blit = commands.blit_encoder().unwrap();
        blit.wait_for_fence(&made.fence);
        blit.end();
        commands.signal(&made.event, 2);
        commands.commit();
        assert_eq!(made.event.signaled_value(), 1);
        made.device.control().resume(0);
        assert!(made.event.wait(2, 60_000));
    });
    assert_eq!(broken, []);
}

#[test]
fn a_command_queue_has_no_more_command_buffers_than_it_was_made_for() {
    let broken = broken(|made| {
        let queue = made.metal.new_command_queue(2).unwrap();
        for _ in 0..5 {
            pooled(|| drop(queue.command_buffer().unwrap()));
        }
        assert_eq!(made.device.violations(), [], "one at a time");
        let _three = [(); 3].map(|()| queue.command_buffer().unwrap());
    });
    assert_eq!(broken, [Rule::CommandBuffers]);
}

#[test]
fn a_queue_of_the_device_waits_before_it_has_too_many_command_buffers() {
    const FILLS: usize = 2000;
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut buffer = allocator.allocate(64).unwrap();
    let hung = *device.control().queues().last().unwrap();
    assert!(device.control().hang(hung));
    let filled = AtomicUsize::new(0);
    thread::scope(|scope| {
        let filling = scope.spawn(|| {
            for _ in 0..FILLS {
                queue.fill(&mut buffer, 1).unwrap();
                filled.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Nothing completes meanwhile: who does not wait for room goes on to the end.
        let mut seen = 0;
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = filled.load(Ordering::Relaxed);
            if filling.is_finished() || (now >= 100 && now == seen) {
                break;
            }
            seen = now;
        }
        assert!(device.control().resume(hung));
    });
    buffer.wait(None).unwrap();
    assert_eq!(device.violations(), []);
}

#[test]
fn an_encoder_waits_for_a_fence_before_it_updates_it() {
    let broken = broken(|made| {
        let commands = made.queue.command_buffer().unwrap();
        let blit = commands.blit_encoder().unwrap();
        blit.update_fence(&made.fence);
        blit.wait_for_fence(&made.fence);
        blit.end();
        commands.commit();
    });
    assert_eq!(broken, [Rule::FenceReuse]);
}

#[test]
fn calls_are_made_in_autorelease_pools() {
    let device = FakeApple::new().unwrap();
    let metal = device.metal();
    pooled(|| metal.has_unified_memory());
    assert_eq!(device.violations(), []);
    assert!(metal.has_unified_memory());
    assert_eq!(device.violations()[0].rule, Rule::AutoreleasePool);
}

#[test]
fn a_command_queue_takes_so_many_residency_sets() {
    let broken = broken(|made| {
        for number in 0..33 {
            assert_eq!(made.device.violations(), [], "{number}");
            let set = made.metal.new_residency_set("one").unwrap();
            made.queue.add_residency_set(&set);
        }
    });
    assert_eq!(broken, [Rule::ResidencySets]);
}

#[test]
fn residency_sets_are_made_where_there_are_such() {
    for (builder, there) in [
        (FakeApple::builder(), true),
        (FakeApple::builder().macos(15), true),
        (FakeApple::builder().macos(14), false),
        (FakeApple::builder().gpu(AppleGpu::Paravirtual), false),
        (FakeApple::builder().gpu(AppleGpu::Discrete), false),
    ] {
        let device = builder.build().unwrap();
        let made = pooled(|| device.metal().new_residency_set("one").is_ok());
        let rules = device.violations().into_iter().map(|broken| broken.rule);
        let expected: &[Rule] = if there {
            &[]
        } else {
            &[Rule::ResidencyOffered]
        };
        assert_eq!(rules.collect::<Vec<_>>(), expected);
        assert_eq!(made, there);
    }
}

#[test]
fn changes_of_residency_sets_are_committed_before_work() {
    for committed in [true, false] {
        let broken = broken(|made| {
            let set = made.metal.new_residency_set("one").unwrap();
            made.queue.add_residency_set(&set);
            set.add(Allocation::Heap(&made.heap));
            if committed {
                set.commit();
            }
            fill(made, 0, false);
        });
        let expected: &[Rule] = if committed {
            &[]
        } else {
            &[Rule::ResidencyCommitted]
        };
        assert_eq!(broken, expected);
    }
}

#[test]
fn a_heap_in_a_residency_set_is_not_discarded_and_kept_until_the_commit() {
    use super::PurgeableState::Volatile;

    let broken = broken(|made| {
        let heap = made.metal.new_heap_of(PAGE);
        let set = made.metal.new_residency_set("one").unwrap();
        set.add(Allocation::Heap(&heap));
        set.commit();
        set.request_residency();
        assert_eq!(set.figures().members, 1);
        assert!(set.figures().requested);
        heap.set_purgeable_state(Volatile);
        assert_eq!(made.metal.purge_volatile(u64::MAX), 0);
        set.remove(Allocation::Heap(&heap));
        set.commit();
        assert_eq!(made.metal.purge_volatile(u64::MAX), PAGE as u64);
        set.add(Allocation::Heap(&heap));
        set.commit();
        let held = made.metal.current_allocated_size();
        set.remove(Allocation::Heap(&heap));
        drop(heap);
        assert_eq!(made.metal.current_allocated_size(), held);
        set.commit();
        assert_eq!(made.metal.current_allocated_size(), held - PAGE as u64);
    });
    assert_eq!(broken, []);
}

#[test]
fn whatever_is_made_is_alive_until_its_end() {
    let device = FakeApple::new().unwrap();
    let metal = device.metal();
    let alive = || {
        let objects = metal.live_objects();
        let kinds: Vec<_> = objects.iter().map(|object| object.what).collect();
        kinds
    };
    pooled(|| {
        let queue = metal.new_command_queue(1).unwrap();
        let commands = queue.command_buffer().unwrap();
        assert_eq!(alive(), ["command queue", "command buffer"]);
        drop(commands);
        assert_eq!(alive(), ["command queue", "command buffer"], "autoreleased");
    });
    let end = Instant::now() + Duration::from_secs(60);
    while !alive().is_empty() {
        assert!(Instant::now() < end, "{:?}", alive());
        thread::yield_now();
    }
}

/// What the residency sets hold, and what was asked of them.
fn sets(device: &FakeApple) -> Vec<Figures> {
    device.metal().sets().iter().map(Set::figures).collect()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn residency_is_asked_for_while_there_is_work_and_given_up_then() {
    let built = FakeApple::builder().residency(ResidencyConfig {
        active_for: Duration::from_millis(200),
        heartbeat: Duration::from_millis(5),
        ..ResidencyConfig::default()
    });
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut buffer = allocator.allocate(1 << 20).unwrap();
    assert!(sets(&device).iter().all(|set| set.requests == 0));
    for _ in 0..2 {
        queue.fill(&mut buffer, 1).unwrap().wait(None).unwrap();
        until("it is asked for again and again", || {
            let beats = |set: &Figures| set.requested && set.members > 0;
            let before: u64 = sets(&device).iter().map(|set| set.requests).sum();
            thread::sleep(Duration::from_millis(20));
            let after: u64 = sets(&device).iter().map(|set| set.requests).sum();
            sets(&device).iter().any(beats) && after > before
        });
        until("it is given up", || {
            sets(&device).iter().all(|set| !set.requested)
        });
        let before = sets(&device);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(sets(&device), before, "and nobody wakes");
    }
    drop((queue, buffer, allocator));
    let sets = device.metal().sets();
    drop(device);
    until("the thread ends with the device", || {
        sets.iter().all(|set| !set.figures().requested)
    });
}

#[test]
fn what_is_beyond_the_share_is_not_kept_resident() {
    let members = |share: f64| {
        let built = FakeApple::builder().residency(ResidencyConfig {
            share,
            ..ResidencyConfig::default()
        });
        let device = built.recommended_max_working_set_size(1 << 30).build();
        let device = Arc::new(device.unwrap());
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let mut buffers = [(); 4].map(|()| allocator.allocate(128 << 20).unwrap());
        queue.fill(&mut buffers[0], 1).unwrap().wait(None).unwrap();
        assert_eq!(device.violations(), []);
        sets(&device).iter().map(|set| set.members).sum::<usize>()
    };
    assert_eq!([members(1.0), members(0.25), members(0.0)], [4, 2, 0]);
}

#[test]
fn registered_memory_is_kept_resident_until_its_end() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let members = || sets(&device).iter().map(|set| set.members).sum::<usize>();
    let before = members();
    let file = tempfile::tempfile().unwrap();
    file.set_len(100_000).unwrap();
    // SAFETY: nobody else has the file.
    let weights = unsafe { MappedFile::map(&file, 0, 100_000) }.unwrap();
    let weights = allocator.register(weights).unwrap();
    let mut target = allocator.allocate(100_000).unwrap();
    let fence = queue.copy(&weights, &mut target).unwrap();
    fence.wait(None).unwrap();
    // The target's heap is another.
    assert_eq!(members(), before + 2);
    drop(weights);
    assert_eq!(members(), before + 1, "and nobody has to submit for that");
    assert_eq!(device.violations(), []);
}

#[test]
fn every_object_has_a_label() {
    let device = Arc::new(FakeApple::builder().delays(Duration::ZERO).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut buffers = [(); 3].map(|()| allocator.allocate(1 << 20).unwrap());
    let registered = allocator.register(vec![0_u8; 1 << 20]);
    let (open, opened) = std::sync::mpsc::channel::<()>();
    queue
        .call(move || {
            let _opened = opened.recv();
        })
        .unwrap();
    for buffer in &mut buffers {
        queue.fill(buffer, 1).unwrap();
    }
    let object = buffers[0].object().unwrap();
    let objects = device.metal().live_objects();
    let kinds: std::collections::BTreeSet<_> = objects.iter().map(|one| one.what).collect();
    let expected = [
        "buffer",
        "command buffer",
        "command queue",
        "event",
        "fence",
        "heap",
        "residency set",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    for object in &objects {
        assert!(object.label.starts_with("weldpool"), "{object:?}");
    }
    drop((open, object, registered));
}

/// No command buffer fails then, so the next submission is what tells.
#[test]
fn a_queue_that_is_lost_while_it_is_idle_is_known_to_be_by_the_next_submission() {
    let device = FakeApple::new().unwrap();
    let queue = crate::device::Device::create_queue(&device).unwrap();
    assert!(device.control().lose_queue(0));
    let refused = queue.signal().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DeviceLost);
    let told = queue.timeline().completed().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::DeviceLost);
}

/// What the completed handler does of announced work that failed.
fn raise(device: &FakeApple, (event, value): (Resource, u64)) {
    pooled(|| {
        let event = device.metal().event(event).unwrap();
        event.set_signaled_value(value);
    });
}

/// Metal ends the queue's wait for it in time, but only its event tells of its end.
#[test]
fn the_event_of_announced_work_that_failed_is_raised_by_who_submitted_it() {
    let built = FakeApple::builder().event_wait_max(Duration::from_millis(50));
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let submission = queue.before_external_submit().unwrap();
    let signal = submission.order().unwrap().signal;
    let fence = queue.after_external_submit(submission).unwrap();
    until("the wait is ended", || {
        thread::sleep(Duration::from_millis(10));
        queue.fence().is_err()
    });
    let early = fence.wait(Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Timeout);
    raise(&device, signal);
    let lost = fence.wait(Some(Duration::from_secs(60))).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::DeviceLost);
    assert_eq!(device.violations(), []);
}

/// Though it waits for the other, which is given back before it is announced.
#[test]
fn announced_work_that_fails_says_nothing_of_what_runs_before_it() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let announce = || {
        let submission = queue.before_external_submit().unwrap();
        let signal = submission.order().unwrap().signal;
        (signal, queue.after_external_submit(submission).unwrap())
    };
    let [(first, before), (second, behind)] = [announce(), announce()];
    raise(&device, second);
    for fence in [&before, &behind] {
        let early = fence.wait(Some(Duration::from_millis(100))).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Timeout);
    }
    raise(&device, first);
    for fence in [&before, &behind] {
        fence.wait(Some(Duration::from_secs(60))).unwrap();
    }
    until("an event is given again, whose work has ended", || {
        let (signal, fence) = announce();
        raise(&device, signal);
        fence.wait(Some(Duration::from_secs(60))).unwrap();
        signal.1 == 2
    });
    assert_eq!(device.violations(), []);
}

/// Those that were given back do not count, however many run.
#[test]
fn no_announcement_is_forgotten_for_work_that_runs() {
    let device = FakeApple::new().unwrap();
    let queue = crate::device::Device::create_queue(&device).unwrap();
    let announce = || {
        let behind = queue.timeline().completed().unwrap();
        queue.before_external_submit(behind).unwrap().unwrap()
    };
    let open = announce();
    let running = [(); 70].map(|()| {
        let order = announce();
        queue.after_external_submit(&order).unwrap();
        order
    });
    queue.after_external_submit(&open).unwrap();
    let behind = queue.signal().unwrap();
    let passes = |timeout| queue.timeline().wait(behind, Some(timeout)).unwrap();
    assert!(!passes(Duration::from_millis(50)));
    running.iter().for_each(|one| raise(&device, one.signal));
    raise(&device, open.signal);
    assert!(passes(Duration::from_secs(60)));
    assert_eq!(device.violations(), []);
}
