//! Copies from memory of a peer, and what makes the host's copy of managed memory as the device's is.

#![forbid(unsafe_code)]

use super::MetalQueue;
use crate::device::StorageMode;
use crate::device::metal::blit::{By, Part};
use crate::device::metal::kernels::encode_copy;
use crate::device::metal::peers::{PASSAGE_BYTES, legs};
use crate::device::metal::raw::{BlitEncoder, Buffer, CommandBuffer, Metal, Object};
use crate::error::Result;

impl<M: Metal> MetalQueue<M> {
    /// Encodes a pass after which the host's copy of managed memory is what the device's is. What was written may lie in
    /// the device's caches until then (documentation of `synchronizeResource:`).
    pub(super) fn synchronize(&self, commands: &M::Commands, written: &M::Buffer) -> Result<()> {
        if self.shared.two_copies && written.storage_mode() == StorageMode::Managed {
            self.pass(commands.blit_encoder()?, |blit| blit.synchronize(written));
        }
        Ok(())
    }

    /// Submits a copy from a view of a peer's memory.
    pub(super) fn submit_view(
        &self,
        view: &M::Buffer,
        to: &M::Buffer,
        parts: &[(By, Part)],
    ) -> Result<()> {
        if parts.is_empty() {
            // As in `submit_moves`.
            return Ok(());
        }
        let metal = &self.shared.metal;
        let kernel = M::pooled(|| {
            let pipeline = self.shared.kernels.copy_for(metal, parts)?;
            let kernel = pipeline.map(|pipeline| -> Result<_> {
                let passage = metal.new_buffer(PASSAGE_BYTES, StorageMode::Private)?;
                passage.set_label("weldpool passage");
                Ok((pipeline, passage))
            });
            kernel.transpose()
        })?;
        let of = |by: By| {
            let parts = parts.iter().filter(move |part| part.0 == by);
            parts.map(|(_, part)| part)
        };
        self.submit("weldpool peer copy", &mut self.state.lock(), |commands| {
            if of(By::Blit).next().is_some() {
                self.pass(commands.blit_encoder()?, |blit| {
                    for part in of(By::Blit) {
                        blit.copy((view, part.from), (to, part.to), part.bytes);
                    }
                });
            }
            if let Some((pipeline, passage)) = &kernel {
                for leg in of(By::Kernel).flat_map(legs) {
                    self.pass(commands.blit_encoder()?, |blit| {
                        blit.copy((view, leg.from), (passage, 0), leg.around);
                    });
                    self.pass(commands.compute_encoder()?, |encoder| {
                        let part = leg.part;
                        let (from, to) = ((passage, part.from), (to, part.to));
                        encode_copy::<M>(encoder, pipeline, from, to, part.bytes);
                    });
                }
            }
            self.synchronize(commands, to)
        })
    }
}
