//! The life of one connection: read a head, let the handler answer, write, again.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use tokio::time::Instant;

use super::body::{BodyReader, BodyState, Wire};
use super::buffer::ReadBuffer;
use super::date::DateCache;
use super::deadline::Deadline;
use super::error::{Error, ErrorKind, Result};
use super::handler::{Handler, Observer, Request, RequestTiming};
use super::head::{Method, RequestHead, Version};
use super::limits::Limits;
use super::response::Response;
use super::transport::Transport;
use super::write::{Framing, has_length, write_all, write_head};

/// A response whose body is at most this long is copied behind its head and written as one piece,
/// which is cheaper than telling the system of several.
const COPIED_BYTES_MAX: u64 = 2 << 10;

/// Serves one connection until either side closes it, outside of a [`Server`](super::Server).
///
/// # Errors
///
/// [`ErrorKind::InvalidLimit`] if `limits` are not usable. What goes wrong on the connection ends
/// the connection and is no error of the caller's.
pub async fn serve_connection<T: Transport, H: Handler>(
    transport: T,
    handler: &H,
    limits: Limits,
) -> Result<()> {
    limits.validate()?;
    let settings = Settings::new(limits, None);
    Connection::new(transport, None, handler, &settings, &Progress::default())
        .run()
        .await;
    Ok(())
}

/// What all connections of a server have in common.
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Set while no connection is to be kept alive: during shutdown, and while others wait for
    /// their turn.
    closing: AtomicBool,
    epoch: Instant,
}

impl Settings {
    pub(crate) fn new(limits: Limits, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            limits,
            observer,
            closing: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    pub(crate) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Ordering::SeqCst);
    }

    /// The time as a small number.
    fn milliseconds(&self, time: Instant) -> u64 {
        let elapsed = time.duration_since(self.epoch);
        elapsed.as_secs() * 1000 + u64::from(elapsed.subsec_millis())
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

/// What a connection lets its server see and do.
///
/// A server may close a connection only between two requests. Both sides therefore agree on one
/// word: the connection marks itself idle and takes the mark back when bytes arrive, the server
/// swaps the mark for `CLOSED`, and whoever comes first wins.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// `BUSY`, `CLOSED`, or the time since when the connection is idle.
    idle: AtomicU64,
    requests: AtomicU64,
    rejected: AtomicU64,
}

const BUSY: u64 = 0;
const CLOSED: u64 = u64::MAX;

impl Progress {
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Since when the connection is idle, as a number that grows with time.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        match self.idle.load(Ordering::Relaxed) {
            BUSY | CLOSED => None,
            since => Some(since),
        }
    }

    /// Wins the connection for closing if it is idle.
    pub(crate) fn close_if_idle(&self) -> bool {
        self.idle_since().is_some_and(|since| {
            self.idle
                .compare_exchange(since, CLOSED, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        })
    }

    fn become_idle(&self, since: u64) {
        self.idle
            .store(since.clamp(BUSY + 1, CLOSED - 1), Ordering::SeqCst);
    }

    /// Whether the connection still belongs to itself.
    fn become_busy(&self) -> bool {
        self.idle.swap(BUSY, Ordering::SeqCst) != CLOSED
    }
}

/// Whether there is another request to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Continue,
    /// Close; nothing of the client's is unread.
    Close,
    /// Close, but first let the client finish what it is sending.
    Linger,
}

pub(crate) struct Connection<'a, T, H> {
    transport: T,
    peer: Option<SocketAddr>,
    handler: &'a H,
    settings: &'a Settings,
    progress: &'a Progress,
    buffer: ReadBuffer,
    deadline: Deadline,
    head: RequestHead,
    /// The head of the response.
    out: Vec<u8>,
    date: DateCache,
    /// When the last read returned.
    last_read: Instant,
    /// When the connection was last known to be in use.
    last_active: Instant,
}

impl<'a, T: Transport, H: Handler> Connection<'a, T, H> {
    pub(crate) fn new(
        transport: T,
        peer: Option<SocketAddr>,
        handler: &'a H,
        settings: &'a Settings,
        progress: &'a Progress,
    ) -> Self {
        let limits = &settings.limits;
        let now = Instant::now();
        Self {
            transport,
            peer,
            handler,
            settings,
            progress,
            buffer: ReadBuffer::new(limits.header_bytes_max),
            deadline: Deadline::new(now + limits.keep_alive_idle_time),
            head: RequestHead::new(),
            out: Vec::with_capacity(512),
            date: DateCache::new(),
            last_read: now,
            last_active: now,
        }
    }

