//! Memory of the program that a buffer is over (`newBufferWithBytesNoCopy:length:options:deallocator:`).

#![forbid(unsafe_code)]

use std::fmt;

use crate::device::HostRange;
use crate::device::fake::address_space::Reach;
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::mapping::is_mapped;
use crate::sync::Mutex;

/// Pages that are looked at one by one for whether any is still mapped.
const LOOKED_AT_MAX: usize = 1 << 16;

/// What the call wants of memory: whole pages, one at least, all of them mapped, no more than a buffer may have.
pub(super) fn check(memory: &HostRange, length_max: u64, page: usize) -> Result<(), Violation> {
    let (start, bytes) = (memory.address.as_ptr().addr(), memory.bytes);
    if bytes as u64 > length_max {
        return broken(
            Rule::BufferLength,
            format!("{bytes} bytes without a copy; maxBufferLength is {length_max}"),
        );
    }
    let whole = start.is_multiple_of(page) && bytes.is_multiple_of(page) && bytes > 0;
    if !whole || !is_mapped(start, bytes) {
        return broken(
            Rule::WholePages,
            format!("{bytes} bytes at {start:#x} without a copy"),
        );
    }
    Ok(())
}

/// Whether memory of the program that work touches is still mapped.
pub(super) fn check_reach(reach: &Reach) -> Result<(), Violation> {
    let Some(start) = reach.store.others_address() else {
        return Ok(());
    };
    let start = start + reach.offset;
    if is_mapped(start, reach.bytes) {
        return Ok(());
    }
    broken(
        Rule::StaysMapped,
        format!(
            "work on {} bytes at {start:#x}, which were unmapped before the end of their buffer",
            reach.bytes
        ),
    )
}

