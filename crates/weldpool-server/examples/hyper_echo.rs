//! The identity model of `http1_echo` over the `hyper` crate, whose bodies arrive in buffers of its
//! own: the tensor is copied once from them into an aligned buffer, and written from it.
//!
//! Usage: `hyper_echo [--port N] [--threads N]`

mod shared;

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

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

async fn infer(
    request: Request<Incoming>,
    pool: &Arc<shared::Pool>,
) -> Result<Response<Pieces>, Failure> {
    let json_length: usize = match request.headers().get(shared::JSON_LENGTH) {
        Some(value) => value.to_str()?.parse()?,
        None => 0,
    };
    let mut body = request.into_body();
    let total = usize::try_from(
        body.size_hint()
            .exact()
            .ok_or("the body has no known length")?,
    )?;
    let mut json = Vec::with_capacity(json_length.min(total));
    let mut tensor = pool.allocate(
        total
            .checked_sub(json_length)
            .ok_or("the body is too short")?,
    );
    let mut filled = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(mut data) = frame?.into_data() else {
            continue;
        };
        let of_json = data.split_to(data.len().min(json_length - json.len()));
        json.extend_from_slice(&of_json);
        tensor.contents()[filled..filled + data.len()].copy_from_slice(&data);
        filled += data.len();
    }
    let json = shared::answer_json(tensor.as_ref().len());
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
        let pool = Arc::new(shared::Pool::default());
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
