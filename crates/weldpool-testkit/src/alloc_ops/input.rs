//! Choices out of bytes.

/// Reads choices off the front of some bytes; what is beyond their end is zero.
#[derive(Debug, Clone)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => 0,
        }
    }

    /// A number below `limit`, which is not zero and at most 256.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// One of `choices`, which are not empty.
    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A size with `power` bits at most: small ones as often as large ones.
    pub(super) fn size(&mut self, power: usize) -> usize {
        let bits = self.below(power + 1);
        let number = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        // Often exactly a power of two, or one beside it.
        match number % 8 {
            0 => 1 << bits,
            1 => (1 << bits) + 1,
            2 => (1 << bits) - 1,
            _ => (1 << bits) + (number << bits >> 16),
        }
    }
}
