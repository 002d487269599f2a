//! Arbitrary operations on an allocator over arbitrary devices, held against a simple model.
//!
//! Any bytes are a program: [`run`] reads from them a device, a configuration and what to do. It panics
//! when live buffers overlap, are not aligned or have no memory behind them, when contents are not what
//! was written, when statistics disagree with the model, when a call fails that had no reason to, when
//! anything is left at the end, or when a rule of the device was broken.

mod foreign;
mod input;
mod model;
mod places;
mod slot;
mod target;

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use weldpool::device::DeviceQueue;
use weldpool::{
    Allocator, Buffer, Config, Error, ErrorKind, Queue, Request, SizeClasses, StorageMode,
};

use self::input::Input;
use self::model::Model;
use self::places::{Places, Start};
use self::slot::{Memory, Slot};
use self::target::Target;
use crate::Call;

/// Live buffers at once.
const SLOTS_MAX: usize = 48;
const QUEUES_MAX: usize = 4;
/// Buffers up to this size take part in queue work, which touches all of their bytes.
const WORK_BYTES_MAX: usize = 256 << 10;
/// Live bytes at once, so that a machine can hold them.
const LIVE_BYTES_MAX: usize = 256 << 20;
/// Times that everything is asked for at the end; the host's queues go on by themselves.
const CLEARS_MAX: usize = 1000;
/// Operations of one run.
const OPERATIONS_MAX: usize = 600;

/// Runs the program that `bytes` are.
///
/// # Panics
///
/// When the allocator does not do what it should.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let target = Target::choose(&mut input);
    if let Some(mut machine) = Machine::new(target, &mut input) {
        for _ in 0..OPERATIONS_MAX {
            if input.is_empty() {
                break;
            }
            machine.operate(&mut input);
        }
        machine.finish();
    }
}

/// A queue of the allocator, the device's queue under it, and its number on the device.
#[derive(Debug)]
struct Stream {
    queue: Queue,
    stream: Arc<dyn DeviceQueue>,
    number: u64,
    lost: bool,
}

/// What was counted, as the statistics should show it.
#[derive(Debug, Default)]
struct Counts {
    live: u64,
    live_peak: u64,
    block_bytes: u64,
    /// Allocations and frees cannot be foretold exactly once a call failed half way.
    exact: bool,
    allocations: u64,
    frees: u64,
}

#[derive(Debug)]
struct Machine {
    // Fields are dropped in this order.
    slots: Vec<Slot>,
    streams: Vec<Stream>,
    allocator: Allocator,
    target: Target,
    places: Places,
    counts: Counts,
    limit: Option<u64>,
    faults: bool,
    seed: u8,
}

