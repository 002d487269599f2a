//! What a program runs on: the allocator, its queues, its live buffers, and what is known of them.

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::DeviceQueue;
use weldpool::{Allocator, Config, Error, ErrorKind, Queue, SizeClasses};

use super::input::Input;
use super::places::Places;
use super::slot::Slot;
use super::target::Target;

/// Buffers up to this size take part in queue work, which touches all of their bytes.
pub(super) const WORK_BYTES_MAX: usize = 256 << 10;

/// Kinds of operations, as often as they are to come up.
const OPERATIONS: u8 = 24;

/// A queue of the allocator, the device's queue under it, and its number on the device.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) queue: Queue,
    pub(super) stream: Arc<dyn DeviceQueue>,
    pub(super) number: u64,
    pub(super) lost: bool,
}

/// What was counted, as the statistics should show it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) live: u64,
    pub(super) live_peak: u64,
    pub(super) block_bytes: u64,
    /// Allocations and frees cannot be foretold exactly once a call failed half way.
    pub(super) exact: bool,
    pub(super) allocations: u64,
    pub(super) frees: u64,
}

#[derive(Debug)]
pub(super) struct Machine {
    // Fields are dropped in this order.
    pub(super) slots: Vec<Slot>,
    pub(super) streams: Vec<Stream>,
    pub(super) allocator: Allocator,
    pub(super) target: Target,
    pub(super) places: Places,
    pub(super) counts: Counts,
    pub(super) limit: Option<u64>,
    pub(super) faults: bool,
    pub(super) seed: u8,
}

impl Machine {
    pub(super) fn new(target: Target, input: &mut Input<'_>) -> Option<Self> {
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

    pub(super) fn operate(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        // What is left of the byte says how.
        let on_thread = byte / OPERATIONS % 2 == 1;
        match byte % OPERATIONS {
            0..4 => self.allocate(input, false),
            4 | 5 => self.free(input),
            6 | 7 => self.free_on(input),
            8 => self.host_write(input),
            9 => self.host_read(input),
            10 => self.share(input),
            11 | 12 => self.fill(input),
            13 | 14 => self.copy(input),
            15 => self.step(input),
            16 => self.control(input, on_thread),
            17 => self.queues(input),
            18 => self.faults(input),
            19 | 20 => self.foreign(input),
            21 => self.check(),
            22 => self.other_thread(input),
            _ => self.raw(input),
        }
    }

    pub(super) fn pick(&self, input: &mut Input<'_>) -> Option<usize> {
        (!self.slots.is_empty()).then(|| input.below(self.slots.len()))
    }

    pub(super) fn pick_stream(&self, input: &mut Input<'_>) -> Option<usize> {
        (!self.streams.is_empty()).then(|| input.below(self.streams.len()))
    }

    /// Whether queue work may fail without a broken promise.
    pub(super) fn may_refuse(&self, stream: usize, error: &Error) -> bool {
        self.faults || self.streams[stream].lost || error.kind() == ErrorKind::LimitExceeded
    }
}
