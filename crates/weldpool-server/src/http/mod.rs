//! The routes of the KServe v2 protocol over HTTP: which request goes where.
//!
//! | Method and path | Answer |
//! |---|---|
//! | `GET /v2` | the server's metadata |
//! | `GET /v2/health/live`, `GET /v2/health/ready` | 200 or 400, without a body |
//! | `GET /v2/models/M[/versions/V]` | the model's metadata |
//! | `GET /v2/models/M[/versions/V]/ready` | 200, or 400 and why not |
//! | `GET /v2/models/M[/versions/V]/config` | the model's configuration |
//! | `GET /v2/models/M[/versions/V]/stats`, `GET /v2/models/stats` | statistics |
//! | `POST /v2/models/M[/versions/V]/infer` | the model's outputs |
//! | `POST /v2/repository/index` | the models there are, and their states |
//! | `POST /v2/repository/models/M/load`, `.../unload` | 200, without a body |
//!
//! On a port of its own, `GET /metrics`. `HEAD` is `GET` without the body.
//!
//! Errors are `{"error": "..."}` with Triton's status. Whatever else Triton has (generate, trace,
//! logging, shared memory) is answered with 501, other paths with 404, other methods with 405.
//!
//! # Differences from Triton
//!
//! Statuses and messages follow Triton 2.51 except for the following. Each has its recorded
//! request in `tests/data/triton-http`.
//!
//! | Where | Triton | Here |
//! |---|---|---|
//! | malformed JSON, a member of the wrong type, too few or too many elements, broken strings, an unknown parameter of load | 500 | 400, and the message names the tensor |
//! | an overflowing shape; classification of strings or of nothing | crashes | 400; no classes of nothing |
//! | a shape far larger than its JSON data | takes the memory first | 400 |
//! | a number beyond the range of its integer type | wraps it around | 400 |
//! | `classification` of 2^32 and more | keeps the low 32 bits | 400 |
//! | strings that are not UTF-8, in JSON | passes them on; the answer is not JSON | 400 |
//! | JSON nested deeper than a limit | 200 | 400 |
//! | a member given twice; `parameters` that are not an object | takes the first; ignores them | 400 |
//! | something behind the JSON, or NUL in it | stops reading there | 400 |
//! | a body without bytes; `Inference-Header-Content-Length` that is not a number | a raw request | 400 |
//! | a compressed body that is broken | decodes what it can | 400 |
//! | unknown `Content-Encoding` | 501 | 415, as RFC 9110 asks; names have no case |
//! | bodies of index and unload that are not what they should be | ignores them | 400 |
//! | percent-encoded names of models | not decoded | decoded |
//! | `HEAD` | 405 | as `GET` |
//! | FP32 in JSON | the digits of a double | as few digits as lead back to the same number |
//! | `-0` in JSON | 0.0 | -0.0 |
//! | order of outputs | the model's, or by name | as requested, else the model's |
//! | shared memory | regions | 501 |

mod answer;
mod infer;
mod metrics;
mod models;
mod repository;
mod route;

use std::sync::Arc;

pub use metrics::Metrics;

use crate::http1::{Error as ConnectionError, Handler, Request, Response};
use crate::protocol::Limits;
use crate::service::Service;
use crate::{Error, Result};
use route::Route;

/// Answers the requests of the HTTP port.
#[derive(Clone, Debug)]
pub struct Router {
    service: Arc<Service>,
    limits: Limits,
}

impl Router {
    /// The routes to a service. `limits` bound what one request may hold.
    #[must_use]
    pub fn new(service: Arc<Service>, limits: Limits) -> Router {
        Router { service, limits }
    }

    async fn answer(&self, mut request: Request<'_>) -> Result<Response> {
        let head = request.head;
        let Some(route) = Route::of(head.path())? else {
            return Ok(answer::not_found());
        };
        if !route.methods().contains(&head.method()) {
            return Ok(answer::method_not_allowed(route.methods()));
        }
        match route {
            Route::ServerMetadata => Ok(self.server_metadata()),
            Route::Live => Ok(self.live()),
            Route::Ready => Ok(self.ready()),
            Route::ModelMetadata(path) => self.model_metadata(&path),
            Route::ModelReady(path) => self.model_ready(&path),
            Route::ModelConfig(path) => self.model_config(&path),
            Route::ModelStatistics(path) => self.statistics(Some(&path)),
            Route::AllStatistics => self.statistics(None),
            Route::Infer(path) => self.infer(&path, request).await,
            Route::RepositoryIndex => self.index(&mut request.body).await,
            Route::Load(name) => self.load(&name, &mut request.body).await,
            Route::Unload(name) => self.unload(&name, &mut request.body).await,
            Route::NamedRepository => Err(repository::named_repository()),
            Route::Unsupported(feature) => Err(Error::unsupported(format!(
                "{} is not supported by this server",
                feature.name()
            ))),
        }
    }
}

impl Handler for Router {
    async fn handle(&self, request: Request<'_>) -> Response {
        self.answer(request)
            .await
            .unwrap_or_else(|error| answer::error(&error))
    }

    fn reject(&self, error: &ConnectionError) -> Response {
        answer::rejection(error)
    }
}