    /// Runs until the connection ends.
    pub(crate) async fn run(mut self) {
        // Requests in a row that were already received when their turn came.
        let mut in_a_row = 0;
        let then = loop {
            let was_waiting = self.buffer.is_empty();
            let then = match self.read_head().await {
                Ok(Some(())) => self.exchange().await,
                Ok(None) => Then::Close,
                Err(error) => self.refuse(&error).await,
            };
            if then != Then::Continue {
                break then;
            }
            in_a_row = if was_waiting { 0 } else { in_a_row + 1 };
            if in_a_row >= self.settings.limits.pipeline_depth_max {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        };
        if then == Then::Linger {
            self.linger().await;
        }
    }

    /// Reads the next head. `None` means that the connection ends between two requests.
    async fn read_head(&mut self) -> Result<Option<()>> {
        let limits = &self.settings.limits;
        let mut head_due = None;
        // Whether the bytes received since the last attempt can have completed the head.
        let mut worth_parsing = true;
        loop {
            skip_blank_lines(&mut self.buffer);
            if !self.buffer.is_empty()
                && worth_parsing
                && let Some(length) = self.head.parse(self.buffer.filled(), limits)?
            {
                self.buffer.consume(length);
                return Ok(Some(()));
            }
            if self.buffer.is_full() {
                return Err(head_too_large(self.buffer.filled(), limits));
            }
            let idle = self.buffer.is_empty();
            if idle {
                head_due = None;
                self.progress
                    .become_idle(self.settings.milliseconds(self.last_active));
                if self.settings.is_closing() {
                    return Ok(None);
                }
            }
            let idle_due = self.last_active + limits.keep_alive_idle_time;
            let Self {
                transport,
                buffer,
                deadline,
                ..
            } = self;
            let mut waiting = false;
            let read = poll_fn(|context| {
                match transport.poll_read(context, buffer.room()) {
                    Poll::Ready(result) => return Poll::Ready(Some(result)),
                    Poll::Pending => {}
                }
                if !waiting {
                    waiting = true;
                    deadline.set(match (idle, head_due) {
                        (true, _) => idle_due,
                        (false, Some(due)) => due,
                        (false, None) => *head_due.insert(Instant::now() + limits.header_time),
                    });
                }
                deadline.poll_passed(context).map(|()| None)
            })
            .await;
            if idle && !self.progress.become_busy() {
                return Ok(None);
            }
            match read {
                Some(Ok(0)) | None if idle => return Ok(None),
                Some(Ok(0)) => return Err(Error::disconnected()),
                Some(Ok(count)) => {
                    self.last_read = Instant::now();
                    self.last_active = self.last_read;
                    let before = self.buffer.len();
                    self.buffer.received(count);
                    worth_parsing = idle || self.buffer.filled()[before..].contains(&b'\n');
                }
                Some(Err(error)) => return Err(Error::io(error)),
                None => {
                    let message = "the head of the request came too slowly";
                    return Err(Error::new(ErrorKind::Timeout, message));
                }
            }
        }
    }

    /// Has the request whose head was read answered.
    async fn exchange(&mut self) -> Then {
        let settings = self.settings;
        let limits = &settings.limits;
        let head_read = self.last_read;
        let body = BodyState::new(&self.head, &self.buffer, limits, head_read);
        let mut body = match body {
            Ok(body) => body,
            Err(error) => return self.refuse(&error).await,
        };
        self.progress.requests.fetch_add(1, Ordering::Relaxed);

        let handled = {
            let wire = Wire {
                transport: &mut self.transport,
                buffer: &mut self.buffer,
                deadline: &mut self.deadline,
                limits,
            };
            let request = Request {
                head: &self.head,
                body: BodyReader::new(wire, &mut body),
                head_read: head_read.into_std(),
                peer: self.peer,
            };
            let handler = self.handler;
            // The block makes the call itself part of what is caught.
            catch_panic(async move { handler.handle(request).await }).await
        };
        self.last_read = self.last_read.max(body.last_byte_read());
        let encoded = match handled {
            Ok(response) if response.is_compressible() => {
                response.encode(self.head.header("accept-encoding")).await
            }
            handled => handled,
        };
        let response = encoded.unwrap_or_else(|error| self.failed(&error));
        let work = response.work_time();
        let observer = response.observer();
        let reusable = self.head.keep_alive() && body.is_reusable(limits);
        let silent = self.head.method() == Method::Head;

        self.out.clear();
        self.out.extend_from_slice(body.interrupted_continue());
        let Ok(sent) = self.send(response, reusable, silent).await else {
            return Then::Close;
        };

        if settings.observer.is_some() || observer.is_some() {
            let timing = RequestTiming {
                status: sent.status,
                request_bytes: body.sent_bytes(),
                response_bytes: sent.bytes,
                head_read: head_read.into_std(),
                body_read: body.last_byte_read().into_std(),
                response_start: sent.start.into_std(),
                response_end: Instant::now().into_std(),
                work,
            };
            for observer in settings.observer.iter().chain(&observer) {
                observer.on_response(&timing);
            }
        }
        if sent.keeps_alive {
            self.skip_body(&mut body).await
        } else if body.is_finished() && self.buffer.is_empty() {
            Then::Close
        } else {
            Then::Linger
        }
    }

    /// Drops what the handler left unread of a body.
    async fn skip_body(&mut self, body: &mut BodyState) -> Then {
        if body.is_finished() {
            return Then::Continue;
        }
        let limits = &self.settings.limits;
        let wire = Wire {
            transport: &mut self.transport,
            buffer: &mut self.buffer,
            deadline: &mut self.deadline,
            limits,
        };
        match BodyReader::new(wire, body)
            .drain(limits.drain_bytes_max)
            .await
        {
            Ok(true) => Then::Continue,
            Ok(false) | Err(_) => Then::Linger,
        }
    }

    /// The response to a request that reached the handler but has no response of the handler's.
    fn failed(&self, error: &Error) -> Response {
        tracing::error!(
            method = self.head.method_name(),
            path = self.head.path(),
            "a request was answered with {}: {error}",
            error.status().unwrap_or(500),
        );
        self.handler.reject(error).close()
    }

    /// Answers a request that does not reach the handler, if anybody is there to read it.
    async fn refuse(&mut self, error: &Error) -> Then {
        if error.status().is_none() {
            return Then::Close;
        }
        self.progress.rejected.fetch_add(1, Ordering::Relaxed);
        self.out.clear();
        match self.send(self.handler.reject(error), false, false).await {
            Ok(_) => Then::Linger,
            Err(_) => Then::Close,
        }
    }

    /// Writes `response` behind what `out` already holds.
    async fn send(&mut self, response: Response, reusable: bool, silent: bool) -> Result<Sent> {
        let start = self.out.len();
        match self.try_send(&response, reusable, silent).await {
            // Found before anything was written.
            Err(error) if error.kind() == ErrorKind::ResponseUnreadable => {
                self.out.truncate(start);
                let response = self.failed(&error);
                self.try_send(&response, false, silent).await
            }
            result => result,
        }
    }

    async fn try_send(
        &mut self,
        response: &Response,
        reusable: bool,
        silent: bool,
    ) -> Result<Sent> {
        let limits = &self.settings.limits;
        let status = response.status();
        let length = response.body_len();
        let bytes = if silent || !has_length(status) {
            0
        } else {
            length
        };
        let keeps_alive = reusable && !response.closes() && !self.settings.is_closing();
        let connection = match (keeps_alive, self.head.version()) {
            (false, _) => Some("close"),
            (true, Version::Http10) => Some("keep-alive"),
            (true, Version::Http11) => None,
        };
        let start = Instant::now();
        let date = limits.date_header.then(|| &self.date.at(start)[..]);
        write_head(
            &mut self.out,
            response,
            Framing {
                length,
                connection,
                date,
            },
        );
        let body = match bytes {
            0 => Vec::new(),
            1..=COPIED_BYTES_MAX => {
                response.append_to(&mut self.out)?;
                Vec::new()
            }
            _ => response.lock()?,
        };
        let waited = write_all(
            &mut self.transport,
            &mut self.deadline,
            limits,
            &self.out,
            &body,
        )
        .await?;
        self.last_active = if waited { Instant::now() } else { start };
        Ok(Sent {
            status,
            bytes,
            start,
            keeps_alive,
        })
    }

    /// Closes the sending side, then reads and drops what still comes for a short time: a close
    /// with unread input would reset the connection, and the client might lose the answer.
    async fn linger(&mut self) {
        let Self {
            transport,
            buffer,
            deadline,
            settings,
            ..
        } = self;
        if settings.limits.linger_time.is_zero() {
            return;
        }
        deadline.set(Instant::now() + settings.limits.linger_time);
        buffer.consume(buffer.len());
        let shut = poll_fn(|context| match transport.poll_shutdown(context) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => deadline.poll_passed(context).map(|()| false),
        });
        if !shut.await {
            return;
        }
        poll_fn(|context| {
            loop {
                match transport.poll_read(context, buffer.room()) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    // Checked after each read, so a client that never stops gets no more time.
                    Poll::Ready(Ok(_)) if deadline.poll_passed(context).is_ready() => {
                        return Poll::Ready(());
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return deadline.poll_passed(context),
                }
            }
        })
        .await;
    }
}

