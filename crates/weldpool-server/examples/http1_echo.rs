//! An identity model over this crate's HTTP layer: the tensor is read from the socket into an aligned
//! buffer and written from it.
//!
//! Usage: `http1_echo [--port N] [--threads N]`

mod shared;

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use weldpool_server::http1::{Handler, HeaderName, Limits, Request, Response, Server};

const JSON_LENGTH: HeaderName = HeaderName::from_static(shared::JSON_LENGTH);

struct Identity {
    pool: Arc<shared::Pool>,
}

impl Identity {
    async fn infer(
        &self,
        mut request: Request<'_>,
    ) -> Result<Response, Box<dyn Error + Send + Sync>> {
        let json_length = request
            .head
            .header_str(JSON_LENGTH.as_str())
            .unwrap_or("0")
            .parse()?;
        let mut json = vec![0; json_length];
        request.body.read_exact_into(&mut json).await?;
        let left = request
            .body
            .remaining()
            .ok_or("the body has no known length")?;
        let mut tensor = self.pool.allocate(usize::try_from(left)?);
        request.body.read_exact_into(tensor.contents()).await?;

        let json = shared::answer_json(tensor.as_ref().len());
        Ok(Response::new(200)
            .header(HeaderName::CONTENT_TYPE, "application/octet-stream")
            .header(JSON_LENGTH, json.len())
            .chunk(json)
            .chunk(Bytes::from_owner(tensor)))
    }
}

impl Handler for Identity {
    async fn handle(&self, request: Request<'_>) -> Response {
        match self.infer(request).await {
            Ok(response) => response,
            Err(error) => Response::with_content(400, "text/plain", error.to_string()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = shared::Options::from_args()?;
    options.runtime()?.block_on(async move {
        let server = Server::bind(([127, 0, 0, 1], options.port).into(), Limits::default())?;
        println!("listening on {}", server.local_addr());
        server
            .serve(Identity {
                pool: Arc::default(),
            })
            .await;
        Ok(())
    })
}
