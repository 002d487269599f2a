//! A keep-alive HTTP/1.1 client connection that adds as little as it can to what it measures.
//!
//! Requests are sent as prepared bytes, answers are read into one buffer that the connection keeps. Only bodies
//! with a `Content-Length` are read, which is how every server measured here answers.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Longest silence of a server before a request counts as unanswered.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest body of an answer, in bytes.
const BODY_BYTES_MAX: usize = 256 << 20;
const HEADERS_MAX: usize = 32;

/// An open connection to one server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Kept at full length so that reading never clears memory first.
    buffer: Vec<u8>,
}

/// One answer, borrowed from its connection's buffer.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: &'a [u8],
    /// Length in bytes of the JSON before the binary tensors, when the answer has any.
    pub json_bytes: Option<usize>,
    /// The content coding of the body, such as `gzip`.
    pub encoding: Option<&'a str>,
    /// Whether the server closes the connection after this answer.
    pub close: bool,
}

impl<'a> Response<'a> {
    /// The binary tensors of the answer: what follows its JSON.
    pub fn binary(&self) -> &'a [u8] {
        self.json_bytes
            .and_then(|length| self.body.get(length..))
            .unwrap_or_default()
    }

    /// The JSON of the answer: all of it, or what stands before the binary tensors.
    pub fn json(&self) -> &'a [u8] {
        self.json_bytes
            .and_then(|length| self.body.get(..length))
            .unwrap_or(self.body)
    }
}

/// The parts of an answer's head that decide how its body is read.
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
    json_bytes: Option<usize>,
    encoding: Option<(usize, usize)>,
    close: bool,
}

impl Connection {
    /// Connects to `address` with Nagle's algorithm off.
    ///
    /// # Errors
    /// `Io` when nothing listens there.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        let stream =
            open().map_err(|error| Error::io(format!("connecting to {address}"), error))?;
        Ok(Self {
            stream,
            buffer: vec![0; HEAD_BYTES_MAX],
        })
    }

    /// Sends the bytes of a request, or a part of one.
    ///
    /// # Errors
    /// `Io` when the server has closed the connection or takes nothing for 30 s.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        self.stream
            .write_all(request)
            .map_err(|error| Error::io("sending a request", error))
    }

    /// Ends the sending direction; the server sees the end of the stream and can still answer.
    ///
    /// # Errors
    /// `Io` when the connection is gone already.
    pub fn finish_sending(&mut self) -> Result<()> {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(|error| Error::io("ending a request", error))
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// `Io` when the connection ends first or stays silent for 30 s, `Protocol` when the answer is not HTTP/1.1
    /// with a `Content-Length` or exceeds a limit.
    pub fn receive(&mut self) -> Result<Response<'_>> {
        let mut filled = 0;
        let head = loop {
            filled += self.read_some(filled)?;
            if let Some(head) = parse_head(&self.buffer[..filled])? {
                break head;
            }
            if filled == self.buffer.len() {
                return Err(Error::protocol(format!(
                    "a head of more than {HEAD_BYTES_MAX} bytes"
                )));
            }
        };
        let end = head.bytes + head.body_bytes;
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        while filled < end {
            filled += self.read_some(filled)?;
        }
        if filled > end {
            return Err(Error::protocol("bytes after the end of the answer"));
        }
        Ok(Response {
            status: head.status,
            body: &self.buffer[head.bytes..end],
            json_bytes: head.json_bytes,
            encoding: head
                .encoding
                .and_then(|(start, stop)| std::str::from_utf8(&self.buffer[start..stop]).ok()),
            close: head.close,
        })
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// Those of [`Connection::send`] and [`Connection::receive`].
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response<'_>> {
        self.send(request)?;
        self.receive()
    }

    fn read_some(&mut self, filled: usize) -> Result<usize> {
        loop {
            match self.stream.read(&mut self.buffer[filled..]) {
                Ok(0) => {
                    let end = std::io::Error::from(IoKind::UnexpectedEof);
                    return Err(Error::io("the server closed the connection", end));
                }
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(Error::io("waiting for an answer", error)),
            }
        }
    }
}

/// Reads the head at the start of `bytes`; `None` when it is not complete yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            return Err(Error::caused(
                ErrorKind::Protocol,
                "the answer's head",
                error,
            ));
        }
    };
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        bytes: length,
        body_bytes: 0,
        json_bytes: None,
        encoding: None,
        close: response.version == Some(0),
    };
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            head.body_bytes = number(header, BODY_BYTES_MAX)?;
        } else if header
            .name
            .eq_ignore_ascii_case("inference-header-content-length")
        {
            head.json_bytes = Some(number(header, BODY_BYTES_MAX)?);
        } else if header.name.eq_ignore_ascii_case("content-encoding") {
            // The value is a slice of `bytes`, so its place there can outlive the parsed head.
            let start = header.value.as_ptr().addr() - bytes.as_ptr().addr();
            head.encoding = Some((start, start + header.value.len()));
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.close = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Error::protocol("an answer without a Content-Length"));
        }
    }
    // The lengths of a compressed answer are of two kinds: that of the JSON is the uncompressed one.
    if head.encoding.is_none() && head.json_bytes.is_some_and(|json| json > head.body_bytes) {
        return Err(Error::protocol("a JSON part longer than the answer"));
    }
    Ok(Some(head))
}

fn number(header: &httparse::Header<'_>, limit: usize) -> Result<usize> {
    std::str::from_utf8(header.value)
        .ok()
        .and_then(|value| value.trim().parse().ok())
        .filter(|value| *value <= limit)
        .ok_or_else(|| {
            Error::protocol(format!(
                "header {} is not a length below {limit}",
                header.name
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one connection with `pieces`, written apart, and closes.
    fn answering(pieces: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for piece in pieces {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        address
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let address = answering(&[
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"ngth: 6\r\nInference-Header-Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
            b"abcd",
        ]);
        let mut connection = Connection::open(address).unwrap();
        let response = connection.receive().unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.json(), b"{}");
        assert_eq!(response.binary(), b"abcd");
        assert_eq!(response.encoding, Some("gzip"));
        assert!(!response.close);
    }

    #[test]
    fn broken_answers_are_errors() {
        let cases: [(&'static [&'static [u8]], ErrorKind); 6] = [
            (
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"],
                ErrorKind::Io,
            ),
            (
                &[b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
                ErrorKind::Protocol,
            ),
            (
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"],
                ErrorKind::Protocol,
            ),
            (
                &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
                ErrorKind::Protocol,
            ),
            (
                &[b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 1\r\n\r\n"],
                ErrorKind::Protocol,
            ),
            (&[b"nonsense\r\n\r\n"], ErrorKind::Protocol),
        ];
        for (pieces, kind) in cases {
            let mut connection = Connection::open(answering(pieces)).unwrap();
            let error = connection.receive().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
