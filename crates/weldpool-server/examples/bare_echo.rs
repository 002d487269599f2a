//! The ceiling for an HTTP server of the inference protocol on this runtime: answers every POST
//! with an identity answer that is built once, and checks nothing.
//!
//! Usage: `bare_echo [--port N] [--threads N]`

mod shared;

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let options = shared::Options::from_args()?;
    options.runtime()?.block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                if let Err(error) = echo(stream).await {
                    eprintln!("{error}");
                }
            });
        }
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut received = vec![0; 1 << 20];
    // The last head, the length of its body, and the answer. The same head needs no parsing.
    let (mut known, mut length, mut answer) = (Vec::new(), 0, Vec::new());
    loop {
        let mut filled = 0;
        let head = loop {
            let count = stream.read(&mut received[filled..]).await?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
            if !known.is_empty() && received[..filled].starts_with(&known) {
                break known.len();
            }
            if let Some(end) = find(&received[..filled], b"\r\n\r\n") {
                known = received[..end + 4].to_vec();
                length = number_behind(&known, b"\r\nContent-Length: ");
                let json = number_behind(&known, b"\r\nInference-Header-Content-Length: ");
                answer = shared::whole_answer(length.saturating_sub(json));
                break known.len();
            }
        };
        let mut left = (head + length).saturating_sub(filled);
        while left > 0 {
            let most = left.min(received.len());
            match stream.read(&mut received[..most]).await? {
                0 => return Ok(()),
                count => left -= count,
            }
        }
        stream.write_all(&answer).await?;
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

fn number_behind(head: &[u8], name: &[u8]) -> usize {
    let start = find(head, name).map_or(head.len(), |start| start + name.len());
    head[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}
