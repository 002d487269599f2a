//! Python's pickles, as far as memory snapshots use them: plain values, protocols 2 to 5.
//!
//! Nothing in a pickle is ever run. What it would call or construct becomes [`Node::Opaque`].

#![forbid(unsafe_code)]

mod opcode;
mod reader;
mod writer;

pub(super) use reader::{Limits, NodeId, Tree};
pub(super) use writer::Pickler;
