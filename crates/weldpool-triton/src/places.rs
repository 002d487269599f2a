//! Where a run writes the outputs of a request that runs alone: to the answer's memory, where the
//! shape is sure before.
//!
//! An output that was added to an answer cannot be taken back: Triton's gRPC server has it in its
//! message then. So nothing is added on a guess. Answers have their outputs in the model's order,
//! so an output that comes behind one of an unknown shape is copied, as that one is.
#![allow(unsafe_code)]

use std::ops::Range;

use weldpool_engine::{DataType, Tensor, element_count};

use crate::batch::{Port, Ports};
use crate::error::{Error, Result};
use crate::execute::Member;
use crate::few::Few;
use crate::handles::OutputMemory;

/// Memory of an answer, by outputs.
#[derive(Debug, Default)]
pub(crate) struct Places<'r> {
    /// Written by the run itself.
    direct: Few<Direct<'r>>,
    /// Copied to after the run: the elements cannot be written there, or lie over what the run
    /// reads or writes.
    copied: Few<Copied<'r>>,
}

/// An output that a run writes to the answer's memory.
#[derive(Debug)]
pub(crate) struct Direct<'r> {
    /// Its position among the model's outputs.
    pub(crate) port: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: &'r mut [u8],
}

#[derive(Debug)]
struct Copied<'r> {
    port: usize,
    shape: Vec<usize>,
    memory: OutputMemory<'r>,
}

impl<'r> Places<'r> {
    /// Adds outputs to the answer, those in front of the first whose shape is not known. `read` is
    /// all memory that the run reads through slices.
    pub(crate) fn reserve(
        ports: &Ports,
        member: &'r Member<'_>,
        mut shapes: Vec<Option<Vec<usize>>>,
        read: &[&'r [u8]],
    ) -> Result<Places<'r>> {
        let mut places = Places::default();
        let mut used: Few<Range<usize>> = read.iter().map(|bytes| addresses(bytes)).collect();
        for port in &member.asked.outputs {
            let output = &ports.outputs[*port];
            let shape = shapes.get_mut(*port).and_then(Option::take);
            let Some(shape) = shape.filter(|_| output.data_type != DataType::Bytes) else {
                break;
            };
            let memory = add(member, output, &shape)?;
            let port = *port;
            let here = memory.addresses();
            let aligned = output.data_type.byte_size();
            let aligned = aligned.is_some_and(|size| here.start.is_multiple_of(size));
            if here.is_empty() || (aligned && !used.iter().any(|used| overlap(used, &here))) {
                used.push(here);
                // SAFETY: no byte of it is in what the run reads through slices, nor in another
                // output that it writes through one.
                let bytes = unsafe { memory.into_slice() };
                places.direct.push(Direct { port, shape, bytes });
            } else {
                places.copied.push(Copied {
                    port,
                    shape,
                    memory,
                });
            }
        }
        Ok(places)
    }

    /// What the run itself writes.
    pub(crate) fn direct(&mut self) -> impl Iterator<Item = &mut Direct<'r>> {
        self.direct.iter_mut()
    }

    /// Copies the rest of what a run made, which is taken out of `made`.
    ///
    /// # Errors
    /// `Internal` for an output of another shape than was sure: the model's file is wrong.
    pub(crate) fn copy_from(self, ports: &Ports, made: &mut [Option<Tensor>]) -> Result<()> {
        for place in self.copied {
            let name = &ports.outputs[place.port].name;
            let tensor = made
                .get_mut(place.port)
                .and_then(Option::take)
                .ok_or_else(|| Error::internal(format!("the run made no output '{name}'")))?;
            if tensor.shape() != place.shape {
                return Err(Error::internal(format!(
                    "output '{name}' has the shape {:?}, but by the model's file it is {:?}",
                    tensor.shape(),
                    place.shape
                )));
            }
            place.memory.write(&tensor.bytes()?);
        }
        Ok(())
    }
}

/// Adds an output of numbers, of this shape, to an answer.
fn add<'r>(member: &'r Member<'_>, output: &Port, shape: &[usize]) -> Result<OutputMemory<'r>> {
    let bytes = element_count(shape)
        .zip(output.data_type.byte_size())
        .and_then(|(elements, size)| elements.checked_mul(size))
        .ok_or_else(|| Error::internal(format!("output '{}' is too large", output.name)))?;
    output.add_to(member.responder.response()?, shape, bytes)
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start.saturating_add(bytes.len())
}

/// Whether both have an address in common.
fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_where_they_share_an_address() {
        for (other, expected) in [
            (0..10, false),
            (0..11, true),
            (12..13, true),
            (10..20, true),
            (19..30, true),
            (20..30, false),
            (15..15, true),
            (10..10, false),
        ] {
            assert_eq!(overlap(&(10..20), &other), expected, "{other:?}");
            assert_eq!(overlap(&other, &(10..20)), expected, "{other:?}");
        }
    }
}