impl Machine {
    fn new(target: Target, input: &mut Input<'_>) -> Option<Self> {
        let config = Config {
            classes: if input.flag() {
                SizeClasses::fine()
            } else {
                SizeClasses::seed()
            },
            pooling: input.below(8) != 7,
            alignment: 256 << input.below(3),
            slack_per_1024: u32::from(input.byte()),
            // Queues that go on by hand never end while somebody waits.
            wait_max: Duration::from_millis(u64::from(target.control().is_none())),
            ..Config::default()
        };
        let device = Arc::clone(&target.device);
        let built = Allocator::builder(device).config(config).build();
        let allocator = match built {
            Ok(allocator) => allocator,
            // The seed classes want more than a scarce device has.
            Err(error) => {
                assert!(target.scarce, "the allocator was not made: {error}");
                target.check_end();
                return None;
            }
        };
        Some(Self {
            slots: Vec::new(),
            streams: Vec::new(),
            allocator,
            target,
            places: Places::default(),
            counts: Counts {
                exact: true,
                ..Counts::default()
            },
            limit: None,
            faults: false,
            seed: 0,
        })
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.below(24) {
            0..4 => self.allocate(input, false),
            4 | 5 => self.free(input),
            6 | 7 => self.free_on(input),
            8 => self.host_write(input),
            9 => self.host_read(input),
            10 => self.share(input),
            11 | 12 => self.fill(input),
            13 | 14 => self.copy(input),
            15 => self.step(input),
            16 => self.control(input),
            17 => self.queues(input),
            18 => self.faults(input),
            19 | 20 => self.foreign(input),
            21 => self.check(),
            22 => self.other_thread(input),
            _ => self.raw(input),
        }
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<usize> {
        (!self.slots.is_empty()).then(|| input.below(self.slots.len()))
    }

    fn pick_stream(&self, input: &mut Input<'_>) -> Option<usize> {
        (!self.streams.is_empty()).then(|| input.below(self.streams.len()))
    }

    /// Whether queue work may fail without a broken promise.
    fn may_refuse(&self, stream: usize, error: &Error) -> bool {
        self.faults || self.streams[stream].lost || error.kind() == ErrorKind::LimitExceeded
    }

    fn allocate(&mut self, input: &mut Input<'_>, on_thread: bool) {
        if self.slots.len() == SLOTS_MAX {
            return;
        }
        let power = input.of(&[8, 12, 16, 20, 22, 24]);
        let bytes = input.size(power);
        let alignment = input.of(&[1, 16, 256, 256, 256, 4096, 64 << 10, 3]);
        let storage = input.of(&StorageMode::ALL);
        let stream = match input.below(3) {
            0 => None,
            _ => self.pick_stream(input),
        };
        let zeroed = input.below(8) == 0 && bytes <= WORK_BYTES_MAX;
        if self.counts.live as usize + bytes > LIVE_BYTES_MAX {
            return;
        }
        let mut request = Request::new(bytes)
            .alignment(alignment)
            .storage(storage)
            .zeroed(zeroed);
        if let Some(stream) = stream {
            request = request.queue(&self.streams[stream].queue);
        }
        let before = self.allocator.stats().reserved.value;
        let allocated = if on_thread {
            let allocator = &self.allocator;
            on_another_thread(|| allocator.allocate_with(&request))
        } else {
            self.allocator.allocate_with(&request)
        };
        let lost = stream.is_some_and(|stream| self.streams[stream].lost);
        match allocated {
            Ok(buffer) => {
                let after = self.allocator.stats().reserved.value;
                if let Some(limit) = self.limit {
                    assert!(
                        after <= before.max(limit),
                        "{after} bytes held with a limit of {limit}"
                    );
                }
                let mut model = Model::new(bytes);
                if zeroed {
                    model.fill(0..bytes, 0);
                }
                let number = stream.map(|stream| self.streams[stream].number);
                let least = alignment.max(256);
                self.add(buffer, bytes, least, model, number);
            }
            Err(error) => {
                let wrong = bytes == 0
                    || alignment == 3
                    || !self.target.storages.contains(&storage)
                    || (zeroed && stream.is_none() && storage == StorageMode::Private);
                let permitted = match error.kind() {
                    ErrorKind::InvalidRequest | ErrorKind::Unsupported => wrong,
                    ErrorKind::OutOfMemory | ErrorKind::LimitExceeded => {
                        self.target.scarce
                            || self.limit.is_some()
                            || self.target.control().is_some() && zeroed
                    }
                    _ => lost && zeroed,
                };
                assert!(permitted || self.faults, "{error}");
                // Allocated, not zeroed, and freed.
                self.counts.exact &= !(zeroed && (self.faults || stream.is_some()));
            }
        }
    }

    /// Takes a new buffer in, after looking at everything that is known of it.
    fn add(
        &mut self,
        buffer: Buffer,
        bytes: usize,
        alignment: usize,
        model: Model,
        queue: Option<u64>,
    ) {
        assert_eq!(buffer.len(), bytes);
        let block_bytes = buffer.block_bytes();
        assert!(block_bytes >= bytes);
        let start = Start::of(&buffer.binding());
        if let Some(start) = start {
            self.places.add(start, block_bytes);
            assert!(start.is_aligned(alignment), "{start:x?} for {alignment}");
            if let Some(address) = start.address() {
                assert!(
                    self.target.device.held().contains(address, block_bytes),
                    "{block_bytes} bytes at {address:#x} are not all there"
                );
            }
        }
        self.counts.live += bytes as u64;
        self.counts.live_peak = self.counts.live_peak.max(self.counts.live);
        self.counts.block_bytes += block_bytes as u64;
        self.counts.allocations += 1;
        let slot = Slot {
            start,
            len: bytes,
            block_bytes,
            storage: buffer.storage_mode(),
            memory: Memory::Own(buffer),
            model,
            queues: queue.into_iter().collect(),
            foreign: None,
        };
        self.check_found(&slot);
        self.slots.push(slot);
    }

    /// Takes a slot out, to be freed; the counts are as after the free.
    fn remove(&mut self, index: usize) -> Slot {
        let slot = self.slots.swap_remove(index);
        if let Some(start) = slot.start {
            self.places.remove(start);
        }
        self.counts.live -= slot.len as u64;
        self.counts.block_bytes -= slot.block_bytes as u64;
        self.counts.frees += 1;
        slot
    }

    fn free(&mut self, input: &mut Input<'_>) {
        if let Some(index) = self.pick(input) {
            if self.slots[index].foreign.is_some() {
                self.settle();
            }
            drop(self.remove(index));
        }
    }

    fn free_on(&mut self, input: &mut Input<'_>) {
        let (Some(index), Some(stream)) = (self.pick(input), self.pick_stream(input)) else {
            return;
        };
        if !self.slots[index].may_use(self.streams[stream].number) {
            return;
        }
        let slot = self.remove(index);
        let queue = &self.streams[stream].queue;
        match slot.memory {
            Memory::Own(buffer) if input.below(4) == 0 => {
                on_another_thread(|| buffer.free_on(queue));
            }
            Memory::Own(buffer) => buffer.free_on(queue),
            shared @ Memory::Shared(..) => drop(shared),
        }
    }

    fn host_write(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        if self.slots[index].foreign.is_some() {
            self.settle();
        }
        self.seed = self.seed.wrapping_add(1);
        let slot = &mut self.slots[index];
        if let Err(error) = slot.write(self.seed) {
            self.check_refused(index, &error);
        }
    }

    fn host_read(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let slot = &self.slots[index];
        if slot.foreign.is_some() {
            return;
        }
        let read = slot.read();
        match read {
            Ok(contents) => slot.check(&contents),
            Err(error) => self.check_refused(index, &error),
        }
    }

    /// Asserts that host access was refused for a reason.
    fn check_refused(&self, index: usize, error: &Error) {
        let slot = &self.slots[index];
        let reason = match error.kind() {
            ErrorKind::Unsupported => slot.storage == StorageMode::Private,
            ErrorKind::Busy => !slot.queues.is_empty(),
            _ => false,
        };
        assert!(reason, "{error}");
    }

    fn share(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let mut slot = self.slots.swap_remove(index);
        if slot.foreign.is_some() {
            self.slots.push(slot);
            return;
        }
        let (one, other) = (input.byte(), input.byte());
        let at = |byte: u8| slot.len * usize::from(byte) / 255;
        let range = at(one.min(other))..at(one.max(other));
        slot.memory = match slot.memory {
            Memory::Own(buffer) => Memory::Shared(buffer.share(), None),
            Memory::Shared(view, None) => {
                let part = view.slice(range.clone());
                let part = match part {
                    Ok(part) => Some((part, range)).filter(|(_, range)| !range.is_empty()),
                    Err(error) => panic!("{error}"),
                };
                Memory::Shared(view, part)
            }
            Memory::Shared(view, Some(part)) => {
                assert!(!view.is_unique());
                drop(part);
                match view.try_into_buffer() {
                    Ok(buffer) => Memory::Own(buffer),
                    Err(_) => panic!("the only view is not the buffer"),
                }
            }
        };
        self.slots.push(slot);
    }

    fn fill(&mut self, input: &mut Input<'_>) {
        let (Some(index), Some(stream)) = (self.pick(input), self.pick_stream(input)) else {
            return;
        };
        let (value, part) = (input.byte(), input.flag());
        let Stream { queue, number, .. } = &self.streams[stream];
        let slot = &mut self.slots[index];
        if slot.len > WORK_BYTES_MAX || !slot.may_use(*number) {
            return;
        }
        slot.used_by(*number);
        if let Err(error) = slot.fill(queue, value, part) {
            assert!(self.may_refuse(stream, &error), "{error}");
        }
    }

    fn copy(&mut self, input: &mut Input<'_>) {
        let (Some(from), Some(to), Some(stream)) =
            (self.pick(input), self.pick(input), self.pick_stream(input))
        else {
            return;
        };
        let number = self.streams[stream].number;
        let fits = |slot: &Slot| slot.len <= WORK_BYTES_MAX && slot.may_use(number);
        if from == to
            || self.slots[from].len > self.slots[to].len
            || !fits(&self.slots[from])
            || !fits(&self.slots[to])
        {
            return;
        }
        let Ok([source, destination]) = self.slots.get_disjoint_mut([from, to]) else {
            return;
        };
        source.used_by(number);
        destination.used_by(number);
        if let Err(error) = source.copy_to(&self.streams[stream].queue, destination) {
            assert!(self.may_refuse(stream, &error), "{error}");
        }
    }

    /// Lets queues go on, or marks their ends.
    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.below(4);
        let Some(stream) = self.pick_stream(input) else {
            return;
        };
        let Stream { queue, number, .. } = &self.streams[stream];
        match (kind, self.target.control()) {
            (0, _) => match queue.fence() {
                Ok(fence) => {
                    let waited = fence.wait(Some(Duration::ZERO));
                    assert!(waited.is_ok() || !self.streams[stream].lost);
                }
                Err(error) => assert!(self.may_refuse(stream, &error), "{error}"),
            },
            (1, Some(control)) => drop(control.run_all()),
            (2, _) => self.settle(),
            (_, Some(control)) => {
                for _ in 0..=input.below(8) {
                    control.step(*number);
                }
            }
            (_, None) => {}
        }
    }

