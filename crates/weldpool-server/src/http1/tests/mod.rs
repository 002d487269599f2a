//! Whole connections over in-memory streams, and servers over the loopback interface.

mod bodies;
mod exchanges;
mod properties;
mod server;
mod timeouts;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Handler, HeaderName, Limits, Request, Response, Result, Stream, serve_connection};

/// What a test request is answered with depends on its path.
#[derive(Default)]
struct Scripted {
    /// Releases one request for `/wait`.
    release: Notify,
    /// Requests for `/wait` that have begun.
    waiting: AtomicUsize,
    /// Requests for `/watch` whose client went away.
    deserted: AtomicUsize,
}

impl Scripted {
    async fn answer(&self, request: &mut Request<'_>) -> Result<Response> {
        let head = request.head;
        let body = &mut request.body;
        let mut response = Response::new(200);
        match head.path() {
            // The body, and how it was asked for.
            "/echo" => {
                let bytes = body.read_to_end(1 << 20).await?;
                body.expect_end().await?;
                let label = format!("{} {:?} ", head.method_name(), head.query());
                response = response.chunk(label).chunk(bytes);
            }
            // Two parts of given lengths, which have to be all of the body.
            "/parts" => {
                let mut lengths = [0; 4];
                body.read_exact_into(&mut lengths).await?;
                let mut parts: Vec<Vec<u8>> = lengths
                    .iter()
                    .map(|length| vec![0; usize::from(*length) * 50])
                    .collect();
                let mut slices: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
                body.read_vectored_exact(&mut slices).await?;
                body.expect_end().await?;
                for part in parts {
                    response = response.chunk(part);
                }
            }
            "/first-three" => {
                let mut bytes = [0; 3];
                body.read_exact_into(&mut bytes).await?;
                response = response.chunk(bytes.to_vec());
            }
            "/bounded" => {
                let length = body.read_to_end(10).await.map(|bytes| bytes.len());
                response = response.chunk(format!("{:?}", length.map_err(|error| error.kind())));
            }
            "/ignore" => response = response.chunk("ignored"),
            "/close" => response = response.chunk("closing").close(),
            "/nothing" => response = Response::new(204),
            "/compress" => {
                response = response.chunk("abc".repeat(1000)).compressible(true);
            }
            "/panic" => panic!("as asked"),
            "/wait" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.release.notified().await;
                response = response.chunk("released");
            }
            "/watch" => {
                body.disconnected().await;
                self.deserted.fetch_add(1, Ordering::SeqCst);
            }
            "/give-up" => {
                let mut bytes = vec![0; 100];
                let read = body.read_exact_into(&mut bytes);
                let read = tokio::time::timeout(Duration::from_millis(50), read).await;
                response = response.chunk(if read.is_ok() { "read" } else { "gave up" });
            }
            _ => response = Response::with_content(404, "text/plain", "no such path"),
        }
        Ok(response)
    }
}

impl Handler for Scripted {
    async fn handle(&self, mut request: Request<'_>) -> Response {
        match self.answer(&mut request).await {
            Ok(response) => response,
            Err(error) => self
                .reject(&error)
                .header(HeaderName::from_static("X-Kind"), kind_name(&error)),
        }
    }
}

/// The kind of an error as a header can carry it.
fn kind_name(error: &super::Error) -> &'static str {
    use super::ErrorKind as Kind;
    match error.kind() {
        Kind::Malformed => "malformed",
        Kind::BodyTooShort => "short",
        Kind::BodyTooLarge => "large",
        Kind::HeaderTooLarge => "header",
        Kind::Timeout => "timeout",
        Kind::Disconnected => "disconnected",
        _ => "other",
    }
}

/// A response as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Takes the first response off `received`, if it is complete. Interim responses have no body.
fn take_answer(received: &mut Vec<u8>, silent: bool) -> Option<Answer> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        + 4;
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut answer = Answer {
        status,
        head,
        body: Vec::new(),
    };
    let length = match answer.header("content-length") {
        Some(length) if !silent => length.parse::<usize>().unwrap(),
        _ => 0,
    };
    if received.len() < end + length {
        return None;
    }
    answer.body = received[end..end + length].to_vec();
    received.drain(..end + length);
    Some(answer)
}

fn all_answers(mut received: Vec<u8>) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(answer) = take_answer(&mut received, false) {
        answers.push(answer);
    }
    assert!(
        received.is_empty(),
        "left over: {:?}",
        String::from_utf8_lossy(&received)
    );
    answers
}

/// A client whose connection is served by a task.
struct Client {
    stream: DuplexStream,
    received: Vec<u8>,
    serving: JoinHandle<()>,
}

impl Client {
    fn connect(limits: Limits) -> Self {
        let (stream, server) = duplex(256);
        let serving = tokio::spawn(async move {
            serve_connection(Stream(server), &Scripted::default(), limits)
                .await
                .unwrap();
        });
        Self {
            stream,
            received: Vec::new(),
            serving,
        }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next response.
    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = take_answer(&mut self.received, false) {
                return answer;
            }
            let count = self.stream.read_buf(&mut self.received).await.unwrap();
            assert!(
                count > 0,
                "closed: {:?}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Waits for the server to close, and checks that it sent nothing more.
    async fn closed(mut self) {
        self.stream.read_to_end(&mut self.received).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&self.received), "");
        drop(self.stream);
        self.serving.await.unwrap();
    }
}

/// Sends `input` in pieces of `piece` bytes, then closes the sending side; returns all that the
/// server sends until it closes.
async fn talk(input: &[u8], piece: usize, limits: Limits) -> Vec<u8> {
    let mut client = Client::connect(limits);
    let (mut reader, mut writer) = tokio::io::split(&mut client.stream);
    let mut received = Vec::new();
    let send = async {
        for part in input.chunks(piece.max(1)) {
            // The server may have closed already.
            if writer.write_all(part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let (_, result) = tokio::join!(send, reader.read_to_end(&mut received));
    result.unwrap();
    drop(client.stream);
    client.serving.await.unwrap();
    received
}

/// The responses to `input`, whatever the pieces it arrives in.
async fn answers(input: impl AsRef<[u8]>) -> Vec<Answer> {
    let input = input.as_ref();
    let limits = Limits {
        date_header: false,
        ..Limits::default()
    };
    let whole = talk(input, input.len(), limits.clone()).await;
    for piece in [1, 2, 3, 7, 100] {
        let pieces = talk(input, piece, limits.clone()).await;
        assert_eq!(
            String::from_utf8_lossy(&pieces),
            String::from_utf8_lossy(&whole),
            "in pieces of {piece}"
        );
    }
    all_answers(whole)
}

/// The one response to `input`.
async fn answer(input: impl AsRef<[u8]>) -> Answer {
    let mut answers = answers(input).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A request whose body is sent in chunks of `size` bytes.
fn post_chunked(path: &str, headers: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Transfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in body.chunks(size) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}