/// Memory that somebody else keeps mapped until the buffer's end.
pub(super) struct Others {
    start: usize,
    bytes: usize,
    read_only: bool,
    /// The deallocator.
    ended: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Others {
    pub(super) fn new(memory: HostRange, ended: Box<dyn FnOnce() + Send>) -> Self {
        Self {
            start: memory.address.as_ptr().addr(),
            bytes: memory.bytes,
            read_only: memory.read_only,
            ended: Mutex::new(Some(ended)),
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The end of the buffer: calls the deallocator. Whoever has part of the first or last page may have unmapped that,
    /// where the system's pages are smaller, but not all of it.
    pub(super) fn end(&self) -> Result<(), Violation> {
        let system = rustix::param::page_size();
        let mut pages = (self.start..self.start + self.bytes)
            .step_by(system)
            .take(LOOKED_AT_MAX);
        let is_there = pages.any(|page| is_mapped(page, 1));
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            ended();
        }
        if is_there {
            return Ok(());
        }
        broken(
            Rule::StaysMapped,
            format!(
                "{} bytes at {:#x} were unmapped before the end of their buffer",
                self.bytes, self.start
            ),
        )
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux", feature = "cuda"))]
#[allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]
mod tests {
    use std::ptr::NonNull;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::device::StorageMode;
    use crate::device::fake::apple::pools::pooled;
    use crate::device::fake::{Buffer, FakeApple, FakeAppleBuilder, HeapDescriptor};
    use crate::device::mapping::AlignedMapping;
    use crate::device::metal::raw::{
        BlitEncoder, CommandBuffer, CommandQueue, Encoder, Metal, SharedEvent,
    };
    use crate::error::{ErrorKind, Result};

    /// Of Apple silicon, which the model is by default.
    const PAGE: usize = 16 << 10;

    const LONG: Duration = Duration::from_secs(30);

    fn pages(count: usize) -> AlignedMapping {
        AlignedMapping::new(count * PAGE, PAGE).unwrap()
    }

    fn range(mapping: &AlignedMapping, from: usize, bytes: usize) -> HostRange {
        let start = mapping.address().as_ptr().wrapping_add(from);
        HostRange {
            address: NonNull::new(start).unwrap(),
            bytes,
            read_only: false,
        }
    }

    fn built(build: impl FnOnce(FakeAppleBuilder) -> FakeAppleBuilder) -> FakeApple {
        build(FakeApple::builder()).build().unwrap()
    }

    fn rules(device: &FakeApple) -> Vec<Rule> {
        device.violations().iter().map(|one| one.rule).collect()
    }

    /// Wraps memory; what is told by the deallocator comes too.
    fn wrap(device: &FakeApple, range: HostRange) -> (Result<Buffer>, Receiver<()>) {
        let (tell, told) = channel();
        // Nobody listens to most of them.
        let ended = Box::new(move || tell.send(()).unwrap_or_default());
        let made = pooled(|| device.metal().new_buffer_no_copy(range, ended));
        (made, told)
    }

    /// Fills the buffer by a command buffer of its own, and waits until that has ended.
    fn fill(device: &FakeApple, buffer: &Buffer, bytes: usize) {
        let (over, is_over) = channel();
        pooled(|| {
            let event = device.metal().new_shared_event().unwrap();
            let queue = device.metal().new_command_queue(8).unwrap();
            let commands = queue.command_buffer().unwrap();
            let blit = commands.blit_encoder().unwrap();
            blit.fill(buffer, 0..bytes, 7);
            blit.end();
            commands.signal(&event, 1);
            // By then it keeps nothing any more.
            commands.on_completed(Box::new(move |_| over.send(()).unwrap()));
            commands.commit();
            is_over.recv_timeout(LONG).unwrap();
            assert_eq!(event.signaled_value(), 1);
        });
    }

    #[test]
    fn whole_mapped_pages_are_wrapped_and_nothing_else() {
        let device = built(|builder| builder.max_buffer_length(2 * PAGE as u64));
        let memory = pages(3);
        let gone = range(&pages(1 << 16), 0, PAGE);
        for (range, rule) in [
            (range(&memory, 1, PAGE), Rule::WholePages),
            (range(&memory, 4096, PAGE), Rule::WholePages),
            (range(&memory, 0, 100), Rule::WholePages),
            (range(&memory, 0, 0), Rule::WholePages),
            (range(&memory, 0, 3 * PAGE), Rule::BufferLength),
            (gone, Rule::WholePages),
        ] {
            let (made, _) = wrap(&device, range);
            assert_eq!(made.unwrap_err().kind(), ErrorKind::InvalidRequest);
            assert_eq!(rules(&device).last(), Some(&rule), "{range:?}");
        }
        assert_eq!(device.violations().len(), 6);
        let (buffer, ended) = wrap(&device, range(&memory, PAGE, 2 * PAGE));
        let buffer = buffer.unwrap();
        assert_eq!(buffer.length(), 2 * PAGE);
        fill(&device, &buffer, PAGE);
        assert!(ended.try_recv().is_err(), "the buffer is alive");
        pooled(|| drop(buffer));
        ended.recv_timeout(LONG).unwrap();
        assert_eq!(device.violations().len(), 6);
    }

    #[test]
    fn memory_that_is_unmapped_under_its_buffer_is_found_by_work_and_at_the_end() {
        let device = built(|builder| builder);
        // What other threads map comes to lie at the end of what is free.
        let memory = pages(1 << 16);
        let buffer = wrap(&device, range(&memory, 0, 2 * PAGE)).0.unwrap();
        fill(&device, &buffer, 2 * PAGE);
        assert_eq!(rules(&device), []);
        drop(memory);
        fill(&device, &buffer, PAGE);
        let found = [Rule::StaysMapped; 2];
        assert_eq!(rules(&device), found[..1], "and nothing was touched");
        pooled(|| drop(buffer));
        // A command buffer that has raised its event may still keep it for a moment.
        let end = Instant::now() + LONG;
        while rules(&device) != found {
            assert!(Instant::now() < end, "{:?}", rules(&device));
            std::thread::yield_now();
        }
    }

    #[test]
    fn nothing_is_written_to_what_is_mapped_for_reading() {
        let device = built(|builder| builder);
        let memory = pages(1);
        let read_only = HostRange {
            read_only: true,
            ..range(&memory, 0, PAGE)
        };
        let buffer = wrap(&device, read_only).0.unwrap();
        fill(&device, &buffer, PAGE);
        assert_eq!(rules(&device), [Rule::Writable]);
        pooled(|| drop(buffer));
    }

    #[test]
    fn a_device_may_wrap_nothing_without_an_error() {
        let device = built(|builder| builder.empty_no_copy(true));
        let memory = pages(1);
        let (made, ended) = wrap(&device, range(&memory, 0, PAGE));
        let made = made.unwrap();
        assert_eq!(made.length(), 0);
        pooled(|| drop(made));
        ended.recv_timeout(LONG).unwrap();
        assert_eq!(device.metal().current_allocated_size(), 0);
        assert_eq!(rules(&device), []);
    }

    #[test]
    fn there_is_a_most_of_buffers() {
        let device = built(|builder| builder.buffers_max(2));
        let memory = pages(3);
        let wrapped = |from| wrap(&device, range(&memory, from, PAGE)).0;
        let first = wrapped(0).unwrap();
        let second = wrapped(PAGE).unwrap();
        wrapped(2 * PAGE).unwrap_err();
        let (bytes, storage) = (PAGE, StorageMode::Shared);
        let metal = device.metal();
        pooled(|| {
            let heap = metal.new_heap(&HeapDescriptor { bytes, storage }).unwrap();
            heap.new_buffer(PAGE, 0).unwrap_err();
            Metal::new_buffer(metal, PAGE, storage).unwrap_err();
        });
        assert_eq!(rules(&device), [Rule::BufferCount; 3]);
        pooled(|| drop(first));
        let third = wrapped(2 * PAGE).unwrap();
        pooled(|| drop((second, third)));
        assert_eq!(device.violations().len(), 3);
    }
}
