//! The state of one instance of a model.

use std::sync::{Mutex, MutexGuard, PoisonError};

use weldpool_engine::{Canceller, Instance as EngineInstance};
use weldpool_triton_sys::InstanceGroupKind;

use crate::error::{Error, ErrorCode, Result};
use crate::handles::{Instance, Stateful as _};

/// One execution of a model.
#[derive(Debug)]
pub(crate) struct InstanceState {
    /// Triton runs one execution at a time on an instance; the lock is never waited for.
    run: Mutex<Box<dyn EngineInstance>>,
    /// Stops what runs; missing where the engine cannot.
    pub(crate) canceller: Option<Canceller>,
}

impl InstanceState {
    /// The engine's instance, for one run.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Box<dyn EngineInstance>> {
        // Engines leave their instances usable whatever happens in a run.
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the engine's instance.
///
/// # Errors
/// `Unsupported` for an instance on a GPU, which no engine of this build uses; what the engine
/// says.
pub(crate) fn initialise(instance: Instance) -> Result<()> {
    let name = instance.name()?;
    check_kind(instance.kind()?, &format!("instance '{name}'"))?;
    let model = instance.model()?;
    let run = model
        .state()?
        .model
        .instance()
        .map_err(|error| Error::from(error).context(&name))?;
    instance.set_state(Box::new(InstanceState {
        canceller: run.canceller(),
        run: Mutex::new(run),
    }))?;
    tracing::debug!("instance '{name}' is ready");
    Ok(())
}

/// Whether the instance can run.
///
/// # Errors
/// `Internal` for one that was not made, or whose pool has lost its device.
pub(crate) fn check_ready(instance: &Instance) -> Result<()> {
    instance.state()?;
    let model = instance.model()?;
    // Asks the device, which says so if it was lost.
    model.state()?.allocator.device().budget()?;
    Ok(())
}

/// Refuses an instance, or a group of such, that would run elsewhere than the configuration says.
pub(crate) fn check_kind(kind: Option<InstanceGroupKind>, what: &str) -> Result<()> {
    match kind {
        Some(InstanceGroupKind::Auto | InstanceGroupKind::Cpu | InstanceGroupKind::Model) => Ok(()),
        Some(InstanceGroupKind::Gpu) => Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "{what} is of KIND_GPU, but no engine of this build of metal_mps runs on a GPU, and \
                 it would not do to run it on the CPU unsaid: use KIND_CPU or KIND_AUTO"
            ),
        )),
        None => Err(Error::new(
            ErrorCode::Unsupported,
            format!("{what} is of a kind that is not known"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gpu_and_what_is_not_known_are_refused() {
        for kind in InstanceGroupKind::ALL {
            let checked = check_kind(Some(*kind), "instance 'm_0'");
            assert_eq!(
                checked.is_err(),
                *kind == InstanceGroupKind::Gpu,
                "{kind:?}"
            );
        }
        for kind in [None, Some(InstanceGroupKind::Gpu)] {
            let error = check_kind(kind, "instance 'm_0'").unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unsupported);
            assert!(
                error.message().starts_with("instance 'm_0' is of "),
                "{error}"
            );
        }
    }
}