    /// Lets all work that was submitted end, after which no buffer is in use.
    fn settle(&mut self) {
        let faults = std::mem::replace(&mut self.faults, false);
        if faults {
            self.target.device.clear_faults();
        }
        // A queue with no room for a fence gets it once it has gone on.
        for _ in 0..2 {
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            let mut fences = Vec::new();
            for stream in &self.streams {
                match stream.queue.fence() {
                    Ok(fence) => fences.push((fence, stream.lost)),
                    Err(error) => assert!(stream.lost, "a queue cannot be marked: {error}"),
                }
            }
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            for (fence, lost) in fences {
                let waited = fence.wait(Some(Duration::from_secs(5)));
                assert!(waited.is_ok() || lost, "a queue does not go on: {waited:?}");
            }
        }
        // Queues that were dropped are marked, at the latest, when memory is asked back.
        let in_use = |slot: &Slot| slot.wait(Duration::ZERO).is_err();
        if self.slots.iter().any(in_use) {
            let _bytes = self.allocator.clear();
            if let Some(control) = self.target.control() {
                control.run_all();
            }
        }
        for slot in &mut self.slots {
            slot.queues.clear();
            slot.foreign = None;
            // The work of a lost queue is over, though it never ended.
            let waited = slot
                .wait(Duration::from_secs(5))
                .map_err(|error| error.kind());
            assert!(
                matches!(waited, Ok(()) | Err(ErrorKind::DeviceLost)),
                "work does not end: {waited:?}"
            );
            if slot.storage != StorageMode::Private {
                match slot.read() {
                    Ok(contents) => slot.check(&contents),
                    Err(error) => panic!("no work is left, but {error}"),
                }
            }
        }
    }

