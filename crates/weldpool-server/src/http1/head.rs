//! The head of a request: parsed once into storage that is reused for the next one.

use std::mem::MaybeUninit;

use super::error::{Error, ErrorKind, Result};
use super::limits::{HEADER_COUNT_CAP, Limits};
use super::target::{self, Split};

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`; answered like `GET`, without the body.
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Any other; [`RequestHead::method_name`] has its name.
    Other,
}

/// The HTTP version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a request's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After this many bytes; zero when neither framing header is there.
    Length(u64),
    /// By the last chunk.
    Chunked,
}

/// A range of [`RequestHead::bytes`].
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// The head of one request: method, target, version and headers.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    target: String,
    split: Split,
    method: Method,
    method_name: Span,
    version: Version,
    headers: Vec<(Span, Span)>,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
}

impl RequestHead {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            target: String::new(),
            split: Split::default(),
            method: Method::Other,
            method_name: Span::default(),
            version: Version::Http11,
            headers: Vec::new(),
            framing: Framing::Length(0),
            keep_alive: false,
            expects_continue: false,
        }
    }

    /// Parses the head at the front of `received` into this one, replacing what was there.
    /// Returns the head's length, or `None` if it is not complete yet.
    pub(crate) fn parse(&mut self, received: &[u8], limits: &Limits) -> Result<Option<usize>> {
        let mut table = [const { MaybeUninit::uninit() }; HEADER_COUNT_CAP];
        let table = &mut table[..limits.header_count_max.min(HEADER_COUNT_CAP)];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(received, table) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(parse_error(error, limits)),
        };
        let (Some(method), Some(path)) = (request.method, request.path) else {
            return Ok(None);
        };
        let span = |part: &[u8]| span_within(received, part);

        self.bytes.clear();
        self.bytes.extend_from_slice(&received[..length]);
        self.target.clear();
        self.target.push_str(path);
        self.method = method_of(method);
        self.method_name = span(method.as_bytes());
        self.version = if request.version == Some(0) {
            Version::Http10
        } else {
            Version::Http11
        };
        if method == "CONNECT" {
            return Err(Error::new(
                ErrorKind::Unimplemented,
                "this server is not a proxy",
            ));
        }
        self.split = target::split(&self.target, self.method == Method::Options)?;

        self.headers.clear();
        let mut meaning = Meaning::default();
        for header in request.headers.iter() {
            self.headers
                .push((span(header.name.as_bytes()), span(header.value)));
            meaning.note(header.name, header.value)?;
        }
        self.keep_alive = match self.version {
            Version::Http11 => !meaning.close,
            Version::Http10 => meaning.keep_alive && !meaning.close,
        };
        self.expects_continue = meaning.expects_continue && self.version == Version::Http11;
        self.framing = meaning.framing(self.version, limits)?;
        Ok(Some(length))
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The method's name as the client wrote it.
    #[must_use]
    pub fn method_name(&self) -> &str {
        std::str::from_utf8(self.slice(self.method_name)).unwrap_or_default()
    }

    /// The path, still percent-encoded; `/` when the target has none.
    #[must_use]
    pub fn path(&self) -> &str {
        match &self.target[self.split.path_start..self.split.path_end] {
            "" => "/",
            path => path,
        }
    }

    /// The query without its question mark, still percent-encoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.split.query_start.map(|start| &self.target[start..])
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The value of the first header called `name`, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(header, _)| self.slice(*header).eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| self.slice(*value))
    }

    /// The value of the first header called `name`, if it is UTF-8.
    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.header(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All headers in the order they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| {
            (
                std::str::from_utf8(self.slice(*name)).unwrap_or_default(),
                self.slice(*value),
            )
        })
    }

    /// Whether the client allows another request on this connection.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

/// Where `part`, a slice of `whole`, lies in it. A head is at most 1 MiB, so offsets fit.
fn span_within(whole: &[u8], part: &[u8]) -> Span {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    if part.is_empty() || start + part.len() > whole.len() {
        return Span::default();
    }
    Span {
        start: start as u32,
        end: (start + part.len()) as u32,
    }
}

fn method_of(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    }
}

fn parse_error(error: httparse::Error, limits: &Limits) -> Error {
    use httparse::Error as Parse;
    let message = match error {
        Parse::TooManyHeaders => {
            let message = format!(
                "the request has more than {} headers",
                limits.header_count_max
            );
            return Error::new(ErrorKind::HeaderTooLarge, message);
        }
        Parse::Version => {
            return Error::new(
                ErrorKind::UnsupportedVersion,
                "the request is neither HTTP/1.1 nor HTTP/1.0",
            );
        }
        Parse::HeaderName => "a header's name holds a character that is not allowed there",
        Parse::HeaderValue => "a header's value holds a character that is not allowed there",
        Parse::NewLine => "a line does not end in a carriage return and a line feed",
        Parse::Token | Parse::Status => "the request line is not HTTP",
    };
    Error::malformed(message)
}

/// What the headers say about the connection and the body. Whatever two readers could understand
/// differently is refused, because that is how requests are smuggled past one of them (RFC 9112,
/// sections 6.1, 6.3 and 11.2).
#[derive(Default)]
struct Meaning {
    length: Option<u64>,
    chunked: bool,
    host: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Meaning {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<()> {
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if self.host {
                    let message = "the request has more than one Host header";
                    return Err(Error::malformed(message));
                }
                self.host = true;
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Error::new(
                        ErrorKind::ExpectationFailed,
                        "the only expectation that can be met is 100-continue",
                    ));
                }
                self.expects_continue = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                if self.length.is_some() {
                    return Err(Error::malformed(
                        "the request has more than one Content-Length header",
                    ));
                }
                self.length = Some(content_length(value)?);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if self.chunked {
                    return Err(Error::malformed(
                        "the request has more than one Transfer-Encoding header",
                    ));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::new(
                        ErrorKind::Unimplemented,
                        "the only Transfer-Encoding that is understood is chunked",
                    ));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, version: Version, limits: &Limits) -> Result<Framing> {
        if !self.host && version == Version::Http11 {
            return Err(Error::malformed("the request has no Host header"));
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Error::malformed(
                "the request has both a Content-Length and a Transfer-Encoding header",
            )),
            (None, true) if version == Version::Http10 => {
                Err(Error::malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) if length > limits.body_bytes_max => {
                Err(body_too_large(limits.body_bytes_max))
            }
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// The error for a body over `limit` bytes.
pub(crate) fn body_too_large(limit: u64) -> Error {
    Error::new(
        ErrorKind::BodyTooLarge,
        format!("the body is over the limit of {limit} bytes"),
    )
}

fn content_length(value: &[u8]) -> Result<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Error::malformed(
            "the Content-Length is not a decimal number",
        ));
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| {
            sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .ok_or_else(|| {
            Error::new(
                ErrorKind::BodyTooLarge,
                "the Content-Length is over 2^64 bytes",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<RequestHead>> {
        let mut head = RequestHead::new();
        let length = head.parse(text.as_bytes(), &Limits::default())?;
        Ok(length.map(|_| head))
    }

    fn complete(text: &str) -> RequestHead {
        parse(text).unwrap().expect("a complete head")
    }

    fn refused(text: &str) -> ErrorKind {
        parse(text).expect_err(text).kind()
    }

    #[test]
    fn a_head_is_taken_apart() {
        let text = "POST /v2/models/a%20b/infer?x=1 HTTP/1.1\r\nHost: here\r\n\
                    content-LENGTH: 12\r\nX-Empty:\r\nX-Raw: \u{e9} \r\n\r\nbody";
        let mut head = RequestHead::new();
        let length = head.parse(text.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(length, Some(text.len() - 4));
        assert_eq!((head.method(), head.method_name()), (Method::Post, "POST"));
        assert_eq!(
            (head.path(), head.query()),
            ("/v2/models/a%20b/infer", Some("x=1"))
        );
        assert_eq!(head.version(), Version::Http11);
        assert_eq!(head.header("Content-Length"), Some(&b"12"[..]));
        assert_eq!(head.header_str("x-empty"), Some(""));
        assert_eq!(head.header_str("X-Raw"), Some("\u{e9}"));
        assert_eq!(head.header("absent"), None);
        assert_eq!(head.headers().count(), 4);
        assert_eq!(head.framing(), Framing::Length(12));
        assert!(head.keep_alive() && !head.expects_continue());
    }

    #[test]
    fn nothing_of_the_previous_request_is_left() {
        let mut head = RequestHead::new();
        let limits = Limits::default();
        let first = "PUT /a?q HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nX-A: 1\r\n\
                     Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        head.parse(first.as_bytes(), &limits).unwrap().unwrap();
        assert!(head.expects_continue() && !head.keep_alive());
        assert_eq!(head.framing(), Framing::Chunked);
        head.parse(b"PURGE /b HTTP/1.1\r\nHost: x\r\n\r\n", &limits)
            .unwrap()
            .unwrap();
        assert_eq!(
            (head.method(), head.method_name()),
            (Method::Other, "PURGE")
        );
        assert_eq!(
            (head.path(), head.query(), head.header("X-A")),
            ("/b", None, None)
        );
        assert_eq!(head.framing(), Framing::Length(0));
        assert!(head.keep_alive() && !head.expects_continue());
    }

    #[test]
    fn an_incomplete_head_is_not_an_error() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n";
        for end in 0..text.len() {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        assert!(parse(text).unwrap().is_some());
    }

    #[test]
    fn versions_decide_about_keeping_the_connection() {
        let cases = [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: Upgrade, CLOSE\r\n", false),
            ("1.1", "Connection: x\r\nConnection: close\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ];
        for (version, header, expected) in cases {
            let head = complete(&format!("GET / HTTP/{version}\r\nHost: x\r\n{header}\r\n"));
            assert_eq!(head.keep_alive(), expected, "{version} {header:?}");
        }
    }

    #[test]
    fn what_could_smuggle_a_request_is_refused() {
        let cases = [
            (
                "Content-Length: 3\r\nContent-Length: 3",
                ErrorKind::Malformed,
            ),
            ("Content-Length: 3, 3", ErrorKind::Malformed),
            ("Content-Length: +3", ErrorKind::Malformed),
            ("Content-Length: -3", ErrorKind::Malformed),
            ("Content-Length: 0x3", ErrorKind::Malformed),
            ("Content-Length:", ErrorKind::Malformed),
            ("Content-Length: 3 3", ErrorKind::Malformed),
            (
                "Content-Length: 99999999999999999999",
                ErrorKind::BodyTooLarge,
            ),
            ("Content-Length: 67108865", ErrorKind::BodyTooLarge),
            (
                "Content-Length: 3\r\nTransfer-Encoding: chunked",
                ErrorKind::Malformed,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 3",
                ErrorKind::Malformed,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                ErrorKind::Malformed,
            ),
            ("Transfer-Encoding: gzip, chunked", ErrorKind::Unimplemented),
            (
                "Transfer-Encoding: chunked, chunked",
                ErrorKind::Unimplemented,
            ),
            ("Transfer-Encoding: identity", ErrorKind::Unimplemented),
            ("Transfer-Encoding: \u{b}chunked", ErrorKind::Malformed),
            ("Transfer-Encoding : chunked", ErrorKind::Malformed),
            (" Content-Length: 3", ErrorKind::Malformed),
            ("X-A: b\r\n folded: c", ErrorKind::Malformed),
            ("X-A: b\r\n\tContent-Length: 3", ErrorKind::Malformed),
            ("X-A: b\rContent-Length: 3", ErrorKind::Malformed),
            ("X-A: b\0c", ErrorKind::Malformed),
            ("X A: b", ErrorKind::Malformed),
            (": b", ErrorKind::Malformed),
            ("no colon", ErrorKind::Malformed),
            ("Host: y", ErrorKind::Malformed),
            ("Expect: 200-ok", ErrorKind::ExpectationFailed),
        ];
        for (header, kind) in cases {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
            assert_eq!(refused(&text), kind, "{header:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refused(old), ErrorKind::Malformed);
    }

    #[test]
    fn what_is_not_a_request_line_is_refused() {
        let cases = [
            ("GET / HTTP/1.1\r\n\r\n", ErrorKind::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", ErrorKind::UnsupportedVersion),
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                ErrorKind::UnsupportedVersion,
            ),
            ("\x16\x03\x01\x02\x00\x01", ErrorKind::Malformed),
            ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", ErrorKind::Malformed),
            ("GET /\r\nHost: x\r\n\r\n", ErrorKind::Malformed),
            ("GET v2 HTTP/1.1\r\nHost: x\r\n\r\n", ErrorKind::Malformed),
            (
                "CONNECT host:80 HTTP/1.1\r\nHost: x\r\n\r\n",
                ErrorKind::Unimplemented,
            ),
        ];
        for (text, kind) in cases {
            assert_eq!(refused(text), kind, "{text:?}");
        }
    }

    #[test]
    fn more_headers_than_allowed_are_refused() {
        let limits = Limits {
            header_count_max: 2,
            ..Limits::default()
        };
        let mut head = RequestHead::new();
        let two = b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\n\r\n";
        assert!(head.parse(two, &limits).unwrap().is_some());
        let three = b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 1\r\n\r\n";
        assert_eq!(
            head.parse(three, &limits).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
    }

    #[test]
    fn an_expectation_means_nothing_in_the_old_version() {
        assert!(!complete("PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue());
    }

    #[test]
    fn an_address_without_a_path_means_the_root() {
        assert_eq!(
            complete("GET http://x HTTP/1.1\r\nHost: x\r\n\r\n").path(),
            "/"
        );
        assert_eq!(
            complete("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").path(),
            "*"
        );
    }
}
