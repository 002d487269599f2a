//! The body of a request, read where the handler wants it.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, mem};

use tokio::time::Instant;

use super::buffer::ReadBuffer;
use super::chunked::{ChunkedDecoder, Next};
use super::deadline::Deadline;
use super::encoding::ContentEncoding;
use super::error::{Error, ErrorKind, Result};
use super::head::{Framing, RequestHead, body_too_large};
use super::inflate::Inflater;
use super::limits::Limits;
use super::transport::Transport;

/// Reads below this many bytes go through the connection's buffer, so that several small parts
/// cost one system call; larger ones go straight to their destination.
const DIRECT_BYTES_MIN: usize = 4 << 10;

/// A destination of at least this many bytes is read alone: it fills over several calls anyway.
const VECTORED_BYTES_MAX: usize = 64 << 10;

/// Destinations of one vectored read.
const VECTORED_PARTS_MAX: usize = 16;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a body is read from. Borrowed from the connection, separate from the state of the body,
/// which has to outlive the handler.
pub(crate) struct Wire<'a> {
    pub(crate) transport: &'a mut dyn Transport,
    pub(crate) buffer: &'a mut ReadBuffer,
    pub(crate) deadline: &'a mut Deadline,
    pub(crate) limits: &'a Limits,
}

/// How far a body has been read.
#[derive(Debug)]
pub(crate) struct BodyState {
    source: Source,
    inflater: Option<Box<Inflater>>,
    /// What is still to be sent of the interim response that the client waits for.
    continue_left: &'static [u8],
    failed: bool,
    /// Bytes read as they were sent, framing excluded.
    sent_bytes: u64,
    /// Bytes given to the handler.
    decoded_bytes: u64,
    /// Time spent waiting for the client.
    waited: Duration,
    last_byte_read: Instant,
}

#[derive(Debug)]
enum Source {
    /// This many bytes are left.
    Length(u64),
    Chunked(ChunkedDecoder),
    /// All chunks and trailers are read.
    Finished,
}

impl BodyState {
    /// The state of the unread body behind `head`, whose last byte was read at `head_read`.
    pub(crate) fn new(
        head: &RequestHead,
        buffer: &ReadBuffer,
        limits: &Limits,
        head_read: Instant,
    ) -> Result<Self> {
        let source = match head.framing() {
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(ChunkedDecoder::new(limits.header_bytes_max)),
        };
        let has_body = !matches!(source, Source::Length(0));
        let coding = if has_body {
            ContentEncoding::of_body(head.header("content-encoding"))?
        } else {
            ContentEncoding::Identity
        };
        // A client that sends body bytes along with the head does not wait.
        let waits = head.expects_continue() && has_body && buffer.is_empty();
        Ok(Self {
            source,
            inflater: coding.inflater().map(Box::new),
            continue_left: if waits { CONTINUE } else { &[] },
            failed: false,
            sent_bytes: 0,
            decoded_bytes: 0,
            waited: Duration::ZERO,
            last_byte_read: head_read,
        })
    }

    /// Whether the next request can follow, after at most `drain_bytes_max` bytes are dropped.
    pub(crate) fn is_reusable(&self, limits: &Limits) -> bool {
        let short = match self.source {
            Source::Length(left) => left <= limits.drain_bytes_max,
            Source::Chunked(_) | Source::Finished => true,
        };
        short && !self.failed && (self.continue_left.is_empty() || self.is_finished())
    }

    /// Whether all of the body is read.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.source, Source::Length(0) | Source::Finished)
    }

    /// The rest of an interim response whose sending was cut short by a cancelled read. It has to
    /// go out before the response.
    pub(crate) fn interrupted_continue(&self) -> &'static [u8] {
        if self.continue_left.len() < CONTINUE.len() {
            self.continue_left
        } else {
            &[]
        }
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub(crate) fn last_byte_read(&self) -> Instant {
        self.last_byte_read
    }

    /// Notes that `count` bytes of payload were taken.
    fn taken(&mut self, count: usize) {
        self.sent_bytes += count as u64;
        match &mut self.source {
            Source::Length(left) => *left = left.saturating_sub(count as u64),
            Source::Chunked(decoder) => decoder.taken(count as u64),
            Source::Finished => {}
        }
    }

    /// How long a wait that starts now may last.
    fn patience(&self, limits: &Limits) -> Duration {
        let idle = limits.body_idle_time;
        if limits.body_rate_min == 0 {
            return idle;
        }
        let earned = Duration::from_secs(self.sent_bytes / limits.body_rate_min);
        idle.min((idle + earned).saturating_sub(self.waited))
    }
}