    fn control(&mut self, input: &mut Input<'_>) {
        match input.below(6) {
            0 => drop(self.allocator.clear()),
            1 => {
                let before = self.limit;
                let held = self.allocator.stats().reserved.value;
                self.limit = match input.below(3) {
                    0 => None,
                    1 => Some(held),
                    _ => Some(u64::from(input.byte()) << 18),
                };
                assert_eq!(self.allocator.set_reserved_bytes_max(self.limit), before);
            }
            2 => drop(
                self.allocator
                    .set_cached_bytes_max(u64::from(input.byte()) << 17),
            ),
            3 => drop(self.allocator.set_cached_bytes_max(u64::MAX)),
            4 => drop(self.allocator.set_pooling(input.flag())),
            _ => {
                let (bytes, count) = (input.size(16).max(1), input.below(8));
                match self.allocator.pre_allocate(bytes, count) {
                    Ok(made) => {
                        assert_eq!(made, count);
                        self.counts.allocations += count as u64;
                        self.counts.frees += count as u64;
                    }
                    Err(error) => {
                        let scarce = self.target.scarce || self.limit.is_some();
                        assert!(scarce || self.faults, "{error}");
                        self.counts.exact = false;
                    }
                }
            }
        }
    }

    fn queues(&mut self, input: &mut Input<'_>) {
        match input.below(4) {
            0 | 1 if self.streams.len() < QUEUES_MAX => {
                let Some((stream, number)) = self.target.create_queue() else {
                    assert!(self.faults);
                    return;
                };
                self.streams.push(Stream {
                    queue: self.allocator.adopt_queue(Arc::clone(&stream)),
                    stream,
                    number,
                    lost: false,
                });
            }
            2 => {
                let Some(index) = self.pick_stream(input) else {
                    return;
                };
                let number = self.streams[index].number;
                if self.slots.iter().any(|slot| slot.foreign == Some(number)) {
                    self.settle();
                }
                self.streams.swap_remove(index);
            }
            3 => {
                let Some(index) = self.pick_stream(input).filter(|_| input.below(4) == 0) else {
                    return;
                };
                let Some(control) = self.target.control() else {
                    return;
                };
                let stream = &mut self.streams[index];
                control.lose_queue(stream.number);
                stream.lost = true;
                // Work that others made wait for it goes on without it.
                for slot in &mut self.slots {
                    if !slot.queues.is_empty() {
                        slot.model.forget();
                    }
                    slot.foreign = slot.foreign.filter(|&number| number != stream.number);
                }
            }
            _ => {}
        }
    }

