//! What a buffer should contain.

use std::ops::Range;

/// Bytes known at either end of a buffer. Those between are not looked at.
const END_BYTES: usize = 256;

/// The bytes at both ends of a buffer, as far as they are known.
#[derive(Debug, Clone)]
pub(super) struct Model {
    len: usize,
    bytes: Vec<Option<u8>>,
}

impl Model {
    pub(super) fn new(len: usize) -> Self {
        Self {
            len,
            bytes: vec![None; len.min(2 * END_BYTES)],
        }
    }

    /// Offsets in the buffer of the bytes that are kept.
    fn offsets(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (len, kept) = (self.len, self.bytes.len());
        (0..kept).map(move |index| {
            let tail = index >= kept / 2;
            (index, if tail { len - kept + index } else { index })
        })
    }

    fn get(&self, offset: usize) -> Option<u8> {
        let kept = self.bytes.len();
        if offset < kept / 2 {
            return self.bytes[offset];
        }
        let index = (offset + kept).checked_sub(self.len)?;
        self.bytes.get(index).copied().flatten()
    }

    pub(super) fn forget(&mut self) {
        self.bytes.fill(None);
    }

    pub(super) fn fill(&mut self, range: Range<usize>, value: u8) {
        for (index, offset) in self.offsets() {
            if range.contains(&offset) {
                self.bytes[index] = Some(value);
            }
        }
    }

    /// Takes over the bytes of `source` from `from` on at `to`.
    pub(super) fn copy(&mut self, source: &Self, from: Range<usize>, to: usize) {
        for (index, offset) in self.offsets() {
            if (to..to + from.len()).contains(&offset) {
                self.bytes[index] = source.get(offset - to + from.start);
            }
        }
    }

    /// Writes a pattern that depends on `seed` to the ends of the buffer.
    pub(super) fn write(&mut self, contents: &mut [u8], seed: u8) {
        for (index, offset) in self.offsets() {
            #[expect(clippy::cast_possible_truncation, reason = "a pattern")]
            let value = seed.wrapping_mul(31).wrapping_add((offset >> 3) as u8);
            contents[offset] = value;
            self.bytes[index] = Some(value);
        }
    }

    /// Where the contents are not what they should be.
    pub(super) fn difference(&self, contents: &[u8]) -> Option<String> {
        self.offsets().find_map(|(index, offset)| {
            let (wanted, found) = (self.bytes[index]?, contents[offset]);
            (wanted != found)
                .then(|| format!("byte {offset} of {} is {found}, not {wanted}", self.len))
        })
    }
}
