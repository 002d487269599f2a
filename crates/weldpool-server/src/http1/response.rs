//! A response: status, headers, and a body in pieces that stay where they are.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weldpool::{BufferView, ReadGuard};

use super::encoding::{self, ContentEncoding};
use super::error::{Error, ErrorKind, Result};
use super::handler::Observer;

/// The answer to a request.
///
/// The connection adds `Content-Length`, `Connection` and `Date` itself. Memory in the body is
/// kept until it is written, and is written from where it is.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<Chunk>,
    compressible: bool,
    closes: bool,
    work: Duration,
    observer: Option<Arc<dyn Observer>>,
}

/// A piece of a response's body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Chunk {
    /// Bytes of the program itself.
    Static(&'static [u8]),
    /// Bytes made for this response.
    Owned(Vec<u8>),
    /// Bytes that others hold too.
    Shared(Bytes),
    /// Pool memory. It is read-locked from just before the head is written to the end of the body.
    View(BufferView),
}

/// The name of a header, known when the program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeaderName(&'static str);

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValue(Value);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(Cow<'static, str>),
    Number(u64),
}

impl Response {
    /// A response without headers and body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            compressible: false,
            closes: false,
            work: Duration::ZERO,
            observer: None,
        }
    }

    /// A response of one piece and its type.
    #[must_use]
    pub fn with_content(
        status: u16,
        content_type: impl Into<HeaderValue>,
        content: impl Into<Chunk>,
    ) -> Self {
        Self::new(status)
            .header(HeaderName::CONTENT_TYPE, content_type)
            .chunk(content)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds a piece to the end of the body.
    #[must_use]
    pub fn chunk(mut self, chunk: impl Into<Chunk>) -> Self {
        self.body.push(chunk.into());
        self
    }

    /// Lets the connection compress the body if the client's `Accept-Encoding` prefers that.
    /// Compressing copies the body, and is slow next to sending it.
    #[must_use]
    pub fn compressible(mut self, compressible: bool) -> Self {
        self.compressible = compressible;
        self
    }

    /// Closes the connection behind this response.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Notes how long the handler waited for the work itself, to be told apart from the server's
    /// own share in [`RequestTiming`](super::RequestTiming).
    #[must_use]
    pub fn work(mut self, work: Duration) -> Self {
        self.work = work;
        self
    }

    /// Has `observer` told of this response, besides the server's own observer.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The headers added so far.
    #[must_use]
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[Chunk] {
        &self.body
    }

    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    pub(crate) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.observer.clone()
    }

    pub(crate) fn work_time(&self) -> Duration {
        self.work
    }

    pub(crate) fn is_compressible(&self) -> bool {
        self.compressible
    }

    /// The body's length in bytes.
    pub(crate) fn body_len(&self) -> u64 {
        self.body.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Makes all of the body readable, until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ResponseUnreadable`] if pool memory is being written or is not host memory.
    pub(crate) fn lock(&self) -> Result<Vec<LockedChunk<'_>>> {
        self.body
            .iter()
            .filter(|chunk| !chunk.is_empty())
            .map(Chunk::lock)
            .collect()
    }

    /// Appends a copy of the body to `out`.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock); `out` is then left with part of the body.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> Result<()> {
        for chunk in &self.body {
            out.extend_from_slice(&chunk.lock()?);
        }
        Ok(())
    }

    /// Replaces the body by its compressed form if the client prefers one and it may be.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    pub(crate) async fn encode(mut self, accept_encoding: Option<&[u8]>) -> Result<Self> {
        /// Below this a compressed body is hardly shorter.
        const COMPRESSED_BYTES_MIN: u64 = 256;
        /// Above this compression takes long enough to keep other connections waiting.
        const INLINE_BYTES_MAX: u64 = 32 << 10;

        let length = self.body_len();
        if !self.compressible || length < COMPRESSED_BYTES_MIN {
            return Ok(self);
        }
        self.headers
            .push((HeaderName::VARY, HeaderValue::from("Accept-Encoding")));
        let coding = ContentEncoding::negotiate(accept_encoding);
        let Some(name) = coding.header_value() else {
            return Ok(self);
        };

        let compress = move |response: &Self| -> Result<Vec<u8>> {
            let parts = response.lock()?;
            encoding::compress(coding, parts.iter().map(|part| &**part)).map_err(|error| {
                let message = "the response cannot be compressed";
                Error::new(ErrorKind::ResponseUnreadable, message).with_source(error)
            })
        };
        let (mut response, compressed) = if length <= INLINE_BYTES_MAX {
            let compressed = compress(&self)?;
            (self, compressed)
        } else {
            let task = tokio::task::spawn_blocking(move || {
                let compressed = compress(&self);
                (self, compressed)
            });
            let (response, compressed) = task.await.map_err(|_| {
                Error::new(
                    ErrorKind::ResponseUnreadable,
                    "the response was not compressed",
                )
            })?;
            (response, compressed?)
        };
        response.body = vec![Chunk::Owned(compressed)];
        response
            .headers
            .push((HeaderName::CONTENT_ENCODING, HeaderValue::from(name)));
        Ok(response)
    }
}

impl Chunk {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Static(bytes) => bytes.len(),
            Self::Owned(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
            Self::View(view) => view.len(),
        }
    }

    /// Whether there are no bytes in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> Result<LockedChunk<'_>> {
        Ok(match self {
            Self::Static(bytes) => LockedChunk::Slice(bytes),
            Self::Owned(bytes) => LockedChunk::Slice(bytes),
            Self::Shared(bytes) => LockedChunk::Slice(bytes),
            Self::View(view) => LockedChunk::Guard(view.read().map_err(|error| {
                let message = format!("the memory of the response cannot be read: {error}");
                Error::new(ErrorKind::ResponseUnreadable, message)
            })?),
        })
    }
}

impl From<&'static [u8]> for Chunk {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Chunk {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<String> for Chunk {
    fn from(text: String) -> Self {
        Self::Owned(text.into_bytes())
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl From<BufferView> for Chunk {
    fn from(view: BufferView) -> Self {
        Self::View(view)
    }
}

/// A chunk whose bytes can be read.
pub(crate) enum LockedChunk<'a> {
    Slice(&'a [u8]),
    Guard(ReadGuard<'a, u8>),
}

impl Deref for LockedChunk<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Guard(guard) => guard,
        }
    }
}

impl HeaderName {
    /// `Accept-Encoding`
    pub const ACCEPT_ENCODING: Self = Self::from_static("Accept-Encoding");
    /// `Allow`
    pub const ALLOW: Self = Self::from_static("Allow");
    /// `Content-Encoding`
    pub const CONTENT_ENCODING: Self = Self::from_static("Content-Encoding");
    /// `Content-Type`
    pub const CONTENT_TYPE: Self = Self::from_static("Content-Type");
    /// `Retry-After`
    pub const RETRY_AFTER: Self = Self::from_static("Retry-After");
    /// `Vary`
    pub const VARY: Self = Self::from_static("Vary");

    /// A header name. Meant for constants, where a bad name stops the build.
    ///
    /// # Panics
    ///
    /// If `name` is not a token of RFC 9110, or is a header that the connection writes itself.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty(), "a header's name is not empty");
        let mut index = 0;
        while index < bytes.len() {
            assert!(is_token(bytes[index]), "a header's name is a token");
            index += 1;
        }
        assert!(
            !(name.as_bytes().eq_ignore_ascii_case(b"content-length")
                || name.as_bytes().eq_ignore_ascii_case(b"transfer-encoding")
                || name.as_bytes().eq_ignore_ascii_case(b"connection")
                || name.as_bytes().eq_ignore_ascii_case(b"date")),
            "the connection writes this header itself"
        );
        Self(name)
    }

    /// The name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        self.0
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

impl HeaderValue {
    /// A value from text made at run time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidHeader`] if it holds control characters, which could end the header.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text
            .bytes()
            .any(|byte| byte != b'\t' && byte.is_ascii_control())
        {
            return Err(Error::new(
                ErrorKind::InvalidHeader,
                "a header's value must not hold control characters",
            ));
        }
        Ok(Self(Value::Text(Cow::Owned(text))))
    }

    /// Appends the value as it is written to the client.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Number(number) => write_decimal(out, *number),
        }
    }
}

