//! The server as a whole: listeners, service, and an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use weldpool::Allocator;
use weldpool_engine::Engine;

use crate::error::{Error, ErrorKind, Result};
use crate::http::{Metrics, Router};
use crate::http1::{self, Limits, ServerControl, ServerStats};
use crate::protocol;
use crate::service::{LoadObserver, Service, ServiceOptions};

/// Least time that models have to give their memory back at the end.
const CLOSE_TIME_MIN: Duration = Duration::from_secs(1);

/// Options of a [`Server`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Options of the service.
    pub service: ServiceOptions,
    /// Where to serve HTTP; port zero takes a free one. Default: not at all.
    pub http: Option<SocketAddr>,
    /// Where to publish metrics. Default: not at all.
    pub metrics: Option<SocketAddr>,
    /// Limits on connections and bodies.
    pub limits: Limits,
}

impl ServerOptions {
    /// Options for this service, with nothing listening.
    #[must_use]
    pub fn new(service: ServiceOptions) -> Self {
        Self {
            service,
            http: None,
            metrics: None,
            limits: Limits::default(),
        }
    }
}

/// A server: bound, then started, then shut down.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    protocol_limits: protocol::Limits,
    http: Option<http1::Server>,
    metrics: Option<http1::Server>,
    running: Vec<(ServerControl, JoinHandle<ServerStats>)>,
    follower: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the listeners and opens the repositories; answers nothing yet. Must be called on a
    /// `tokio` runtime.
    ///
    /// # Errors
    ///
    /// One line naming the address that is taken or the repository that cannot be read.
    pub fn bind(
        options: ServerOptions,
        allocator: Allocator,
        engine: Arc<dyn Engine>,
    ) -> Result<Self> {
        let ServerOptions {
            service,
            http,
            metrics,
            limits,
        } = options;
        let bind = |address: Option<SocketAddr>| {
            let bound = address.map(|address| http1::Server::bind(address, limits.clone()));
            bound.transpose().map_err(|error| {
                let kind = match error.kind() {
                    http1::ErrorKind::InvalidLimit => ErrorKind::InvalidArgument,
                    _ => ErrorKind::Unavailable,
                };
                Error::new(kind, error.message())
            })
        };
        let body_bytes_max = usize::try_from(limits.decoded_bytes_max).unwrap_or(usize::MAX);
        let defaults = protocol::Limits::default();
        Ok(Self {
            http: bind(http)?,
            metrics: bind(metrics)?,
            service: Arc::new(Service::open(service, allocator, engine)?),
            protocol_limits: protocol::Limits {
                json_bytes_max: defaults.json_bytes_max.min(body_bytes_max),
                tensor_bytes_max: defaults.tensor_bytes_max.min(body_bytes_max),
                ..defaults
            },
            running: Vec::new(),
            follower: None,
        })
    }

    /// What listens, by name, and where.
    #[must_use]
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let named = [("http", &self.http), ("metrics", &self.metrics)];
        named
            .into_iter()
            .filter_map(|(name, server)| Some((name, server.as_ref()?.local_addr())))
            .collect()
    }

    /// The service behind the listeners.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Starts answering. The server is live from here on, and ready once its models are loaded.
    pub fn start(&mut self) {
        let mut http_control = None;
        if let Some(http) = self.http.take() {
            let router = Router::new(Arc::clone(&self.service), self.protocol_limits.clone());
            let control = http.control();
            http_control = Some(control.clone());
            self.running
                .push((control, tokio::spawn(http.serve(router))));
        }
        if let Some(metrics) = self.metrics.take() {
            let handler = Metrics::new(Arc::clone(&self.service), http_control);
            self.running
                .push((metrics.control(), tokio::spawn(metrics.serve(handler))));
        }
    }

    /// Loads the models of the start, and follows the repository from then on if the options say
    /// so; returns the models that could not be loaded, and why.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub async fn load_models(
        &mut self,
        observer: &dyn LoadObserver,
    ) -> Result<Vec<(String, String)>> {
        let failed = self.service.load_models(observer).await?;
        let service = Arc::clone(&self.service);
        self.follower = Some(tokio::spawn(
            async move { service.follow_repository().await },
        ));
        Ok(failed)
    }

    /// Stops: not ready from here on, no new connections, requests in flight are answered for up to
    /// `drain_time`, then every model is unloaded.
    pub async fn shutdown(self, drain_time: Duration) {
        self.service.begin_close();
        if let Some(follower) = self.follower {
            follower.abort();
        }
        for (control, _) in &self.running {
            control.shutdown(drain_time);
        }
        for (_, task) in self.running {
            match task.await {
                Ok(stats) if stats.connections_aborted > 0 => tracing::warn!(
                    connections = stats.connections_aborted,
                    "requests were not answered in time and cut off"
                ),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a listener ended early"),
            }
        }
        // A run cannot be interrupted, so one that outlasts its time is left to the process's end.
        if tokio::time::timeout(drain_time.max(CLOSE_TIME_MIN), self.service.close())
            .await
            .is_err()
        {
            tracing::warn!("a model still runs; it is not waited for any longer");
        }
    }
}
