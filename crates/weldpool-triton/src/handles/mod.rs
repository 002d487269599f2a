//! Triton's objects as safe values: each wraps a pointer, owns what must be given back, and turns
//! what comes over the border into Rust's types. The rest of the backend is safe, but for what
//! Triton calls (`exports.rs`) and two promises about how long these values are used (`watch.rs`,
//! `places.rs`).

mod api;
mod backend;
mod instance;
mod message;
mod metric;
mod model;
mod request;
mod response;
mod state;
mod text;

pub(crate) use api::{into_raw, log, log_is_enabled};
pub(crate) use backend::{Attributes, Backend};
pub(crate) use instance::Instance;
pub(crate) use metric::Metric;
pub(crate) use model::Model;
pub(crate) use request::{Input, Request, Watched};
pub(crate) use response::{OutputMemory, Response};
pub(crate) use state::Stateful;
