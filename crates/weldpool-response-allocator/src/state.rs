//! What the callbacks decide.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::Arc;

use weldpool::Name;

use crate::allocator::Handle;
use crate::block::Block;
use crate::counters::{Counters, count};
use crate::error::{Error, ErrorKind, Result};
use crate::functions::Functions;
use crate::options::{Options, Order};
use crate::place::{DISTANCES, Place, Wanted};
use crate::source::Source;

/// Most sources of one allocator.
const SOURCES_MAX: usize = 64;

/// An allocator, shared with the buffers that are out.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) counters: Counters,
    pub(crate) functions: Functions,
    pub(crate) handle: Handle,
    first: Source,
    others: Vec<Source>,
    order: Order,
    name: Name,
}

impl State {
    pub(crate) fn new(
        functions: Functions,
        sources: impl IntoIterator<Item = Source>,
        options: &Options,
    ) -> Result<State> {
        let mut sources = sources.into_iter();
        let first = sources.next().ok_or_else(|| {
            let message = "a response allocator needs a source of memory";
            Error::new(ErrorKind::InvalidArgument, message)
        })?;
        let others: Vec<_> = sources.by_ref().take(SOURCES_MAX - 1).collect();
        if sources.next().is_some() {
            let message = format!("a response allocator has at most {SOURCES_MAX} sources");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(State {
            counters: Counters::default(),
            functions,
            handle: Handle::new(functions)?,
            first,
            others,
            order: options.order,
            name: Name::intern(&options.name),
        })
    }

    /// The sources as the list has them.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The sources in the order in which they are asked.
    fn in_order(&self, wanted: Wanted) -> impl Iterator<Item = &Source> {
        let distances = match self.order {
            Order::Nearest => 0..=DISTANCES,
            Order::Listed => 0..=0,
        };
        distances.flat_map(move |distance| {
            self.sources().filter(move |source| {
                self.order == Order::Listed || source.distance(wanted) == distance
            })
        })
    }

    /// What memory an output gets if there is enough of it.
    pub(crate) fn preferred(&self, wanted: Wanted) -> Place {
        let source = self.in_order(wanted).next();
        source.unwrap_or(&self.first).place()
    }

    /// Memory for an output of some bytes.
    pub(crate) fn serve(
        self: &Arc<Self>,
        tensor: &str,
        bytes: usize,
        wanted: Wanted,
    ) -> Result<Box<Block>> {
        let mut refusal: Option<Error> = None;
        for source in self.in_order(wanted) {
            match source.allocate(bytes, self.name) {
                Ok((memory, place)) => {
                    if refusal.is_some() {
                        count(&self.counters.fallbacks);
                    }
                    return Ok(Box::new(Block::new(memory, place, bytes, Arc::clone(self))));
                }
                Err(error) => refusal = Some(join(refusal, source, &error)),
            }
        }
        count(&self.counters.failures);
        let refusal =
            refusal.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no source was asked"));
        Err(Error::new(
            refusal.kind(),
            format!("no memory for the {bytes} bytes of output '{tensor}': {refusal}"),
        ))
    }
}

/// What sources said so far and what another one says; the kind is that of the one that may change its mind, if
/// there is one, else the first's.
fn join(so_far: Option<Error>, source: &Source, error: &Error) -> Error {
    let Some(so_far) = so_far else {
        return Error::new(error.kind(), format!("{source}: {error}"));
    };
    let kind = match error.kind() {
        ErrorKind::Unavailable => ErrorKind::Unavailable,
        _ => so_far.kind(),
    };
    let mut message = so_far.to_string();
    // Writing to a text does not fail.
    let _ = write!(message, "; {source}: {error}");
    Error::new(kind, message)
}
