//! The metrics port.

use std::sync::Arc;

use weldpool::prometheus::{CONTENT_TYPE, Pool};

use super::answer;
use crate::http1::{Error, Handler, Method, Request, Response, ServerControl};
use crate::metrics::{self, Sources};
use crate::service::Service;

/// Answers `GET /metrics`, and nothing else.
#[derive(Clone, Debug)]
pub struct Metrics {
    service: Arc<Service>,
    http: Option<ServerControl>,
}

impl Metrics {
    /// The metrics of a service, and of the HTTP server before it if there is one.
    #[must_use]
    pub fn new(service: Arc<Service>, http: Option<ServerControl>) -> Metrics {
        Metrics { service, http }
    }

    fn text(&self) -> String {
        let allocator = self.service.allocator();
        let (stats, samples) = (allocator.stats(), allocator.samples());
        metrics::text(&Sources {
            models: &self.service.ready_models(),
            pools: &[Pool {
                name: allocator.name(),
                stats: &stats,
                samples: Some(&samples),
                classes: false,
            }],
            http: self.http.as_ref().map(ServerControl::stats),
        })
    }
}

impl Handler for Metrics {
    async fn handle(&self, request: Request<'_>) -> Response {
        match (request.head.path(), request.head.method()) {
            ("/metrics", Method::Get | Method::Head) => {
                Response::with_content(200, CONTENT_TYPE, self.text()).compressible(true)
            }
            ("/metrics", _) => answer::method_not_allowed(&[Method::Get, Method::Head]),
            _ => answer::not_found(),
        }
    }

    fn reject(&self, error: &Error) -> Response {
        answer::rejection(error)
    }
}