    fn faults(&mut self, input: &mut Input<'_>) {
        let call = Call::ALL[input.below(Call::ALL.len())];
        let kind = input.of(&[ErrorKind::OutOfMemory, ErrorKind::System]);
        self.target.device.fail(call, kind, input.below(4));
        self.faults = true;
    }

    /// Work that the allocator does not see.
    fn foreign(&mut self, input: &mut Input<'_>) {
        let (Some(from), Some(to), Some(stream)) =
            (self.pick(input), self.pick(input), self.pick_stream(input))
        else {
            return;
        };
        let Stream { stream, number, .. } = &self.streams[stream];
        let suits = |slot: &Slot| {
            slot.len <= WORK_BYTES_MAX && slot.is_free_for(*number) && slot.start.is_some()
        };
        if !suits(&self.slots[to]) {
            return;
        }
        let value = input.byte();
        let fits = from != to && self.slots[from].len <= self.slots[to].len;
        if fits && suits(&self.slots[from]) {
            let Ok([from, to]) = self.slots.get_disjoint_mut([from, to]) else {
                return;
            };
            if foreign::copy(stream.as_ref(), &from.binding(), &to.binding()).is_ok() {
                to.model.copy(&from.model, 0..from.len, 0);
                for slot in [from, to] {
                    slot.used_by(*number);
                    slot.foreign = Some(*number);
                }
            }
        } else {
            let to = &mut self.slots[to];
            if foreign::fill(stream.as_ref(), &to.binding(), value).is_ok() {
                to.model.fill(0..to.len, value);
                to.used_by(*number);
                to.foreign = Some(*number);
            }
        }
    }

