//! The answers that all routes share.

use crate::http1::{ContentEncoding, HeaderName, Method, Response};
use crate::{Error, ErrorKind, http1, protocol};

const JSON: &str = "application/json";

/// An answer in JSON.
pub(crate) fn json(body: Vec<u8>) -> Response {
    Response::with_content(200, JSON, body).compressible(true)
}

/// An answer that says nothing but that it went well.
pub(crate) fn empty() -> Response {
    Response::new(200)
}

/// An error as Triton tells it.
pub(crate) fn error(error: &Error) -> Response {
    message(error.status(), error.message())
}

/// The answer to a method that the path does not have.
pub(crate) fn method_not_allowed(allowed: &'static [Method]) -> Response {
    let names = match allowed {
        [Method::Post] => "POST",
        [Method::Get, Method::Head] => "GET, HEAD",
        _ => "GET, HEAD, POST",
    };
    message(ErrorKind::MethodNotAllowed.status(), "Method Not Allowed")
        .header(HeaderName::ALLOW, names)
}

/// The answer to a path that stands for nothing.
pub(crate) fn not_found() -> Response {
    message(ErrorKind::NotFound.status(), "Not Found")
}

/// The answer to a request that the connection refused.
pub(crate) fn rejection(error: &http1::Error) -> Response {
    let answer = message(error.status().unwrap_or(500), error.message());
    match error.kind() {
        http1::ErrorKind::UnsupportedEncoding => {
            answer.header(HeaderName::ACCEPT_ENCODING, ContentEncoding::SUPPORTED)
        }
        _ => answer,
    }
}

fn message(status: u16, message: &str) -> Response {
    Response::with_content(status, JSON, protocol::error_body(message))
}