/// Reads the body of one request.
///
/// A body with a `Content-Length` and no content coding is read [directly](Self::is_direct): the
/// kernel copies from the socket into the destination, and nothing else does, except for what
/// arrived together with the head (at most
/// [`header_bytes_max`](super::Limits::header_bytes_max)) and for reads below 4 KiB. The data of
/// chunks goes the same way. A compressed body is decoded from the connection's buffer into the
/// destination.
///
/// Every read returns the decoded body. What the handler leaves unread is dropped, or costs the
/// connection.
///
/// # Errors
///
/// Reads fail with the kinds [`Malformed`](ErrorKind::Malformed),
/// [`BodyTooShort`](ErrorKind::BodyTooShort), [`BodyTooLarge`](ErrorKind::BodyTooLarge),
/// [`HeaderTooLarge`](ErrorKind::HeaderTooLarge), [`Timeout`](ErrorKind::Timeout),
/// [`Disconnected`](ErrorKind::Disconnected) and [`Io`](ErrorKind::Io). After one that says that
/// the stream itself is broken, too slow or over a [limit](Limits) of the connection, the
/// connection closes behind the response; a bound that only the handler set costs nothing.
///
/// # Cancellation
///
/// Dropping a read's future loses no byte of the stream: the bytes it had read are gone into its
/// destination, the reader stands behind them, and the connection goes on. How many they were is
/// not told, so a cancelled read cannot be resumed by the handler.
pub struct BodyReader<'a> {
    wire: Wire<'a>,
    state: &'a mut BodyState,
}

impl<'a> BodyReader<'a> {
    pub(crate) fn new(wire: Wire<'a>, state: &'a mut BodyState) -> Self {
        Self { wire, state }
    }

