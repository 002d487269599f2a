//! The ceiling: the least a server of this protocol can do.
//!
//! It reads each request to the last byte of its body and answers with a prepared tensor of the right size: no
//! JSON is parsed, no model looked up, nothing queued, no thread changed. What a server does beyond this is what
//! the benchmark measures. It runs, like every other server, as a process of its own, on the multi-threaded tokio
//! runtime, with a body buffer per connection that holds the whole body.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Error, Result};
use crate::request::{INPUT, MODEL, OUTPUT, payload};

/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Longest body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Nanoseconds that the statistics claim for each request; a client wants them to be plausible.
const CLAIMED_NS: u64 = 1_000;

/// Serves on 127.0.0.1 at `port`, 0 for a free one, until standard input ends.
///
/// Prints `listening http ADDRESS` and `ready` once connections are accepted.
///
/// # Errors
/// `Io` when the port is taken or the runtime cannot start.
pub fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .build()
        .map_err(|error| Error::io("starting the runtime", error))?;
    let listener = runtime
        .block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))))
        .map_err(|error| Error::io(format!("listening on port {port}"), error))?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::io("reading the port", error))?;
    println!("listening http {address}");
    println!("ready");
    runtime.spawn(accept(listener));
    // The parent holds the other end; when it is gone this server has no purpose.
    io::copy(&mut io::stdin().lock(), &mut io::sink())
        .map_err(|error| Error::io("reading standard input", error))?;
    Ok(())
}

async fn accept(listener: TcpListener) {
    let served = Arc::new(AtomicU64::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            // A broken connection concerns its client only, who sees it.
            let _ = converse(stream, &served).await;
        });
    }
}

/// Answers the requests of one connection, one after the other.
async fn converse(mut stream: TcpStream, served: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut body = Vec::new();
    let mut answer = Prepared::default();
    let mut filled = 0;
    loop {
        let Some(request) = read_head(&mut stream, &mut head, &mut filled).await? else {
            return Ok(());
        };
        // Part of the body may have come with the head.
        let here = (filled - request.head_bytes).min(request.body_bytes);
        let rest = request.body_bytes - here;
        if body.len() < rest {
            body.resize(rest, 0);
        }
        stream.read_exact(&mut body[..rest]).await?;
        head.copy_within(request.head_bytes + here..filled, 0);
        filled -= request.head_bytes + here;
        match request.target {
            Target::Infer => {
                served.fetch_add(1, Ordering::Relaxed);
                stream
                    .write_all(answer.tensor(request.tensor_bytes))
                    .await?;
            }
            target => stream.write_all(&describe(target, served)).await?,
        }
    }
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Infer,
    Server,
    Model,
    Config,
    Statistics,
    Other,
}

/// What of a request's head matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    target: Target,
    head_bytes: usize,
    body_bytes: usize,
    tensor_bytes: usize,
}

/// Reads until a head is complete; `None` at the end of the stream.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    filled: &mut usize,
) -> io::Result<Option<Request>> {
    loop {
        if let Some(request) = parse_head(&buffer[..*filled])? {
            return Ok(Some(request));
        }
        if *filled == buffer.len() {
            return Err(invalid("the head is too long"));
        }
        match stream.read(&mut buffer[*filled..]).await? {
            0 => return Ok(None),
            count => *filled += count,
        }
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid("not an HTTP/1.1 head")),
    };
    let (mut body_bytes, mut json_bytes) = (0, 0);
    for header in parsed.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            body_bytes = length(header.value)?;
        } else if header
            .name
            .eq_ignore_ascii_case("inference-header-content-length")
        {
            json_bytes = length(header.value)?;
        }
    }
    let path = parsed.path.unwrap_or_default();
    let target = match path.rsplit('/').next().unwrap_or_default() {
        "infer" => Target::Infer,
        "v2" => Target::Server,
        "config" => Target::Config,
        "stats" => Target::Statistics,
        "1" | MODEL => Target::Model,
        _ => Target::Other,
    };
    let tensor_bytes = body_bytes.saturating_sub(json_bytes);
    Ok(Some(Request {
        target,
        head_bytes,
        body_bytes,
        tensor_bytes,
    }))
}

