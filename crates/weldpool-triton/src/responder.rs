//! A request and its answer. Whatever happens, the answer is sent, the request counted and given
//! back, each once: what nobody did before is done when the value is dropped.

use std::thread;

use crate::clock::{Ordered, Times, now_ns};
use crate::error::{Error, ErrorCode, Result};
use crate::handles::{Instance, Request, Response};

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Responder<'i> {
    instance: &'i Instance,
    times: Times,
    /// There until the request is given back.
    request: Option<Request>,
    /// There from `open` until it is sent.
    response: Option<Response>,
}

impl<'i> Responder<'i> {
    /// Takes over a request of an execution that began then.
    pub(crate) fn new(instance: &'i Instance, request: Request, times: Times) -> Responder<'i> {
        Responder {
            instance,
            times,
            request: Some(request),
            response: None,
        }
    }

    /// Makes the answer, to which outputs can be added then. A request without it is not worth running.
    pub(crate) fn open(&mut self) -> Result<()> {
        self.response = Some(Response::new(self.request()?)?);
        Ok(())
    }

    /// The request.
    pub(crate) fn request(&self) -> Result<&Request> {
        self.request
            .as_ref()
            .ok_or_else(|| Error::internal("the request was given back already"))
    }

    /// The answer.
    pub(crate) fn response(&self) -> Result<&Response> {
        self.response
            .as_ref()
            .ok_or_else(|| Error::internal("the answer was not made, or is sent"))
    }

    /// Says when the model ran.
    pub(crate) fn set_times(&mut self, times: Times) {
        self.times = times;
    }

    /// Sends the answer with the outputs that it has.
    pub(crate) fn succeed(mut self) -> Ordered {
        self.finish(None)
    }

    /// Answers with an error.
    pub(crate) fn fail(mut self, error: &Error) -> Ordered {
        self.finish(Some(error))
    }

    fn finish(&mut self, failure: Option<&Error>) -> Ordered {
        // Taken out first: whatever goes wrong from here on, there is no second answer.
        let Some(request) = self.request.take() else {
            return self.times.ending(now_ns());
        };
        if let Some(error) = failure {
            let id = request.id().unwrap_or_default();
            tracing::debug!("request '{id}' fails: {error}");
        }
        let response = self.response.take();
        let sent = response
            .map_or_else(|| Response::new(&request), Ok)
            .and_then(|response| response.send(failure));
        if let Err(error) = &sent {
            tracing::error!("an answer could not be sent: {error}");
        }
        let times = self.times.ending(now_ns());
        let success = failure.is_none() && sent.is_ok();
        // Before the request is given back: the statistics look into it.
        if let Err(error) = request.report(self.instance, success, times) {
            tracing::warn!("a request is missing in the statistics: {error}");
        }
        if let Err(error) = request.release() {
            tracing::error!("a request could not be given back: {error}");
        }
        times
    }
}

impl Drop for Responder<'_> {
    fn drop(&mut self) {
        if self.request.is_none() {
            return;
        }
        let what = if thread::panicking() {
            "metal_mps panicked while it ran the request; see the server's log"
        } else {
            "metal_mps ended the execution without an answer"
        };
        self.finish(Some(&Error::new(ErrorCode::Internal, what)));
    }
}
