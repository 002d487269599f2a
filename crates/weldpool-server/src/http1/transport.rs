//! The byte stream below a connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A stream of bytes that can read into several destinations and write from several sources with
/// one call. Reads of zero bytes mean the end of the stream.
pub trait Transport: Send + Unpin {
    /// Reads what there is into `destination`.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        destination: &mut [u8],
    ) -> Poll<io::Result<usize>>;

    /// Reads what there is into `destinations`, in their order. May fill only the first.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn poll_read_vectored(
        &mut self,
        context: &mut Context<'_>,
        destinations: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Writes as much of `sources` as the stream takes now.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        sources: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Says to the peer that nothing more will be written.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Transport for TcpStream {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        destination: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_async_read(self, context, destination)
    }

    fn poll_read_vectored(
        &mut self,
        context: &mut Context<'_>,
        destinations: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(context))?;
            match self.try_read_vectored(destinations) {
                // The attempt has withdrawn the readiness, so the next turn registers the waker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        sources: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_async_write(self, context, sources)
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), context)
    }
}

/// Any other stream as a [`Transport`]; it reads into one destination at a time.
#[derive(Debug)]
pub struct Stream<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for Stream<S> {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        destination: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_async_read(&mut self.0, context, destination)
    }

    fn poll_read_vectored(
        &mut self,
        context: &mut Context<'_>,
        destinations: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        match destinations.iter_mut().find(|slice| !slice.is_empty()) {
            Some(first) => poll_async_read(&mut self.0, context, first),
            None => Poll::Ready(Ok(0)),
        }
    }

    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        sources: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_async_write(&mut self.0, context, sources)
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

fn poll_async_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    destination: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(destination);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// One source goes through the plain write: there the runtime takes a short write as the word
/// that the socket is full, which saves the call that would only hear it again.
fn poll_async_write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    sources: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match sources {
        [source] => Pin::new(stream).poll_write(context, source),
        sources => Pin::new(stream).poll_write_vectored(context, sources),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn one_call_reads_into_several_destinations() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"abcdef").await.unwrap();
        server.readable().await.unwrap();
        let (mut first, mut second) = ([0; 2], [0; 8]);
        let count = poll_fn(|context| {
            let mut slices = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
            server.poll_read_vectored(context, &mut slices)
        })
        .await
        .unwrap();
        assert_eq!(count, 6);
        assert_eq!((&first, &second[..4]), (b"ab", &b"cdef"[..]));
    }

    #[tokio::test]
    async fn a_vectored_read_waits_for_bytes_and_sees_the_end() {
        let (mut client, mut server) = pair().await;
        let reader = tokio::spawn(async move {
            let mut counts = Vec::new();
            for _ in 0..2 {
                let (mut first, mut second) = ([0; 2], [0; 2]);
                counts.push(
                    poll_fn(|context| {
                        let mut slices =
                            [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
                        server.poll_read_vectored(context, &mut slices)
                    })
                    .await
                    .unwrap(),
                );
            }
            counts
        });
        tokio::task::yield_now().await;
        client.write_all(b"abc").await.unwrap();
        tokio::task::yield_now().await;
        client.shutdown().await.unwrap();
        assert_eq!(reader.await.unwrap(), [3, 0]);
    }

    #[tokio::test]
    async fn several_sources_are_written_in_order() {
        let (mut client, mut server) = pair().await;
        let count = poll_fn(|context| {
            let sources = [
                IoSlice::new(b"head "),
                IoSlice::new(b""),
                IoSlice::new(b"body"),
            ];
            server.poll_write_vectored(context, &sources)
        })
        .await
        .unwrap();
        assert_eq!(count, 9);
        poll_fn(|context| Transport::poll_shutdown(&mut server, context))
            .await
            .unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "head body");
    }
}
