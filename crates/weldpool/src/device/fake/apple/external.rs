//! What somebody else does who submits by himself, as MPSGraph does.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::FakeApple;
use super::pools::pooled;
use crate::binding::Binding;
use crate::device::ExternalOrder;
use crate::device::metal::raw::{CommandBuffer, CommandQueue, Encoder, Metal as _};
use crate::error::{Error, ErrorKind, Result};

impl FakeApple {
    /// Commits a command buffer to the command queue of an [`ExternalOrder`], which waits for what that says, calls `work`
    /// in a pass of its own, and signals. A panic of `work` is caught and logged. `touches` is the memory that the work uses, and whether it writes it. The model
    /// notices whoever forgets to announce a submission or keeps another order: memory that is used beside other work
    /// ([`Ordered`](crate::device::fake::Rule::Ordered)) or was not made resident
    /// ([`ResidencyCommitted`](crate::device::fake::Rule::ResidencyCommitted)).
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for objects that are not this device's, or
    /// [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn submit_external(
        &self,
        order: &ExternalOrder,
        touches: &[(Binding<'_>, bool)],
        work: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let unknown = || Error::new(ErrorKind::InvalidRequest, "an object of another device");
        let metal = self.metal();
        pooled(|| {
            let queue = metal.queue(order.queue).ok_or_else(unknown)?;
            let event = |object| metal.event(object).ok_or_else(unknown);
            let (wait, signal) = (event(order.wait.0)?, event(order.signal.0)?);
            let mut used = Vec::new();
            for (binding, writes) in touches {
                let (resource, offset) = binding.resource.ok_or_else(unknown)?;
                let buffer = metal.find_buffer(resource).ok_or_else(unknown)?;
                used.push((buffer, offset..offset + binding.bytes, *writes));
            }
            let touches: Vec<_> = used
                .iter()
                .map(|(buffer, range, writes)| (buffer, range.clone(), *writes))
                .collect();
            let commands = queue.command_buffer()?;
            commands.wait_for(&wait, order.wait.1);
            let pass = commands.blit_encoder()?;
            pass.run(
                &touches,
                Box::new(move || {
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        tracing::error!("work that others submitted panicked");
                    }
                }),
            );
            pass.end();
            commands.signal(&signal, order.signal.1);
            commands.commit();
            Ok(())
        })
    }
}