    /// Bytes left to read, if they are known: `None` for chunked and compressed bodies.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state.source {
            Source::Length(left) if self.state.inflater.is_none() => Some(left),
            _ => None,
        }
    }

    /// Whether the body has a known length and no content coding.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.remaining().is_some()
    }

    /// When the last byte of the body so far was read from the socket; when the head was, if no
    /// byte of the body needed a read of its own.
    #[must_use]
    pub fn last_byte_read(&self) -> std::time::Instant {
        self.state.last_byte_read.into_std()
    }

    /// Reads some bytes into `destination` and returns their number, zero at the end of the body
    /// or for an empty destination.
    ///
    /// # Errors
    ///
    /// As [above](Self#errors).
    pub async fn read(&mut self, destination: &mut [u8]) -> Result<usize> {
        if destination.is_empty() {
            return Ok(0);
        }
        if self.state.inflater.is_some() {
            self.read_decoded(destination).await
        } else {
            self.read_payload(destination).await
        }
    }

    /// Fills `destination`. When the body is known to be too short, nothing is read.
    ///
    /// # Errors
    ///
    /// As [above](Self#errors).
    pub async fn read_exact_into(&mut self, destination: &mut [u8]) -> Result<()> {
        self.check_remaining(destination.len())?;
        let mut filled = self.take_received(destination);
        while filled < destination.len() {
            match self.read(&mut destination[filled..]).await? {
                0 => return Err(too_short(destination.len() - filled, 0)),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Fills all of `destinations`, one behind the other. Small neighbours share system calls.
    ///
    /// # Errors
    ///
    /// As [above](Self#errors).
    pub async fn read_vectored_exact(&mut self, destinations: &mut [&mut [u8]]) -> Result<()> {
        let total = destinations
            .iter()
            .try_fold(0usize, |sum, part| sum.checked_add(part.len()));
        self.check_remaining(total.unwrap_or(usize::MAX))?;
        let mut rest = destinations;
        // Bytes of the first destination that are filled.
        let mut filled = 0;
        while let Some(first) = rest.first_mut() {
            let first = &mut first[filled..];
            let alone = first.len() >= VECTORED_BYTES_MAX
                || !self.wire.buffer.is_empty()
                || !self.is_direct();
            let count = if first.is_empty() {
                0
            } else if alone || rest.len() == 1 {
                let first = &mut rest[0][filled..];
                match self.read(first).await? {
                    0 => return Err(too_short(first.len(), 0)),
                    count => count,
                }
            } else {
                self.read_vectored(rest, filled).await?
            };
            filled += count;
            // Steps over what is full now.
            while let Some(first) = rest.first()
                && filled >= first.len()
            {
                filled -= first.len();
                rest = &mut mem::take(&mut rest)[1..];
            }
        }
        Ok(())
    }

    /// Reads the rest of the body, at most `limit` bytes of it.
    ///
    /// # Errors
    ///
    /// As [above](Self#errors).
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>> {
        const FIRST_BYTES: usize = 4 << 10;
        let too_large = || Err(body_too_large(limit as u64));
        if let Some(left) = self.remaining() {
            let Some(left) = usize::try_from(left).ok().filter(|left| *left <= limit) else {
                return too_large();
            };
            let mut body = vec![0; left];
            self.read_exact_into(&mut body).await?;
            return Ok(body);
        }
        let (mut body, mut filled) = (Vec::new(), 0);
        loop {
            if filled == body.len() {
                if filled == limit {
                    let mut beyond = [0];
                    return match self.read(&mut beyond).await? {
                        0 => Ok(body),
                        _ => too_large(),
                    };
                }
                body.resize(
                    filled
                        .saturating_mul(2)
                        .clamp(FIRST_BYTES.min(limit), limit),
                    0,
                );
            }
            match self.read(&mut body[filled..]).await? {
                0 => {
                    body.truncate(filled);
                    return Ok(body);
                }
                count => filled += count,
            }
        }
    }

    /// Checks that the body ends here. For a compressed body this also checks its checksum, which
    /// reads of an exact length may not have reached.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if it goes on, and as [above](Self#errors).
    pub async fn expect_end(&mut self) -> Result<()> {
        let more = match self.remaining() {
            Some(left) => left > 0,
            None => self.read(&mut [0]).await? > 0,
        };
        if more {
            return Err(Error::malformed("the body goes on behind its expected end"));
        }
        Ok(())
    }

    /// Waits until the client closes its side of the connection, which it may do while a response
    /// is computed. Race it against the work to stop computing what nobody will read.
    ///
    /// Requests that the client has pipelined are kept; when they fill the buffer, or while part
    /// of the body is unread, this never completes. A client that closes only its sending side and
    /// still reads looks the same as one that is gone.
    pub async fn disconnected(&mut self) {
        poll_fn(|context| self.poll_disconnected(context)).await;
    }

    fn poll_disconnected(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.state.is_finished() {
            return Poll::Pending;
        }
        loop {
            let buffer = &mut *self.wire.buffer;
            if buffer.is_full() || buffer.room().is_empty() {
                return Poll::Pending;
            }
            match self.wire.transport.poll_read(context, buffer.room()) {
                Poll::Ready(Ok(count)) if count > 0 => buffer.received(count),
                Poll::Ready(_) => {
                    self.state.failed = true;
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads and drops the rest of the body, `limit` bytes at most. Returns whether it is over.
    pub(crate) async fn drain(&mut self, limit: u64) -> Result<bool> {
        let start = self.state.sent_bytes;
        loop {
            let left = self.payload().await?;
            if left == 0 {
                return Ok(true);
            }
            if self.wire.buffer.is_empty() {
                self.fill().await?;
            }
            let count = clamp(left, self.wire.buffer.len());
            self.wire.buffer.consume(count);
            self.state.taken(count);
            if self.state.sent_bytes - start > limit {
                return Ok(false);
            }
        }
    }

    fn check_remaining(&self, wanted: usize) -> Result<()> {
        match self.remaining() {
            Some(left) if (wanted as u64) > left => Err(too_short(wanted, left)),
            _ => Ok(()),
        }
    }

    /// Takes what is there already, if it needs no decoding, and returns its length.
    fn take_received(&mut self, destination: &mut [u8]) -> usize {
        let Some(left) = self.remaining() else {
            return 0;
        };
        let wanted = clamp(left, destination.len());
        let count = self.wire.buffer.take(&mut destination[..wanted]);
        self.state.taken(count);
        count
    }

    /// Reads bytes as they were sent, without framing; zero means the end.
    async fn read_payload(&mut self, destination: &mut [u8]) -> Result<usize> {
        let left = self.payload().await?;
        let wanted = clamp(left, destination.len());
        if wanted == 0 {
            return Ok(0);
        }
        let destination = &mut destination[..wanted];
        if self.wire.buffer.is_empty() && wanted < DIRECT_BYTES_MIN {
            self.fill().await?;
        }
        let count = if self.wire.buffer.is_empty() {
            self.receive(|transport, context| transport.poll_read(context, destination))
                .await?
        } else {
            self.wire.buffer.take(destination)
        };
        self.state.taken(count);
        Ok(count)
    }

    /// One vectored read into `rest`, whose first part is filled up to `filled`. The caller has
    /// checked that the body is as long as all of it.
    async fn read_vectored(&mut self, rest: &mut [&mut [u8]], filled: usize) -> Result<usize> {
        let mut slices: [_; VECTORED_PARTS_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let parts = rest.len().min(VECTORED_PARTS_MAX);
        let (mut total, mut skip) = (0, filled);
        for (slice, part) in slices.iter_mut().zip(rest.iter_mut()) {
            *slice = IoSliceMut::new(&mut part[mem::take(&mut skip)..]);
            total += slice.len();
        }
        if total < DIRECT_BYTES_MIN {
            // The next turn takes them out of the buffer.
            self.fill().await?;
            return Ok(0);
        }
        let slices = &mut slices[..parts];
        let count = self
            .receive(|transport, context| transport.poll_read_vectored(context, slices))
            .await?;
        self.state.taken(count);
        Ok(count)
    }

    /// Decodes into `destination`; zero means the end.
    async fn read_decoded(&mut self, destination: &mut [u8]) -> Result<usize> {
        let limit = self.wire.limits.decoded_bytes_max;
        loop {
            let left = self.payload().await?;
            if left > 0 && self.wire.buffer.is_empty() {
                self.fill().await?;
            }
            let available = clamp(left, self.wire.buffer.len());
            let input = &self.wire.buffer.filled()[..available];
            let Some(inflater) = &mut self.state.inflater else {
                return Ok(0);
            };

            let allowed = clamp(limit - self.state.decoded_bytes, destination.len());
            let mut beyond = [0];
            let output = if allowed == 0 {
                &mut beyond[..]
            } else {
                &mut destination[..allowed]
            };
            let step = inflater.step(input, output);
            let step = self.state.note_failure(step)?;
            self.wire.buffer.consume(step.consumed);
            self.state.taken(step.consumed);

            if step.produced > 0 {
                if allowed == 0 {
                    self.state.failed = true;
                    return Err(body_too_large(limit));
                }
                self.state.decoded_bytes += step.produced as u64;
                return Ok(step.produced);
            }
            if left == 0
                && self
                    .state
                    .inflater
                    .as_ref()
                    .is_some_and(|inflater| inflater.is_done())
            {
                return Ok(0);
            }
            if step.consumed == 0 {
                self.state.failed = true;
                return Err(Error::malformed("the compressed body is cut short"));
            }
        }
    }

    /// Bytes of payload that follow without framing between them; zero at the end of the body.
    async fn payload(&mut self) -> Result<u64> {
        loop {
            let decoder = match &mut self.state.source {
                Source::Length(left) => return Ok(*left),
                Source::Finished => return Ok(0),
                Source::Chunked(decoder) => decoder,
            };
            let advanced = decoder.advance(self.wire.buffer.filled());
            let (consumed, next) = self.state.note_failure(advanced)?;
            self.wire.buffer.consume(consumed);
            match next {
                Next::Data(left) => {
                    let limit = self.wire.limits.body_bytes_max;
                    if left > limit - self.state.sent_bytes.min(limit) {
                        self.state.failed = true;
                        return Err(body_too_large(limit));
                    }
                    return Ok(left);
                }
                Next::End => self.state.source = Source::Finished,
                Next::More => self.fill().await?,
            }
        }
    }

    /// Receives at least one byte into the connection's buffer.
    async fn fill(&mut self) -> Result<()> {
        self.send_continue().await?;
        let Wire {
            transport,
            buffer,
            deadline,
            limits,
        } = &mut self.wire;
        let state = &mut *self.state;
        let count = receive(*transport, deadline, limits, state, |transport, context| {
            transport.poll_read(context, buffer.room())
        })
        .await?;
        buffer.received(count);
        Ok(())
    }

    /// Receives at least one byte by `read`.
    async fn receive(
        &mut self,
        read: impl FnMut(&mut dyn Transport, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Result<usize> {
        self.send_continue().await?;
        let Wire {
            transport,
            deadline,
            limits,
            ..
        } = &mut self.wire;
        receive(*transport, deadline, limits, self.state, read).await
    }

    /// Sends the interim response that the client waits for before it sends the body.
    async fn send_continue(&mut self) -> Result<()> {
        if self.state.continue_left.is_empty() {
            return Ok(());
        }
        let Wire {
            transport,
            deadline,
            limits,
            ..
        } = &mut self.wire;
        let state = &mut *self.state;
        deadline.set(Instant::now() + limits.write_idle_time);
        let sent = poll_fn(|context| {
            while !state.continue_left.is_empty() {
                let source = [IoSlice::new(state.continue_left)];
                match transport.poll_write_vectored(context, &source) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::disconnected())),
                    Poll::Ready(Ok(count)) => {
                        state.continue_left = state.continue_left.get(count..).unwrap_or_default();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::io(error))),
                    Poll::Pending => {
                        return deadline.poll_passed(context).map(|()| Err(write_timeout()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        self.state.note_failure(sent)
    }
}

impl BodyState {
    /// Remembers that the stream is no longer at a place from which it can go on.
    fn note_failure<T>(&mut self, result: Result<T>) -> Result<T> {
        self.failed |= result.is_err();
        result
    }
}

impl fmt::Debug for BodyReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyReader")
            .field("state", self.state)
            .finish_non_exhaustive()
    }
}

/// Waits for `read` to return bytes, for as long as the limits on a body allow.
async fn receive(
    transport: &mut dyn Transport,
    deadline: &mut Deadline,
    limits: &Limits,
    state: &mut BodyState,
    mut read: impl FnMut(&mut dyn Transport, &mut Context<'_>) -> Poll<io::Result<usize>>,
) -> Result<usize> {
    let mut wait_start = None;
    let result = poll_fn(|context| match read(transport, context) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(Error::disconnected())),
        Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(Error::io(error))),
        Poll::Pending => {
            if wait_start.is_none() {
                let now = Instant::now();
                wait_start = Some(now);
                deadline.set(now + state.patience(limits));
            }
            deadline.poll_passed(context).map(|()| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    "the body of the request came too slowly",
                ))
            })
        }
    })
    .await;
    let now = Instant::now();
    state.last_byte_read = now;
    if let Some(start) = wait_start {
        state.waited += now - start;
    }
    state.note_failure(result)
}

/// The error for a client that does not read what is written.
pub(crate) fn write_timeout() -> Error {
    Error::new(ErrorKind::Timeout, "the client does not read the response")
}

fn too_short(wanted: usize, left: u64) -> Error {
    Error::new(
        ErrorKind::BodyTooShort,
        format!("the body has {left} bytes left where {wanted} are needed"),
    )
}

/// The smaller of the two.
fn clamp(count: u64, most: usize) -> usize {
    usize::try_from(count).map_or(most, |count| count.min(most))
}
