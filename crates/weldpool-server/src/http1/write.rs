//! Writes a response: its head from one reused buffer, its body from where it is.

use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Deref;
use std::task::Poll;

use tokio::time::Instant;

use super::body::write_timeout;
use super::deadline::Deadline;
use super::error::{Error, Result};
use super::limits::Limits;
use super::response::{Response, write_decimal};
use super::transport::Transport;

/// Parts of one vectored write.
const PARTS_MAX: usize = 32;

/// What the head of a response says besides what the response says itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing<'a> {
    /// Bytes of the body, whether it is sent or not.
    pub(crate) length: u64,
    /// The `Connection` header, if there is to be one.
    pub(crate) connection: Option<&'static str>,
    /// The `Date` header, if there is to be one.
    pub(crate) date: Option<&'a [u8]>,
}

/// Appends the head of `response` to `out`.
pub(crate) fn write_head(out: &mut Vec<u8>, response: &Response, framing: Framing<'_>) {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        value.write_to(out);
        out.extend_from_slice(b"\r\n");
    }
    if has_length(status) {
        out.extend_from_slice(b"Content-Length: ");
        write_decimal(out, framing.length);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(date) = framing.date {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(connection) = framing.connection {
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a response with this status has a body, or at least says how long it would be.
pub(crate) fn has_length(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// Writes `head` and then all of `body`. Returns whether the client had to be waited for.
///
/// # Errors
///
/// `Timeout` if the client takes nothing for `write_idle_time`; `Disconnected` and `Io`.
///
/// # Cancellation
///
/// A cancelled write leaves half a response behind; the connection must not be used again.
pub(crate) async fn write_all<B: Deref<Target = [u8]>>(
    transport: &mut dyn Transport,
    deadline: &mut Deadline,
    limits: &Limits,
    head: &[u8],
    body: &[B],
) -> Result<bool> {
    let part = |index: usize| -> &[u8] { if index == 0 { head } else { &body[index - 1] } };
    let parts = body.len() + 1;
    // The part that is being written, and how much of it is.
    let (mut index, mut offset) = (0, 0);
    let (mut waiting, mut waited) = (false, false);
    poll_fn(|context| {
        loop {
            while index < parts && offset >= part(index).len() {
                offset -= part(index).len();
                index += 1;
            }
            if index == parts {
                return Poll::Ready(Ok(waited));
            }
            let mut slices = [IoSlice::new(&[]); PARTS_MAX];
            let count = (parts - index).min(PARTS_MAX);
            slices[0] = IoSlice::new(&part(index)[offset..]);
            for (next, slice) in slices[..count].iter_mut().enumerate().skip(1) {
                *slice = IoSlice::new(part(index + next));
            }
            match transport.poll_write_vectored(context, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::disconnected())),
                Poll::Ready(Ok(written)) => {
                    offset += written;
                    waiting = false;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::io(error))),
                Poll::Pending => {
                    if !waiting {
                        (waiting, waited) = (true, true);
                        deadline.set(Instant::now() + limits.write_idle_time);
                    }
                    return deadline.poll_passed(context).map(|()| Err(write_timeout()));
                }
            }
        }
    })
    .await
}

/// The reason phrase of a status, empty for those without a name here.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSliceMut};
    use std::task::Context;
    use std::time::Duration;

    use super::*;
    use crate::http1::error::ErrorKind;
    use crate::http1::response::HeaderName;

    /// Takes a few bytes per write, and nothing at every third.
    struct Trickle {
        taken: Vec<u8>,
        most: usize,
        calls: usize,
        stuck: bool,
    }

    impl Transport for Trickle {
        fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_read_vectored(
            &mut self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_write_vectored(
            &mut self,
            context: &mut Context<'_>,
            sources: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if self.stuck {
                return Poll::Pending;
            }
            if self.calls.is_multiple_of(3) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let bytes: Vec<u8> = sources.iter().flat_map(|source| source.to_vec()).collect();
            let count = bytes.len().min(self.most);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn trickle(most: usize) -> Trickle {
        Trickle {
            taken: Vec::new(),
            most,
            calls: 0,
            stuck: false,
        }
    }

    fn deadline() -> Deadline {
        Deadline::new(Instant::now() + Duration::from_secs(60))
    }

    #[tokio::test]
    async fn short_writes_lose_and_repeat_nothing() {
        let body: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; usize::from(n) % 7]).collect();
        let expected = [b"head".to_vec(), body.concat()].concat();
        for most in [1, 2, 5, 64, 10_000] {
            let mut transport = trickle(most);
            write_all(
                &mut transport,
                &mut deadline(),
                &Limits::default(),
                b"head",
                &body,
            )
            .await
            .unwrap();
            assert_eq!(transport.taken, expected, "{most}");
        }
    }

    #[tokio::test]
    async fn a_response_of_few_parts_takes_one_call() {
        let mut transport = trickle(1 << 20);
        let body = [vec![1; 100], vec![2; 100_000]];
        write_all(
            &mut transport,
            &mut deadline(),
            &Limits::default(),
            b"head",
            &body,
        )
        .await
        .unwrap();
        assert_eq!(transport.calls, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let mut transport = Trickle {
            stuck: true,
            ..trickle(1)
        };
        let start = Instant::now();
        let nothing: [Vec<u8>; 0] = [];
        let error = write_all(
            &mut transport,
            &mut deadline(),
            &Limits::default(),
            b"head",
            &nothing,
        )
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[test]
    fn the_head_is_complete() {
        let response = Response::with_content(200, "text/plain", "hi")
            .header(HeaderName::RETRY_AFTER, 7u64)
            .chunk(vec![0; 10]);
        let mut out = Vec::new();
        let framing = Framing {
            length: 12,
            connection: Some("close"),
            date: Some(b"today"),
        };
        write_head(&mut out, &response, framing);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nRetry-After: 7\r\n\
             Content-Length: 12\r\nDate: today\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_response_that_has_no_body_has_no_length() {
        let mut out = Vec::new();
        let framing = Framing {
            length: 0,
            connection: None,
            date: None,
        };
        write_head(&mut out, &Response::new(204), framing);
        write_head(&mut out, &Response::new(299), framing);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"
        );
    }
}
