//! The model of `MTLComputeCommandEncoder`, for the kernels that the device's code has.

#![forbid(unsafe_code)]

use super::encoder::{Access, Encoder};
use super::fence::Fence;
use super::heap::Buffer;
use super::metal::Metal;
use crate::device::fake::queue::Source;
use crate::device::fake::violation::Rule;
use crate::device::metal::raw;
use crate::sync::Mutex;

/// Bytes that are set without a buffer, at most (documentation of `setBytes:length:atIndex:`).
const BYTES_MAX: usize = 4 << 10;

/// An encoder of kernels.
#[derive(Debug)]
pub(in crate::device) struct Compute {
    encoder: Encoder,
    state: Mutex<Bound>,
}

#[derive(Debug, Default)]
struct Bound {
    pipeline: Option<Pipeline>,
    buffers: [Option<(Buffer, usize)>; 2],
    bytes: Vec<u8>,
}

/// A kernel, known by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) enum Pipeline {
    Copy,
    Fill,
}

impl Compute {
    pub(super) fn new(encoder: Encoder) -> Self {
        Self {
            encoder,
            state: Mutex::default(),
        }
    }
}

impl raw::Encoder for Compute {
    type Metal = Metal;

    fn wait_for_fence(&self, fence: &Fence) {
        self.encoder.wait_for_fence(fence);
    }

    fn update_fence(&self, fence: &Fence) {
        self.encoder.update_fence(fence);
    }

    fn end(&self) {
        self.encoder.end();
    }
}

impl raw::ComputeEncoder for Compute {
    fn set_pipeline(&self, pipeline: &Pipeline) {
        self.encoder.enter("setComputePipelineState:");
        self.state.lock().pipeline = Some(*pipeline);
    }

    fn set_buffer(&self, buffer: &Buffer, offset: usize, index: usize) {
        self.encoder.enter("setBuffer:offset:atIndex:");
        let metal = self.encoder.metal();
        let alignment = metal.bind_alignment();
        if !offset.is_multiple_of(alignment) {
            let text =
                format!("a buffer is bound at {offset}; the GPU wants multiples of {alignment}");
            metal.break_rule(Rule::BindAlignment, text);
            return;
        }
        if let Some(place) = self.state.lock().buffers.get_mut(index) {
            *place = Some((buffer.clone(), offset));
        }
    }

    fn set_bytes(&self, bytes: &[u8], _index: usize) {
        self.encoder.enter("setBytes:length:atIndex:");
        if bytes.is_empty() || bytes.len() > BYTES_MAX {
            let text = format!(
                "{} bytes are set; from 1 to {BYTES_MAX} can be",
                bytes.len()
            );
            self.encoder.metal().break_rule(Rule::BytesLength, text);
            return;
        }
        self.state.lock().bytes = bytes.to_vec();
    }

    fn dispatch(&self, threads: usize) {
        self.encoder.enter("dispatchThreads:threadsPerThreadgroup:");
        let state = self.state.lock();
        let number = |at: usize| {
            let bytes = state.bytes.get(at..at + 8)?.try_into().ok()?;
            usize::try_from(u64::from_ne_bytes(bytes)).ok()
        };
        let place = |index: usize, rest: Option<usize>| {
            let (buffer, offset) = state.buffers[index].as_ref()?;
            let place = (buffer, offset + rest?);
            match index {
                0 => self.encoder.side(place, threads, false, Access::Read),
                _ => self.encoder.written(place, threads, false),
            }
        };
        let (source, destination) = match state.pipeline {
            Some(Pipeline::Copy) => (place(0, number(0)).map(Source::Memory), place(1, number(8))),
            Some(Pipeline::Fill) => (
                state.bytes.get(8).map(|&value| Source::Value(value)),
                place(1, number(0)),
            ),
            None => (None, None),
        };
        self.encoder.transfer(source, destination, threads);
    }
}
