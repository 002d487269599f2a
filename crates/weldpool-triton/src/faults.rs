//! Faults on purpose, to show what becomes of requests and server. Compiled in with the feature
//! `faults` alone; without it a model asks for none, and its parameter `fault` is unknown.

use weldpool_config::ModelConfig;

use crate::error::{Error, Result};

#[cfg(feature = "faults")]
const PARAMETER: &str = "fault";

/// What goes wrong in each execution of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    #[cfg(feature = "faults")]
    fault: Option<Fault>,
}

#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NoResponse,
    PanicBeforeRun,
    PanicAfterRun,
    PanicBetweenAnswers,
    GatherOutOfMemory,
}

/// A place in an execution at which something can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before Triton is asked for the response of a request.
    Opening,
    /// Requests were taken over.
    BeforeRun,
    /// Before memory is taken from the pool for the inputs.
    Gather,
    /// The model has run, nothing was answered.
    AfterRun,
    /// One request of a batch was answered.
    BetweenAnswers,
}

impl Faults {
    /// Goes wrong if this is the place, where only a panic makes sense.
    pub(crate) fn reach_or_log(self, place: Place) {
        if let Err(error) = self.reach(place) {
            tracing::error!("{error}");
        }
    }
}

#[cfg(not(feature = "faults"))]
impl Faults {
    /// Parameters of a model that ask for faults.
    pub(crate) const PARAMETERS: &'static [&'static str] = &[];

    #[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
    pub(crate) fn of(_: &ModelConfig) -> Result<Faults> {
        Ok(Faults {})
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as above")]
    pub(crate) fn reach(self, _: Place) -> Result<()> {
        Ok::<(), Error>(())
    }
}

#[cfg(feature = "faults")]
impl Faults {
    /// Parameters of a model that ask for faults.
    pub(crate) const PARAMETERS: &'static [&'static str] = &[PARAMETER];

    /// Reads which fault a model asks for.
    pub(crate) fn of(config: &ModelConfig) -> Result<Faults> {
        let Some(parameter) = config.parameters.get(PARAMETER) else {
            return Ok(Faults::default());
        };
        let fault = match parameter.string_value.as_str() {
            "no response" => Fault::NoResponse,
            "panic before run" => Fault::PanicBeforeRun,
            "panic after run" => Fault::PanicAfterRun,
            "panic between answers" => Fault::PanicBetweenAnswers,
            "out of memory" => Fault::GatherOutOfMemory,
            "panic at load" => panic!("injected at load"),
            other => return Err(Error::invalid(format!("there is no fault '{other}'"))),
        };
        Ok(Faults { fault: Some(fault) })
    }

    /// Goes wrong if this is the place.
    pub(crate) fn reach(self, place: Place) -> Result<()> {
        match (self.fault, place) {
            (Some(Fault::PanicBeforeRun), Place::BeforeRun)
            | (Some(Fault::PanicAfterRun), Place::AfterRun)
            | (Some(Fault::PanicBetweenAnswers), Place::BetweenAnswers) => {
                panic!("injected at {place:?}")
            }
            (Some(Fault::NoResponse), Place::Opening) => {
                Err(Error::internal("injected: no response"))
            }
            (Some(Fault::GatherOutOfMemory), Place::Gather) => Err(Error::new(
                crate::error::ErrorCode::Unavailable,
                "injected: out of memory",
            )),
            _ => Ok(()),
        }
    }
}