    fn other_thread(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            return self.allocate(input, true);
        }
        let Some(index) = self.pick(input) else {
            return;
        };
        if self.slots[index].foreign.is_some() {
            return;
        }
        let slot = self.remove(index);
        on_another_thread(move || drop(slot));
    }

    fn raw(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let mut slot = self.slots.swap_remove(index);
        slot.memory = match slot.memory {
            Memory::Own(buffer) => match buffer.into_raw() {
                Ok(address) => {
                    self.check_found_at(address, slot.len);
                    match foreign::reclaim(&self.allocator, address) {
                        Ok(buffer) => Memory::Own(buffer),
                        Err(error) => panic!("{error}"),
                    }
                }
                Err(buffer) => {
                    assert!(slot.storage == StorageMode::Private);
                    Memory::Own(buffer)
                }
            },
            shared @ Memory::Shared(..) => shared,
        };
        self.slots.push(slot);
    }

    /// Asserts that the allocator finds the buffer by each of its addresses.
    fn check_found(&self, slot: &Slot) {
        let Some(host) = slot.binding().host else {
            return;
        };
        self.check_found_at(host, slot.len);
    }

    fn check_found_at(&self, host: NonNull<u8>, bytes: usize) {
        for offset in [0, bytes / 2, bytes - 1] {
            let found = self.allocator.find(host.as_ptr().wrapping_add(offset));
            let found = found.map(|found| (found.address, found.bytes));
            assert_eq!(found, Some((host.as_ptr().addr(), bytes)));
        }
        let beyond = self.allocator.find(host.as_ptr().wrapping_add(bytes));
        assert!(beyond.is_none_or(|beyond| beyond.address != host.as_ptr().addr()));
    }

    /// Asserts that the statistics are those of the model.
    fn check(&self) {
        let stats = self.allocator.stats();
        let counts = &self.counts;
        assert_eq!(stats.live.value, counts.live, "live bytes");
        assert_eq!(stats.block_bytes, counts.block_bytes, "bytes of blocks");
        assert!(stats.live.peak >= counts.live_peak, "peak of live bytes");
        let live = self.slots.len() as u64;
        assert_eq!(stats.allocations - stats.frees, live, "live buffers");
        if counts.exact {
            assert_eq!(stats.allocations, counts.allocations, "allocations");
            assert_eq!(stats.frees, counts.frees, "frees");
        }
        let held = self.target.device.held().bytes();
        assert_eq!(stats.reserved.value, held, "bytes held from the driver");
        assert!(
            stats.block_bytes + stats.deferred_bytes <= held,
            "{} bytes in use and {} waiting of {held}",
            stats.block_bytes,
            stats.deferred_bytes
        );
        assert_eq!(
            self.allocator
                .live_report()
                .buffers
                .iter()
                .map(|one| one.bytes as u64)
                .sum::<u64>(),
            counts.live
        );
        for slot in &self.slots {
            self.check_found(slot);
        }
    }

    /// Frees everything and asserts that nothing is left.
    fn finish(mut self) {
        self.settle();
        self.check();
        while !self.slots.is_empty() {
            drop(self.remove(0));
        }
        self.settle();
        self.streams.clear();
        // A round may mark the ends of queues that only then go on, or unmap what the next one returns.
        for _ in 0..CLEARS_MAX {
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            let _bytes = self.allocator.clear();
            if self.allocator.stats().reserved.value == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.check();
        let stats = self.allocator.stats();
        assert_eq!(stats.reserved.value, 0, "bytes held at the end: {stats}");
        let Self {
            allocator, target, ..
        } = self;
        drop(allocator);
        target.check_end();
    }
}

fn on_another_thread<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(function).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
