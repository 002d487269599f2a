//! The read buffer of one connection.

/// Bytes received and not yet consumed, in a buffer of fixed size that is reused for the life of
/// the connection.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// The bytes received and not yet consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether no byte more can be received before some are consumed.
    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.bytes.len()
    }

    /// Drops the first `count` bytes of [`filled`](Self::filled), or all when there are fewer.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Moves as many bytes as fit into `destination` and returns their number.
    pub(crate) fn take(&mut self, destination: &mut [u8]) -> usize {
        let count = destination.len().min(self.len());
        destination[..count].copy_from_slice(&self.filled()[..count]);
        self.consume(count);
        count
    }

    /// The room to receive into. What is held moves to the front when less than a quarter of the
    /// buffer is left behind it, so a read always has a fair size.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were received into [`room`](Self::room).
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut ReadBuffer, bytes: &[u8]) {
        buffer.room()[..bytes.len()].copy_from_slice(bytes);
        buffer.received(bytes.len());
    }

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let mut buffer = ReadBuffer::new(16);
        receive(&mut buffer, b"abcdefgh");
        buffer.consume(3);
        assert_eq!(buffer.filled(), b"defgh");
        let mut destination = [0; 2];
        assert_eq!(buffer.take(&mut destination), 2);
        assert_eq!(&destination, b"de");
        assert_eq!(buffer.take(&mut [0; 9]), 3);
        assert!(buffer.is_empty());
        assert_eq!(buffer.room().len(), 16);
    }

    #[test]
    fn a_full_tail_makes_room_at_the_front() {
        let mut buffer = ReadBuffer::new(16);
        receive(&mut buffer, &[7; 14]);
        buffer.consume(10);
        assert_eq!(buffer.room().len(), 12);
        assert_eq!(buffer.filled(), [7; 4]);
        receive(&mut buffer, &[8; 12]);
        assert!(buffer.is_full());
        assert!(buffer.room().is_empty());
    }

    #[test]
    fn consuming_too_much_empties() {
        let mut buffer = ReadBuffer::new(8);
        receive(&mut buffer, b"xy");
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
    }
}
