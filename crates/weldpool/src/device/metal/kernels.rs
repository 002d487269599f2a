//! The kernels that move what blits cannot: bytes at any place.

#![forbid(unsafe_code)]

use super::blit::{By, Part};
use super::raw::{ComputeEncoder, Metal};
use crate::error::Result;
use crate::sync::{Mutex, OnceLock};

/// The source of both. Buffers are bound at multiples of [`BIND_ALIGNMENT`], and what is left is an argument.
pub(in crate::device) const SOURCE: &str = r"
#include <metal_stdlib>
using namespace metal;

struct Places { ulong from; ulong to; };

kernel void weldpool_copy(device const uchar* from [[buffer(0)]], device uchar* to [[buffer(1)]],
                          constant Places& places [[buffer(2)]], uint at [[thread_position_in_grid]]) {
    to[places.to + at] = from[places.from + at];
}

struct Place { ulong to; uchar value; };

kernel void weldpool_fill(device uchar* to [[buffer(1)]], constant Place& place [[buffer(2)]],
                          uint at [[thread_position_in_grid]]) {
    to[place.to + at] = place.value;
}
";
/// The functions of [`SOURCE`].
pub(in crate::device) const COPY: &str = "weldpool_copy";
pub(in crate::device) const FILL: &str = "weldpool_fill";

/// What a bound buffer's offset is a multiple of on every GPU (Metal's feature set tables: 256 bytes on Intel Macs).
const BIND_ALIGNMENT: usize = 256;
/// Threads of one dispatch: their numbers have 32 bits.
const THREADS_MAX: usize = 1 << 30;

/// Where the arguments of both kernels are bound.
const FROM: usize = 0;
const TO: usize = 1;
const PLACES: usize = 2;

/// The kernels of a device, compiled when first needed.
#[derive(Debug)]
pub(super) struct Kernels<M: Metal> {
    copy: OnceLock<M::Pipeline>,
    fill: OnceLock<M::Pipeline>,
    /// Held while one is compiled, which takes milliseconds.
    compiling: Mutex<()>,
}

impl<M: Metal> Default for Kernels<M> {
    fn default() -> Self {
        Self {
            copy: OnceLock::new(),
            fill: OnceLock::new(),
            compiling: Mutex::default(),
        }
    }
}

fn aligned(offset: usize) -> (usize, u64) {
    (
        offset / BIND_ALIGNMENT * BIND_ALIGNMENT,
        (offset % BIND_ALIGNMENT) as u64,
    )
}

impl<M: Metal> Kernels<M> {
    /// The kernel that copies, if one of the parts needs it. Compiled before an encoder is made, which has to be ended
    /// once it is there.
    pub(super) fn copy_for(&self, metal: &M, parts: &[(By, Part)]) -> Result<Option<&M::Pipeline>> {
        self.for_parts(metal, parts, &self.copy, COPY)
    }

    /// The kernel that fills, likewise.
    pub(super) fn fill_for(&self, metal: &M, parts: &[(By, Part)]) -> Result<Option<&M::Pipeline>> {
        self.for_parts(metal, parts, &self.fill, FILL)
    }

    fn for_parts<'a>(
        &self,
        metal: &M,
        parts: &[(By, Part)],
        place: &'a OnceLock<M::Pipeline>,
        function: &str,
    ) -> Result<Option<&'a M::Pipeline>> {
        let needed = parts.iter().any(|part| part.0 == By::Kernel);
        needed.then(|| self.get(metal, place, function)).transpose()
    }

    fn get<'a>(
        &self,
        metal: &M,
        place: &'a OnceLock<M::Pipeline>,
        function: &str,
    ) -> Result<&'a M::Pipeline> {
        if let Some(pipeline) = place.get() {
            return Ok(pipeline);
        }
        let _compiling = self.compiling.lock();
        match place.get() {
            Some(pipeline) => Ok(pipeline),
            None => {
                let pipeline = metal.new_pipeline(SOURCE, function)?;
                Ok(place.get_or_init(|| pipeline))
            }
        }
    }
}

/// Encodes a copy of bytes.
pub(super) fn encode_copy<M: Metal>(
    encoder: &M::Compute,
    pipeline: &M::Pipeline,
    (from, from_offset): (&M::Buffer, usize),
    (to, to_offset): (&M::Buffer, usize),
    bytes: usize,
) {
    encoder.set_pipeline(pipeline);
    for start in (0..bytes).step_by(THREADS_MAX) {
        let (from_bound, from_rest) = aligned(from_offset + start);
        let (to_bound, to_rest) = aligned(to_offset + start);
        let mut places = [0_u8; 16];
        places[..8].copy_from_slice(&from_rest.to_ne_bytes());
        places[8..].copy_from_slice(&to_rest.to_ne_bytes());
        encoder.set_buffer(from, from_bound, FROM);
        encoder.set_buffer(to, to_bound, TO);
        encoder.set_bytes(&places, PLACES);
        encoder.dispatch((bytes - start).min(THREADS_MAX));
    }
}

/// Encodes a fill of bytes.
pub(super) fn encode_fill<M: Metal>(
    encoder: &M::Compute,
    pipeline: &M::Pipeline,
    (to, to_offset): (&M::Buffer, usize),
    bytes: usize,
    value: u8,
) {
    encoder.set_pipeline(pipeline);
    for start in (0..bytes).step_by(THREADS_MAX) {
        let (bound, rest) = aligned(to_offset + start);
        let mut place = [0_u8; 16];
        place[..8].copy_from_slice(&rest.to_ne_bytes());
        place[8] = value;
        encoder.set_buffer(to, bound, TO);
        encoder.set_bytes(&place, PLACES);
        encoder.dispatch((bytes - start).min(THREADS_MAX));
    }
}
