//! Inference: a request from the connection to the service, and the answer back.

use std::sync::Arc;

use super::Router;
use super::route::ModelPath;
use crate::http1::{HeaderName, Observer, Request, RequestTiming, Response};
use crate::protocol::{self, Context, Decoded, Encoded, Form, Layout, Model};
use crate::service::types::InferResponse;
use crate::service::{Histogram, ModelHandle};
use crate::{Error, Result};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("Inference-Header-Content-Length");

/// More text than this is written on a thread that may take its time.
const INLINE_JSON_BYTES_MAX: usize = 256 << 10;

impl Router {
    /// Runs a model.
    pub(super) async fn infer(
        &self,
        path: &ModelPath<'_>,
        mut request: Request<'_>,
    ) -> Result<Response> {
        let model = self.service.model(&path.name, path.version)?;
        let admission = self.service.admit(&model)?;
        let layout = Layout::of_header(request.head.header(HEADER_LENGTH.as_str()))?;
        let context = Context {
            model: model.signature(),
            allocator: self.service.allocator(),
            limits: &self.limits,
            arrival: request.head_read,
        };
        let Decoded { request, form } = protocol::read(&mut request.body, layout, context).await?;
        let response = self.service.infer(&admission, &model, request).await?;
        let work = response.compute_time;
        let overhead = Arc::clone(model.http_overhead());
        let encoded = encode(model, response, form).await?;
        Ok(answer(encoded).work(work).observed_by(overhead))
    }
}

/// Writes the answer, on this thread unless that would take long.
async fn encode(model: ModelHandle, response: InferResponse, form: Form) -> Result<Encoded> {
    let encode = move |response: &InferResponse, form: &Form| {
        let of_model = Model {
            batched: model.signature().max_batch_size() > 0,
            labels: &|output| model.labels(output),
        };
        Encoded::new(response, form, of_model)
    };
    if Encoded::json_bytes_estimate(&response, &form) <= INLINE_JSON_BYTES_MAX {
        return encode(&response, &form);
    }
    tokio::task::spawn_blocking(move || encode(&response, &form))
        .await
        .unwrap_or_else(|_| Err(Error::internal("the response was not written")))
}

fn answer(encoded: Encoded) -> Response {
    let Encoded { json, blobs } = encoded;
    let Some(blobs) = blobs else {
        return super::answer::json(json);
    };
    let length = json.len();
    let response = Response::with_content(200, "application/octet-stream", json)
        .header(HEADER_LENGTH, length)
        .compressible(true);
    blobs.into_iter().fold(response, Response::chunk)
}

/// A histogram of the server's own share of the latency.
impl Observer for Histogram {
    fn on_response(&self, timing: &RequestTiming) {
        self.record(timing.overhead());
    }
}
