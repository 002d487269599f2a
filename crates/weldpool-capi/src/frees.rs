//! Who else uses memory, and frees that wait until a stream can be looked up.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{Allocator, Buffer, Error, ErrorKind, Queue, Result};

/// Owed frees that a call tries again: more than a call adds, so that they go down.
const TRIED: usize = 8;

/// What a stream's queue is found by.
pub(crate) trait Lookup<S>: Fn(S) -> Result<Arc<Queue>> {}

impl<S, F: Fn(S) -> Result<Arc<Queue>>> Lookup<S> for F {}

/// The frees of one pool, whose streams are known by `S`.
#[derive(Debug)]
pub(crate) struct Frees<S> {
    /// Further streams that use memory, by the address of its first byte.
    used_on: Mutex<HashMap<usize, Vec<S>>>,
    /// Frees with streams that could not be looked up. There are no more than there is memory, which they hold.
    owed: Mutex<VecDeque<Owed<S>>>,
    /// How many those are.
    count: AtomicUsize,
}

/// A free that is owed.
#[derive(Debug)]
struct Owed<S> {
    buffer: Buffer,
    /// Streams whose work may use the memory, and of which that was not noted.
    streams: Vec<S>,
}

impl<S> Default for Frees<S> {
    fn default() -> Self {
        Self {
            used_on: Mutex::default(),
            owed: Mutex::default(),
            count: AtomicUsize::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a stream may be found later that is not found now: it records a graph, or too many are known.
fn is_for_now(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Busy | ErrorKind::LimitExceeded)
}

impl<S: Copy + PartialEq> Frees<S> {
    /// Takes note that work on a stream uses the buffer that has a byte at the address; whether there is one.
    pub(crate) fn record(&self, allocator: &Allocator, address: usize, stream: S) -> bool {
        let Some(found) = allocator.find(std::ptr::without_provenance(address)) else {
            return false;
        };
        // Freed it is by its first byte.
        let mut used_on = lock(&self.used_on);
        let streams = used_on.entry(found.address).or_default();
        if !streams.contains(&stream) {
            streams.push(stream);
        }
        true
    }

    /// Frees what was given up at `address` in the order of a stream, and after all streams that were recorded. Where
    /// one of them cannot be looked up now, the memory stays until it can.
    ///
    /// # Errors
    ///
    /// Why the memory is kept: until later for the first of the frees that are owed, or for good, since nobody knows
    /// when the stream is done. What the driver says of a use; the next signal of the stream covers it then.
    pub(crate) fn free(
        &self,
        (address, buffer): (usize, Buffer),
        stream: S,
        queue_of: impl Lookup<S>,
    ) -> Result<()> {
        let mut further = lock(&self.used_on).remove(&address).unwrap_or_default();
        further.retain(|other| *other != stream);
        let mut noted = Ok(());
        let owner = queue_of(stream);
        let mut refused = None;
        let mut streams = Vec::new();
        for stream in further {
            match queue_of(stream) {
                Ok(queue) => noted = noted.and(buffer.note_use(&queue)),
                Err(error) => {
                    streams.push(stream);
                    refused = worse(refused, error);
                }
            }
        }
        match (owner, refused) {
            (Ok(queue), None) => {
                buffer.free_on(&queue);
                noted
            }
            (Ok(queue), Some(error)) => {
                let _next_signal = buffer.note_use(&queue);
                self.owe(address, Owed { buffer, streams }, error)
            }
            (Err(error), refused) => {
                let Some(error) = worse(refused, error) else {
                    return Ok(());
                };
                if is_for_now(&error) {
                    streams.push(stream);
                }
                self.owe(address, Owed { buffer, streams }, error)
            }
        }
    }

    fn owe(&self, address: usize, owed: Owed<S>, error: Error) -> Result<()> {
        if !is_for_now(&error) {
            // Nobody gets it, unless it is freed again, on another stream.
            let _kept = owed.buffer.into_raw();
            if !owed.streams.is_empty() {
                lock(&self.used_on).insert(address, owed.streams);
            }
            return Err(error);
        }
        let mut all = lock(&self.owed);
        all.push_back(owed);
        let before = self.count.swap(all.len(), Ordering::Release);
        drop(all);
        match before {
            0 => Err(Error::with_message(
                error.kind(),
                format!("{error}; the memory is freed by a later call, when that is over"),
            )),
            _ => Ok(()),
        }
    }

    /// Frees that are owed.
    pub(crate) fn owed(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Tries some of the owed frees again, unless another thread does.
    pub(crate) fn retry(&self, queue_of: impl Lookup<S>) {
        if self.owed() == 0 {
            return;
        }
        let Ok(mut all) = self.owed.try_lock() else {
            return;
        };
        for _ in 0..TRIED.min(all.len()) {
            let Some(mut owed) = all.pop_front() else {
                break;
            };
            let (buffer, mut for_good) = (&owed.buffer, false);
            owed.streams
                .retain(|stream| match note(buffer, *stream, &queue_of) {
                    Ok(()) => false,
                    Err(error) => {
                        for_good |= !is_for_now(&error);
                        true
                    }
                });
            if for_good {
                // Nobody will know when its stream is done.
                let _kept = owed.buffer.into_raw();
            } else if !owed.streams.is_empty() {
                all.push_back(owed);
            }
        }
        self.count.store(all.len(), Ordering::Release);
    }

    /// Sees to it that no owed free needs a stream any more, which is about to be gone: its use is noted, or where its
    /// queue is refused because too many are known, its work is waited for.
    ///
    /// # Errors
    ///
    /// Why neither could be done; what is owed stays then.
    pub(crate) fn settle(
        &self,
        stream: S,
        queue_of: impl Lookup<S>,
        finish: impl Fn(S) -> Result<()>,
    ) -> Result<()> {
        if self.owed() == 0 {
            return Ok(());
        }
        let mut all = lock(&self.owed);
        let concerns = |owed: &Owed<S>| owed.streams.contains(&stream);
        if !all.iter().any(concerns) {
            return Ok(());
        }
        match queue_of(stream) {
            Ok(queue) => {
                for owed in all.iter().filter(|owed| concerns(owed)) {
                    let _next_signal = owed.buffer.note_use(&queue);
                }
            }
            Err(error) if error.kind() == ErrorKind::LimitExceeded => finish(stream)?,
            Err(error) => return Err(error),
        }
        for owed in all.iter_mut() {
            owed.streams.retain(|other| *other != stream);
        }
        all.retain(|owed| !owed.streams.is_empty());
        self.count.store(all.len(), Ordering::Release);
        Ok(())
    }
}

/// The error that says most of how long memory has to be kept.
fn worse(before: Option<Error>, error: Error) -> Option<Error> {
    match before {
        Some(before) if !is_for_now(&before) || is_for_now(&error) => Some(before),
        _ => Some(error),
    }
}

/// Notes that a stream's work uses a buffer. It covers all that the stream was given so far, and so what it had when the
/// buffer was freed.
///
/// # Errors
///
/// Why the stream cannot be looked up.
fn note<S>(buffer: &Buffer, stream: S, queue_of: &impl Lookup<S>) -> Result<()> {
    let queue = queue_of(stream)?;
    // A failure leaves the use to the next signal of the stream.
    let _next_signal = buffer.note_use(&queue);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::{Sender, channel};

    use memory::Request;

    use super::*;

    /// A pool and two streams, of which the second can be looked up when it is told.
    struct Two {
        allocator: Allocator,
        queues: [Arc<Queue>; 2],
        refused: Cell<Option<ErrorKind>>,
        frees: Frees<usize>,
    }

    impl Two {
        fn new() -> Self {
            let allocator = Allocator::host().unwrap();
            let queues = [(); 2].map(|()| Arc::new(allocator.create_queue().unwrap()));
            Self {
                allocator,
                queues,
                refused: Cell::default(),
                frees: Frees::default(),
            }
        }

        fn queue_of(&self, stream: usize) -> Result<Arc<Queue>> {
            match self.refused.get().filter(|_| stream == 1) {
                Some(kind) => Err(Error::new(kind, "not now")),
                None => Ok(Arc::clone(&self.queues[stream])),
            }
        }

        fn buffer(&self, stream: usize) -> (usize, Buffer) {
            let request = Request::new(1 << 20).queue(&self.queues[stream]);
            let buffer = self.allocator.allocate_with(&request).unwrap();
            let address = buffer.binding().host.unwrap().as_ptr().addr();
            (address, buffer)
        }

        fn free(&self, what: (usize, Buffer), stream: usize) -> Result<()> {
            self.frees
                .free(what, stream, |stream| self.queue_of(stream))
        }

        fn retry(&self) {
            self.frees.retry(|stream| self.queue_of(stream));
        }

        fn live(&self) -> u64 {
            self.allocator.stats().live.value
        }

        /// Holds a stream until the sender is dropped.
        fn hold(&self, stream: usize) -> Sender<()> {
            let (open, gate) = channel::<()>();
            let held = move || {
                let _opened = gate.recv();
            };
            self.queues[stream].call(held).unwrap();
            open
        }

        /// Whether whoever asks on the first stream gets this memory.
        fn is_given(&self, address: usize) -> bool {
            self.buffer(0).0 == address
        }
    }

    #[test]
    fn a_free_whose_stream_is_not_found_is_owed_and_told_once() {
        for kind in [ErrorKind::Busy, ErrorKind::LimitExceeded] {
            let two = Two::new();
            two.refused.set(Some(kind));
            let buffers = [(); 20].map(|()| two.buffer(1));
            let address = buffers[0].0;
            let told = buffers.map(|buffer| two.free(buffer, 1).err().map(|error| error.kind()));
            assert_eq!(told[0], Some(kind));
            assert_eq!(told[1..], [None; 19]);
            assert_eq!(two.frees.owed(), 20);
            two.retry();
            assert_eq!(two.frees.owed(), 20);
            assert_eq!(two.live(), 20 << 20);
            // Found again, its work comes first.
            two.refused.set(None);
            let open = two.hold(1);
            for _ in 0..3 {
                two.retry();
            }
            assert_eq!((two.frees.owed(), two.live()), (0, 0));
            assert!(!two.is_given(address), "the stream has it");
            drop(open);
            two.queues[1].fence().unwrap().wait(None).unwrap();
        }
    }

    #[test]
    fn a_free_that_will_never_be_possible_keeps_the_memory() {
        let two = Two::new();
        two.refused.set(Some(ErrorKind::InvalidRequest));
        let error = two.free(two.buffer(1), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!((two.frees.owed(), two.live()), (0, 1 << 20));
    }

    #[test]
    fn a_recorded_stream_is_found_by_any_address_inside() {
        let two = Two::new();
        let (address, buffer) = two.buffer(0);
        assert!(two.frees.record(&two.allocator, address + 256, 1));
        assert!(!two.frees.record(&two.allocator, 1, 1));
        let open = two.hold(1);
        two.free((address, buffer), 0).unwrap();
        assert!(!two.is_given(address), "the recorded stream has it");
        drop(open);
        assert!(lock(&two.frees.used_on).is_empty());
    }

    #[test]
    fn a_recorded_stream_that_is_not_found_is_waited_for_later() {
        let two = Two::new();
        two.refused.set(Some(ErrorKind::Busy));
        let (address, buffer) = two.buffer(0);
        assert!(two.frees.record(&two.allocator, address, 1));
        two.free((address, buffer), 0).unwrap_err();
        assert!(!two.is_given(address));
        two.refused.set(None);
        two.retry();
        two.queues[1].fence().unwrap().wait(None).unwrap();
        assert_eq!((two.frees.owed(), two.live()), (0, 0));
    }

    #[test]
    fn a_stream_that_goes_is_needed_by_no_free() {
        for (kind, may_go) in [(ErrorKind::LimitExceeded, true), (ErrorKind::Busy, false)] {
            let two = Two::new();
            two.refused.set(Some(kind));
            two.free(two.buffer(1), 1).unwrap_err();
            let finished = Cell::new(0);
            let finish = |stream| {
                finished.set(stream);
                Ok(())
            };
            let lookup = |stream| two.queue_of(stream);
            two.frees.settle(0, lookup, finish).unwrap();
            assert_eq!(finished.get(), 0);
            let settled = two.frees.settle(1, lookup, finish);
            assert_eq!(settled.is_ok(), may_go);
            assert_eq!(
                (finished.get(), two.frees.owed()),
                if may_go { (1, 0) } else { (0, 1) }
            );
        }
    }
}