/// Characters that could end the header are left out.
impl From<&'static str> for HeaderValue {
    fn from(text: &'static str) -> Self {
        // Without an early exit the loop runs on many bytes at once.
        let clean = text
            .bytes()
            .fold(true, |clean, byte| clean & !byte.is_ascii_control());
        Self(Value::Text(if clean {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(
                text.chars()
                    .filter(|char| !char.is_ascii_control())
                    .collect(),
            )
        }))
    }
}

impl From<u64> for HeaderValue {
    fn from(number: u64) -> Self {
        Self(Value::Number(number))
    }
}

impl From<usize> for HeaderValue {
    fn from(number: usize) -> Self {
        Self(Value::Number(number as u64))
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => number.fmt(f),
        }
    }
}

/// Appends `number` in decimal, without the formatting machinery.
pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &HeaderValue) -> String {
        let mut out = Vec::new();
        value.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_cannot_end_its_header() {
        for bad in ["a\r\nSet-Cookie: b", "a\nb", "a\0", "\x7f"] {
            let error = HeaderValue::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidHeader);
        }
        assert_eq!(text(&HeaderValue::new("a\tb é").unwrap()), "a\tb é");
        assert_eq!(text(&HeaderValue::from("a\r\nb")), "ab");
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 65_536, u64::MAX] {
            assert_eq!(text(&HeaderValue::from(number)), number.to_string());
        }
    }

    #[test]
    fn names_that_the_connection_writes_are_refused() {
        for name in [
            "",
            "a b",
            "a:",
            "content-length",
            "Transfer-Encoding",
            "CONNECTION",
            "Date",
        ] {
            let name = name.to_owned().leak();
            assert!(
                std::panic::catch_unwind(|| HeaderName::from_static(name)).is_err(),
                "{name}"
            );
        }
        assert_eq!(HeaderName::from_static("X-a_1").as_str(), "X-a_1");
    }

    #[test]
    fn pool_memory_is_locked_while_it_is_written() {
        let allocator = weldpool::Allocator::host().unwrap();
        let mut buffer = allocator.allocate(4).unwrap();
        buffer.write::<u8>().unwrap().copy_from_slice(b"pool");
        let view = buffer.share();
        let response = Response::new(200)
            .chunk("head ")
            .chunk(Vec::new())
            .chunk(view.clone());
        assert_eq!(response.body_len(), 9);
        {
            let parts = response.lock().unwrap();
            assert_eq!(parts.len(), 2);
            assert_eq!(
                parts
                    .iter()
                    .flat_map(|part| part.to_vec())
                    .collect::<Vec<_>>(),
                b"head pool"
            );
            assert!(view.write::<u8>().is_err());
        }
        let writing = view.write::<u8>().unwrap();
        let error = response.lock().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResponseUnreadable);
        drop(writing);
    }

    #[tokio::test]
    async fn only_a_body_that_may_be_and_is_worth_it_is_compressed() {
        let encoded = async |response: Response, accept: Option<&[u8]>| {
            let response = response.encode(accept).await.unwrap();
            let coding = response
                .headers()
                .iter()
                .find(|(name, _)| *name == HeaderName::CONTENT_ENCODING)
                .map(|(_, value)| value.to_string());
            (coding, response.body_len())
        };
        let gzip = Some(&b"gzip"[..]);
        let large = || Response::new(200).chunk(vec![1; 100_000]);
        assert_eq!(encoded(large(), gzip).await, (None, 100_000));
        assert_eq!(
            encoded(large().compressible(true), None).await,
            (None, 100_000)
        );
        let small = Response::new(200).chunk("short").compressible(true);
        assert_eq!(encoded(small, gzip).await, (None, 5));
        for response in [
            large(),
            Response::new(200).chunk(vec![1; 1000]).chunk(vec![2; 1000]),
        ] {
            let (coding, length) = encoded(response.compressible(true), gzip).await;
            assert_eq!(coding.as_deref(), Some("gzip"));
            assert!(length < 1000, "{length}");
        }
    }
}
