//! Regions: what an arena's positions stand for.

use crate::binding::Base;
use crate::device::{AddressRange, Segment};
use crate::space::Range;

/// A segment or a reserved range of addresses, at a place in its arena's numbering.
#[derive(Debug)]
pub(crate) struct Region {
    /// Position of its first byte: its address, where it has one.
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) base: Base,
    pub(crate) backing: Backing,
}

#[derive(Debug)]
pub(crate) enum Backing {
    Segment(Box<dyn Segment>),
    Addresses(Box<dyn AddressRange>),
}

impl Region {
    /// `unaddressed` is its position if neither host nor device has an address for it.
    pub(crate) fn of_segment(segment: Box<dyn Segment>, unaddressed: usize) -> Self {
        let base = Base::of_segment(segment.as_ref());
        Self {
            start: base.number().unwrap_or(unaddressed),
            bytes: segment.bytes(),
            base,
            backing: Backing::Segment(segment),
        }
    }

    pub(crate) fn of_addresses(range: Box<dyn AddressRange>, unaddressed: usize) -> Self {
        let base = Base::of_range(range.as_ref());
        Self {
            start: base.number().unwrap_or(unaddressed),
            bytes: range.bytes(),
            base,
            backing: Backing::Addresses(range),
        }
    }

    pub(crate) const fn end(&self) -> usize {
        self.start + self.bytes
    }

    pub(crate) const fn range(&self) -> Range {
        Range {
            start: self.start,
            bytes: self.bytes,
        }
    }

    /// The reserved addresses, if this is such a region.
    pub(crate) fn addresses(&self) -> Option<&dyn AddressRange> {
        match &self.backing {
            Backing::Addresses(range) => Some(range.as_ref()),
            Backing::Segment(_) => None,
        }
    }
}