fn length(value: &[u8]) -> io::Result<usize> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|length| *length <= BODY_BYTES_MAX)
        .ok_or_else(|| invalid("not a length"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The answer to the size of tensor last asked for, ready to write.
#[derive(Debug, Default)]
struct Prepared {
    tensor_bytes: Option<usize>,
    wire: Vec<u8>,
}

impl Prepared {
    fn tensor(&mut self, bytes: usize) -> &[u8] {
        if self.tensor_bytes != Some(bytes) {
            let json = format!(
                concat!(
                    r#"{{"model_name":"{}","model_version":"1","outputs":[{{"name":"{}","datatype":"FP32","#,
                    r#""shape":[{}],"parameters":{{"binary_data_size":{}}}}}]}}"#
                ),
                MODEL,
                OUTPUT,
                bytes / 4,
                bytes,
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
                 Inference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n",
                json.len(),
                json.len() + bytes,
            );
            self.wire = [head.into_bytes(), json.into_bytes(), payload(bytes)].concat();
            self.tensor_bytes = Some(bytes);
        }
        &self.wire
    }
}

/// The fixed answers that a client asks for before it sends tensors.
fn describe(target: Target, served: &AtomicU64) -> Vec<u8> {
    let tensor = |name, kind: &str| format!(r#"{{"name":"{name}",{kind}}}"#);
    let body = match target {
        Target::Server => r#"{"name":"echo","version":"1","extensions":["binary_tensor_data","model_configuration","statistics"]}"#.to_owned(),
        Target::Model => {
            let kind = r#""datatype":"FP32","shape":[-1]"#;
            format!(
                r#"{{"name":"{MODEL}","versions":["1"],"platform":"echo","inputs":[{}],"outputs":[{}]}}"#,
                tensor(INPUT, kind),
                tensor(OUTPUT, kind)
            )
        }
        Target::Config => {
            let kind = r#""data_type":"TYPE_FP32","dims":[-1]"#;
            format!(
                r#"{{"name":"{MODEL}","platform":"","backend":"echo","max_batch_size":0,"input":[{}],"output":[{}]}}"#,
                tensor(INPUT, kind),
                tensor(OUTPUT, kind)
            )
        }
        Target::Statistics => statistics(served.load(Ordering::Relaxed)),
        Target::Infer | Target::Other => String::new(),
    };
    let status = if target == Target::Other {
        "404 Not Found"
    } else {
        "200 OK"
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

fn statistics(count: u64) -> String {
    let ns = count * CLAIMED_NS;
    let some = format!(r#"{{"count":{count},"ns":{ns}}}"#);
    let none = r#"{"count":0,"ns":0}"#;
    format!(
        concat!(
            r#"{{"model_stats":[{{"name":"{0}","version":"1","last_inference":0,"inference_count":{1},"#,
            r#""execution_count":{1},"inference_stats":{{"success":{2},"fail":{3},"queue":{2},"compute_input":{2},"#,
            r#""compute_infer":{2},"compute_output":{2},"cache_hit":{3},"cache_miss":{3}}},"batch_stats":[]}}]}}"#
        ),
        MODEL, count, some, none
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Connection;
    use crate::request;

    /// An echo inside this process; it ends with the test's runtime.
    fn echo() -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_io()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener));
        (runtime, address)
    }

    #[test]
    fn a_tensor_comes_back_whatever_its_size() {
        let (_runtime, address) = echo();
        let mut connection = Connection::open(address).unwrap();
        for bytes in [64, 1 << 20, 4, 64] {
            let tensor = payload(bytes);
            let response = connection
                .exchange(&request::infer(MODEL, &tensor))
                .unwrap();
            assert_eq!(response.status, 200);
            assert_eq!(response.binary(), tensor);
            let json: serde_json::Value = serde_json::from_slice(response.json()).unwrap();
            assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], bytes);
        }
    }

    #[test]
    fn requests_in_one_packet_are_told_apart() {
        let (_runtime, address) = echo();
        let mut connection = Connection::open(address).unwrap();
        let wire = request::infer(MODEL, &payload(64));
        connection.send(&[&wire[..], &wire[..10]].concat()).unwrap();
        assert_eq!(connection.receive().unwrap().binary().len(), 64);
        connection.send(&wire[10..]).unwrap();
        assert_eq!(connection.receive().unwrap().binary().len(), 64);
    }

    #[test]
    fn descriptions_are_json() {
        let (_runtime, address) = echo();
        let mut connection = Connection::open(address).unwrap();
        let model = format!("/v2/models/{MODEL}/versions/1");
        for path in [
            "/v2".to_owned(),
            model.clone(),
            format!("{model}/config"),
            format!("{model}/stats"),
        ] {
            let response = connection.exchange(&request::get(&path)).unwrap();
            assert_eq!(response.status, 200, "{path}");
            let parsed: std::result::Result<serde_json::Value, _> =
                serde_json::from_slice(response.body);
            assert!(parsed.is_ok(), "{path}");
        }
        assert_eq!(
            connection
                .exchange(&request::get("/nothing"))
                .unwrap()
                .status,
            404
        );
    }
}
