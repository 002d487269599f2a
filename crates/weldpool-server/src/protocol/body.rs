//! Where the bytes of a request come from: a connection, or memory.

use crate::http1::{self, BodyReader};
use crate::{Error, ErrorKind, Result};

/// The body of a request, read from front to back into memory of the caller's choice.
pub(crate) trait Body {
    /// Bytes left, if their number is known before they are read.
    fn remaining(&self) -> Option<u64>;

    /// Fills all of `destinations`, one behind the other. A body that is too short is an error
    /// with the kind `InvalidArgument`.
    async fn read_exact(&mut self, destinations: &mut [&mut [u8]]) -> Result<()>;

    /// Reads what is left, which must not be more than `limit` bytes.
    async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>>;

    /// Whether nothing is left. Consumes a byte if something is.
    async fn is_at_end(&mut self) -> Result<bool>;
}

impl Body for BodyReader<'_> {
    fn remaining(&self) -> Option<u64> {
        BodyReader::remaining(self)
    }

    async fn read_exact(&mut self, destinations: &mut [&mut [u8]]) -> Result<()> {
        self.read_vectored_exact(destinations)
            .await
            .map_err(from_connection)
    }

    async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>> {
        BodyReader::read_to_end(self, limit)
            .await
            .map_err(from_connection)
    }

    async fn is_at_end(&mut self) -> Result<bool> {
        match BodyReader::remaining(self) {
            Some(left) => Ok(left == 0),
            None => Ok(self.read(&mut [0]).await.map_err(from_connection)? == 0),
        }
    }
}

/// Tells a client of an error of its connection, as far as it can still be told.
fn from_connection(error: http1::Error) -> Error {
    use http1::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::Malformed | Kind::BodyTooShort => ErrorKind::InvalidArgument,
        Kind::BodyTooLarge => ErrorKind::PayloadTooLarge,
        Kind::HeaderTooLarge => ErrorKind::HeaderTooLarge,
        Kind::Timeout => ErrorKind::Timeout,
        Kind::Disconnected | Kind::Io => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, error.message())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A body in memory. If `sized`, its length is known from the start.
    #[derive(Clone, Debug)]
    pub(crate) struct MemoryBody<'a> {
        pub(crate) bytes: &'a [u8],
        pub(crate) sized: bool,
    }

    impl Body for MemoryBody<'_> {
        fn remaining(&self) -> Option<u64> {
            self.sized.then_some(self.bytes.len() as u64)
        }

        async fn read_exact(&mut self, destinations: &mut [&mut [u8]]) -> Result<()> {
            for destination in destinations {
                let (head, rest) = self
                    .bytes
                    .split_at_checked(destination.len())
                    .ok_or_else(|| Error::invalid_argument("the body is too short"))?;
                destination.copy_from_slice(head);
                self.bytes = rest;
            }
            Ok(())
        }

        async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>> {
            if self.bytes.len() > limit {
                return Err(Error::new(
                    ErrorKind::PayloadTooLarge,
                    "the body is too large",
                ));
            }
            Ok(std::mem::take(&mut self.bytes).to_vec())
        }

        async fn is_at_end(&mut self) -> Result<bool> {
            Ok(self.bytes.is_empty())
        }
    }
}
