//! What a connection calls: the handler of requests and the observer of their timing.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::BodyReader;
use super::error::Error;
use super::head::RequestHead;
use super::response::Response;

/// A request whose head is read and whose body is still in the socket.
#[derive(Debug)]
pub struct Request<'a> {
    /// Method, target and headers.
    pub head: &'a RequestHead,
    /// The body.
    pub body: BodyReader<'a>,
    /// When the last byte of the head was read.
    pub head_read: Instant,
    /// The client's address, if the transport has one.
    pub peer: Option<SocketAddr>,
}

/// Answers requests. Requests of one connection come one after the other, those of different
/// connections at the same time.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// The future is dropped where it stands when the client's connection is aborted at the end of
    /// a shutdown. A panic is answered with what [`reject`](Self::reject) makes of it, and closes
    /// the connection.
    fn handle(&self, request: Request<'_>) -> impl Future<Output = Response> + Send;

    /// The answer to a request that the connection itself refuses: a broken or oversized head, a
    /// time that ran out, a handler that panicked. The default is the message as plain text.
    fn reject(&self, error: &Error) -> Response {
        let message = format!("{}\n", error.message());
        Response::with_content(
            error.status().unwrap_or(500),
            "text/plain; charset=utf-8",
            message,
        )
    }
}

impl<H: Handler> Handler for Arc<H> {
    fn handle(&self, request: Request<'_>) -> impl Future<Output = Response> + Send {
        H::handle(self, request)
    }

    fn reject(&self, error: &Error) -> Response {
        H::reject(self, error)
    }
}

/// Is told of responses to handled requests, on the connection's task. It must not block.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// Called when the response is written.
    fn on_response(&self, timing: &RequestTiming);
}

/// When the parts of one exchange happened. Read from the clock at moments when the connection
/// has just called the system anyway.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RequestTiming {
    /// Status of the response.
    pub status: u16,
    /// Bytes of the request's body as they were sent, framing excluded.
    pub request_bytes: u64,
    /// Bytes of the response's body, zero where none was written.
    pub response_bytes: u64,
    /// When the read that brought the last byte of the head returned.
    pub head_read: Instant,
    /// When the last read for the body returned; `head_read` if the body came with the head.
    pub body_read: Instant,
    /// Just before the call that wrote the first byte of the response.
    pub response_start: Instant,
    /// When the call that wrote the last byte of the response returned.
    pub response_end: Instant,
    /// What [`Response::work`] noted.
    pub work: Duration,
}

impl RequestTiming {
    /// The server's own share of the latency: from the last byte of the request to the first of
    /// the response, less the work itself.
    #[must_use]
    pub fn overhead(&self) -> Duration {
        self.response_start
            .saturating_duration_since(self.body_read)
            .saturating_sub(self.work)
    }
}
