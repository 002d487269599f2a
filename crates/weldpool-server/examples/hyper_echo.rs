//! The identity model of `http1_echo` over the `hyper` crate, whose bodies arrive in buffers of its
//! own: the tensor is copied once from them into an aligned buffer, and written from it.
//!
//! Usage: `hyper_echo [--port N] [--threads N]`

mod shared;

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

const ALIGNMENT: usize = 256;

/// Buffers of one length, kept for the next request. Pool memory proper cannot be given to `hyper`,
/// because it is readable only through a guard, and a guard cannot be moved along with its buffer.
#[derive(Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    pool: Arc<Pool>,
}

impl Pool {
    fn allocate(self: &Arc<Self>, length: usize) -> Aligned {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept
            .filter(|memory| memory.len() == length + ALIGNMENT)
            .unwrap_or_else(|| vec![0; length + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Aligned { memory, start, length, pool: self.clone() }
    }
}

impl Aligned {
    fn contents(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

/// A response body of two pieces.
struct Pieces([Bytes; 2]);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.iter_mut().find(|piece| !piece.is_empty());
        Poll::Ready(next.map(|piece| Ok(Frame::data(std::mem::take(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

async fn infer(request: Request<Incoming>, pool: &Arc<Pool>) -> Result<Response<Pieces>, Failure> {
    let json_length: usize = match request.headers().get(shared::JSON_LENGTH) {
        Some(value) => value.to_str()?.parse()?,
        None => 0,
    };
    let mut body = request.into_body();
    let total = usize::try_from(body.size_hint().exact().ok_or("the body has no known length")?)?;
    let mut json = Vec::with_capacity(json_length.min(total));
    let mut tensor = pool.allocate(total.checked_sub(json_length).ok_or("the body is too short")?);
    let mut filled = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(mut data) = frame?.into_data() else { continue };
        let of_json = data.split_to(data.len().min(json_length - json.len()));
        json.extend_from_slice(&of_json);
        tensor.contents()[filled..filled + data.len()].copy_from_slice(&data);
        filled += data.len();
    }
    let json = shared::answer_json(tensor.length);
    Ok(Response::builder()
        .header("Content-Type", "application/octet-stream")
        .header(shared::JSON_LENGTH, json.len())
        .body(Pieces([Bytes::from(json), Bytes::from_owner(tensor)]))?)
}

fn main() -> Result<(), Failure> {
    let options = shared::Options::from_args()?;
    options.runtime()?.block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        println!("listening on {}", listener.local_addr()?);
        let pool = Arc::new(Pool::default());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let pool = pool.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| infer(request, &pool));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    eprintln!("{error}");
                }
            });
        }
    })
}
