//! An HTTP/1.1 connection layer that reads a body where its bytes are wanted.
//!
//! A request of the inference protocol is a JSON header of any length with binary tensors behind
//! it. This layer lets its [`Handler`] take them apart on the socket: read so many bytes, decode
//! them, allocate one aligned buffer per tensor, and have the socket read straight into those. It
//! knows nothing of models.
//!
//! ```
//! use std::sync::Arc;
//!
//! use weldpool_server::http1::{Handler, Limits, Request, Response, Server};
//!
//! struct Sum;
//!
//! impl Handler for Sum {
//!     async fn handle(&self, mut request: Request<'_>) -> Response {
//!         let mut count = [0; 4];
//!         if let Err(error) = request.body.read_exact_into(&mut count).await {
//!             return self.reject(&error);
//!         }
//!         let mut values = vec![0; (u32::from_le_bytes(count) as usize).min(1 << 20)];
//!         match request.body.read_exact_into(&mut values).await {
//!             Ok(()) => {
//!                 let sum: u64 = values.iter().map(|value| u64::from(*value)).sum();
//!                 Response::with_content(200, "text/plain", sum.to_string())
//!             }
//!             Err(error) => self.reject(&error),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0".parse()?, Limits::default())?;
//! let control = server.control();
//! let address = server.local_addr();
//! let serving = tokio::spawn(server.serve(Sum));
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # let mut client = tokio::net::TcpStream::connect(address).await?;
//! # client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
//! #     Content-Length: 6\r\n\r\n\x02\0\0\0\x03\x04").await?;
//! # let mut answer = String::new();
//! # client.read_to_string(&mut answer).await?;
//! # assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\n7"), "{answer}");
//! // ... and at the end:
//! control.shutdown(std::time::Duration::from_secs(5));
//! assert_eq!(serving.await?.requests, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What is copied
//!
//! | body | after the kernel |
//! |---|---|
//! | `Content-Length`, no coding | nothing, except the bytes that came with the head (16 KiB at most by default) and reads below 4 KiB |
//! | chunked | the same, and what lies in the buffer behind a chunk's size |
//! | gzip or deflate | decoded once from the connection's buffer into the destination |
//! | response | nothing; one vectored write takes the head and every piece from where it is |
//! | compressed response | encoded once |
//!
//! # What is promised
//!
//! * Requests of a connection are handled one at a time and answered in their order. What a client
//!   pipelines waits in a buffer of fixed size, and then in the kernel.
//! * Every size, count and wait has a limit in [`Limits`]. A request that breaks HTTP, or that two
//!   readers could understand differently, is refused and closes the connection.
//! * A handler's panic costs its own connection, after a 500.
//! * The steady state of a connection makes one read and one write per small request, starts no
//!   task and sets no timer.
//!
//! # Cancellation
//!
//! Reads of a body may be dropped at any point without harm to the stream; see [`BodyReader`].
//! [`Handler::handle`] itself is dropped only when its connection is aborted, at the end of a
//! shutdown or with the future of [`Server::serve`]; until then a client that goes away is noticed
//! when the response is written, or through [`BodyReader::disconnected`] by a handler that asks.
//!
//! # What it is not
//!
//! There is no TLS, no HTTP/2, no upgrade, no client, and no response of unknown length.

mod body;
mod buffer;
mod chunked;
mod connection;
mod date;
mod deadline;
mod encoding;
mod error;
mod handler;
mod head;
mod inflate;
mod limits;
mod response;
mod server;
mod target;
mod transport;
mod write;

#[cfg(test)]
mod tests;

pub use body::BodyReader;
pub use connection::serve_connection;
pub use encoding::ContentEncoding;
pub use error::{Error, ErrorKind, Result};
pub use handler::{Handler, Observer, Request, RequestTiming};
pub use head::{Method, RequestHead, Version};
pub use limits::Limits;
pub use response::{Chunk, HeaderName, HeaderValue, Response};
pub use server::{Server, ServerControl, ServerStats};
pub use target::percent_decode;
pub use transport::{Stream, Transport};
