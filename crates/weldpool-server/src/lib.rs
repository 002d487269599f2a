//! Serves a Triton model repository over the KServe v2 protocol.
//!
//! ```text
//! http1  ->  http  ->  protocol  ->  service  ->  weldpool_engine
//!            metrics               repository, config
//! ```
//!
//! [`Server`] binds the listeners and stops in order; [`Service`](service::Service) is what every
//! protocol is a thin skin over.

mod error;
pub mod http;
pub mod http1;
pub mod metrics;
pub mod protocol;
pub mod repository;
pub mod server;
pub mod service;

pub use weldpool_config as config;

pub use error::{Error, ErrorKind, Result};
pub use server::Server;