/// How a response was written.
struct Sent {
    status: u16,
    bytes: u64,
    start: Instant,
    keeps_alive: bool,
}

/// Some clients send an empty line behind a body. It belongs to no request, so a connection that
/// holds nothing else is idle.
fn skip_blank_lines(buffer: &mut ReadBuffer) {
    loop {
        match buffer.filled() {
            [b'\r', b'\n', ..] => buffer.consume(2),
            [b'\n', ..] => buffer.consume(1),
            _ => return,
        }
    }
}

fn head_too_large(received: &[u8], limits: &Limits) -> Error {
    let (kind, what) = if received.contains(&b'\n') {
        (ErrorKind::HeaderTooLarge, "head of the request")
    } else {
        (ErrorKind::TargetTooLong, "request line")
    };
    Error::new(
        kind,
        format!(
            "the {what} is over the limit of {} bytes",
            limits.header_bytes_max
        ),
    )
}

/// Runs `future`, and makes an error of a panic in it. Nothing that the future borrowed is used
/// afterwards as if it were whole: the connection closes.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => {
                tracing::error!("the handler panicked: {}", panic_message(&*payload));
                let message = "the server failed on this request";
                Poll::Ready(Err(Error::new(ErrorKind::HandlerPanicked, message)))
            }
        },
    )
    .await
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
