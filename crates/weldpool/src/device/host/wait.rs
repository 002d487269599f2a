//! Waits for descriptors, a wake-up from another thread, or the end of an interval.

#![forbid(unsafe_code)]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Ordering};

/// What a descriptor reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ready {
    pub(crate) event: bool,
    pub(crate) error: bool,
}

/// Wakes the [`Waiter`] it was made with.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    // Here, so that a wake-up without a waiter writes to a pipe that still has a reader: else the system would send
    // SIGPIPE, which ends programs that are not Rust's.
    reader: PipeReader,
    writer: PipeWriter,
    // One byte at most is under way, so the pipe never fills and a wake-up never blocks.
    woken: AtomicBool,
}

impl Waker {
    pub(crate) fn wake(&self) {
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            // Once the waiter is gone there is nobody to wake.
            let _ = (&self.0.writer).write_all(&[0]);
        }
    }
}

/// The waiting side.
#[derive(Debug)]
pub(crate) struct Waiter(Arc<Shared>);

impl Waiter {
    /// A waiter and its waker.
    pub(crate) fn new() -> Result<(Self, Waker)> {
        let (reader, writer) =
            std::io::pipe().map_err(|error| Error::system(ErrorKind::System, "pipe", &error))?;
        let shared = Arc::new(Shared {
            reader,
            writer,
            woken: AtomicBool::new(false),
        });
        let waker = Waker(Arc::clone(&shared));
        Ok((Self(shared), waker))
    }

    /// Waits until a descriptor has `POLLPRI` or `POLLERR`, the waker was used, or `timeout` is
    /// over. Fills `ready`, which is as long as `descriptors`, and says whether it was woken.
    pub(crate) fn wait<'a>(
        &mut self,
        descriptors: impl Iterator<Item = &'a OwnedFd>,
        ready: &mut Vec<Ready>,
        timeout: Duration,
    ) -> Result<bool> {
        let deadline = Instant::now().checked_add(timeout);
        let mut polled = vec![PollFd::from_borrowed_fd(
            self.0.reader.as_fd(),
            PollFlags::IN,
        )];
        polled.extend(descriptors.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::PRI)));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut polled, left.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Error::system(ErrorKind::System, "poll", &error.into()));
                }
            }
        }
        ready.clear();
        ready.extend(polled.iter().skip(1).map(|fd| {
            let flags = fd.revents();
            Ready {
                event: flags.contains(PollFlags::PRI),
                error: flags.intersects(PollFlags::ERR | PollFlags::NVAL | PollFlags::HUP),
            }
        }));
        let woken = !polled[0].revents().is_empty();
        drop(polled);
        if woken {
            // The flag is cleared after the byte is taken: a wake-up between the two is part of
            // this one, because the caller looks at its state only after this returns.
            let mut byte = [0];
            (&self.0.reader)
                .read_exact(&mut byte)
                .map_err(|error| Error::system(ErrorKind::System, "read of a pipe", &error))?;
            self.0.woken.swap(false, Ordering::AcqRel);
        }
        Ok(woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_ends_the_wait_once() {
        let (mut waiter, waker) = Waiter::new().unwrap();
        for _ in 0..3 {
            for _ in 0..100_000 {
                waker.wake();
            }
            let mut ready = Vec::new();
            let long = Duration::from_secs(60);
            assert!(waiter.wait(std::iter::empty(), &mut ready, long).unwrap());
            let none = Duration::ZERO;
            assert!(!waiter.wait(std::iter::empty(), &mut ready, none).unwrap());
        }
    }

    #[test]
    fn a_plain_file_never_has_an_event() {
        let (mut waiter, _waker) = Waiter::new().unwrap();
        let file = OwnedFd::from(std::fs::File::open(std::env::current_exe().unwrap()).unwrap());
        let mut ready = Vec::new();
        let short = Duration::from_millis(5);
        assert!(
            !waiter
                .wait(std::iter::once(&file), &mut ready, short)
                .unwrap()
        );
        assert_eq!(ready, [Ready::default()]);
    }

    #[test]
    fn a_wake_up_without_a_waiter_finds_a_reader() {
        let (waiter, waker) = Waiter::new().unwrap();
        drop(waiter);
        for _ in 0..100_000 {
            waker.wake();
        }
        let mut byte = [0];
        (&waker.0.reader).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0], "what was written came through");
    }
}
