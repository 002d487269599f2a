//! What a queue of a fake device does, and how it touches the device's memory.

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use crate::device::fake::address_space::Reach;
use crate::device::fake::store::Pages;
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::raw::{Address, Transfer};
use crate::device::{Location, Timeline};
use crate::error::{Error, ErrorKind};
use crate::sync::{Arc, OnceLock};

/// The memory that the queues of a device work on.
pub(in crate::device::fake) trait Memory: fmt::Debug + Send + Sync {
    /// What a location of `bytes` bytes stands for on this device.
    fn identify(&self, location: &Location, bytes: usize) -> Result<Side, Violation>;

    /// The memory under a range of the device's addresses, if work may touch all of it.
    fn reach(&self, address: u64, bytes: usize) -> Result<Vec<Reach>, Violation>;
}

/// One side of a transfer.
#[derive(Debug)]
pub(in crate::device::fake) enum Side {
    /// An address of the device.
    Device(u64),
    /// Memory of the host that the device does not know, valid by the contract of the submission.
    Host(Address),
}

/// A copy or fill. Valid and unraced until it has run, by the contract of the submission.
#[derive(Debug)]
pub(in crate::device::fake) struct Move {
    pub(in crate::device::fake) source: Source,
    pub(in crate::device::fake) destination: Side,
    pub(in crate::device::fake) bytes: usize,
}

/// Where the bytes of a transfer come from.
#[derive(Debug)]
pub(in crate::device::fake) enum Source {
    Memory(Side),
    Value(u8),
}

/// What is submitted to a queue.
pub(super) enum Work {
    Move(Move),
    Call(Box<dyn FnOnce() + Send>),
    Wait(Arc<dyn Timeline>, u64),
    /// A command buffer of Metal's, or a part of one that begins with waits; all parts of one know why it was terminated, if
    /// it was.
    Buffer(Vec<Command>, Arc<OnceLock<Error>>, End),
}

/// What a command buffer has a queue do.
pub(in crate::device::fake) enum Command {
    Move(Move),
    Wait(Arc<dyn Timeline>, u64),
    /// An event is raised, for one.
    Do(Box<dyn FnOnce() + Send>),
    /// Memory is touched in another way.
    Touch(Box<dyn FnOnce() -> Result<(), Error> + Send>),
}

/// What is called at the end of a command buffer, in any case.
pub(super) struct End(pub(super) Option<Ended>);

/// Called with what became of a command buffer.
pub(in crate::device::fake) type Ended = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl End {
    pub(super) fn call(mut self, outcome: Result<(), Error>) {
        if let Some(ended) = self.0.take() {
            ended(outcome);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended(Err(Error::new(ErrorKind::DeviceLost, "the queue was lost")));
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move(work) => work.fmt(f),
            Self::Wait(_, value) => write!(f, "Wait({value})"),
            Self::Do(_) => f.write_str("Do(..)"),
            Self::Touch(_) => f.write_str("Touch(..)"),
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move(work) => work.fmt(f),
            Self::Call(_) => f.write_str("Call(..)"),
            Self::Wait(_, value) => write!(f, "Wait({value})"),
            Self::Buffer(commands, ..) => write!(f, "Buffer({})", commands.len()),
        }
    }
}

/// Why a transfer did not run.
#[derive(Debug)]
pub(super) enum Failure {
    /// It would have broken a rule.
    Broken(Violation),
    /// This process has no memory for the contents.
    System(Error),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

/// Consecutive memory of this process, kept mapped while the value lives.
struct Piece {
    address: NonNull<u8>,
    bytes: usize,
    _pages: Option<Arc<Pages>>,
}

impl Piece {
    fn location(&self, offset: usize) -> Location {
        // SAFETY: every caller keeps `offset` within the piece.
        let host = unsafe { self.address.add(offset) };
        Location {
            host: Some(host),
            device: None,
            resource: None,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.address.as_ptr().addr(), other.address.as_ptr().addr());
        one < two + other.bytes && two < one + self.bytes
    }
}

impl Move {
    /// Whether it keeps the rules as things stand.
    pub(super) fn check(&self, memory: &dyn Memory) -> Result<(), Violation> {
        let check = |side: &Side| match side {
            Side::Device(address) => memory.reach(*address, self.bytes).map(drop),
            Side::Host(_) => Ok(()),
        };
        if let Source::Memory(side) = &self.source {
            check(side)?;
        }
        check(&self.destination)
    }

    /// Runs it, if it keeps the rules as things stand now.
    ///
    /// # Safety
    ///
    /// Memory of the host is valid, and nothing else touches what is written nor writes what is read.
    pub(super) unsafe fn run(&self, memory: &dyn Memory) -> Result<(), Failure> {
        let destination = pieces(&self.destination, self.bytes, memory)?;
        let side = match &self.source {
            Source::Memory(side) => side,
            Source::Value(value) => {
                for piece in destination {
                    // SAFETY: the piece is mapped, and the caller keeps others away.
                    let fill = unsafe { Transfer::fill(piece.location(0), piece.bytes, *value) };
                    if let Some(fill) = fill {
                        fill.run();
                    }
                }
                return Ok(());
            }
        };
        let source = pieces(side, self.bytes, memory)?;
        let clash = |from: &Piece| destination.iter().any(|to| from.overlaps(to));
        if source.iter().any(clash) {
            broken(
                Rule::Disjoint,
                format!(
                    "a copy of {} bytes between addresses of the same memory",
                    self.bytes
                ),
            )?;
        }
        // Pieces of both sides end at different places: go from one end to the next.
        let (mut from, mut to) = (Cursor::new(&source), Cursor::new(&destination));
        while let (Some((read, have)), Some((write, room))) = (from.here(), to.here()) {
            let bytes = have.min(room);
            // SAFETY: both are mapped for these bytes and disjoint, and the caller keeps others away.
            let copy = unsafe { Transfer::copy(read, write, bytes) };
            if let Some(copy) = copy {
                copy.run();
            }
            from.advance(bytes);
            to.advance(bytes);
        }
        Ok(())
    }
}

/// A place in a list of pieces.
struct Cursor<'a> {
    pieces: &'a [Piece],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        Self { pieces, offset: 0 }
    }

    /// Where it stands, and the bytes from there to the end of the piece.
    fn here(&self) -> Option<(Location, usize)> {
        let piece = self.pieces.first()?;
        Some((piece.location(self.offset), piece.bytes - self.offset))
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes;
        if let Some((piece, rest)) = self.pieces.split_first()
            && self.offset == piece.bytes
        {
            self.pieces = rest;
            self.offset = 0;
        }
    }
}

fn pieces(side: &Side, bytes: usize, memory: &dyn Memory) -> Result<Vec<Piece>, Failure> {
    let address = match side {
        Side::Device(address) => *address,
        Side::Host(address) => {
            return Ok(vec![Piece {
                address: address.0,
                bytes,
                _pages: None,
            }]);
        }
    };
    memory
        .reach(address, bytes)?
        .into_iter()
        .map(|reach| {
            let pages = reach.store.pages().map_err(Failure::System)?;
            // SAFETY: `reach` gives offsets inside the store, whose pages these are.
            let address = unsafe { pages.address().add(reach.offset) };
            Ok(Piece {
                address,
                bytes: reach.bytes,
                _pages: Some(pages),
            })
        })
        .collect()
}
