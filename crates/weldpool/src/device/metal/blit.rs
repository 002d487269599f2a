//! How bytes at any place are copied and filled, where blits want multiples of four.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::raw::BLIT_ALIGNMENT;

/// What moves a part of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A command of a blit encoder: offsets and length are multiples of [`BLIT_ALIGNMENT`].
    Blit,
    /// A kernel of ours, byte by byte.
    Kernel,
}

/// One move of bytes, by offsets in the buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: usize,
}

/// The parts of a copy, as ranges from its beginning: the middle by a blit, if both sides are at the same distance from a
/// multiple, the rest by a kernel.
pub(super) fn copy_parts(
    from: usize,
    to: usize,
    bytes: usize,
) -> impl Iterator<Item = (By, Range<usize>)> {
    let in_step = from % BLIT_ALIGNMENT == to % BLIT_ALIGNMENT;
    parts(if in_step { Some(to) } else { None }, bytes)
}

/// The parts of a fill, likewise.
pub(super) fn fill_parts(at: usize, bytes: usize) -> impl Iterator<Item = (By, Range<usize>)> {
    parts(Some(at), bytes)
}

fn parts(at: Option<usize>, bytes: usize) -> impl Iterator<Item = (By, Range<usize>)> {
    let (head, middle) = match at {
        None => (bytes, 0),
        Some(at) => {
            let head = at.next_multiple_of(BLIT_ALIGNMENT) - at;
            let head = head.min(bytes);
            (head, (bytes - head) / BLIT_ALIGNMENT * BLIT_ALIGNMENT)
        }
    };
    [
        (By::Kernel, 0..head),
        (By::Blit, head..head + middle),
        (By::Kernel, head + middle..bytes),
    ]
    .into_iter()
    .filter(|(_, range)| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_aligned_is_one_blit() {
        let all: Vec<_> = copy_parts(256, 4, 4096).collect();
        assert_eq!(all, [(By::Blit, 0..4096)]);
        let odd: Vec<_> = copy_parts(1, 2, 4096).collect();
        assert_eq!(odd, [(By::Kernel, 0..4096)]);
        let all: Vec<_> = fill_parts(3, 10).collect();
        assert_eq!(
            all,
            [(By::Kernel, 0..1), (By::Blit, 1..9), (By::Kernel, 9..10)]
        );
        assert_eq!(fill_parts(3, 0).count(), 0);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(from in 0_usize..64, to in 0_usize..64, bytes in 0_usize..64) {
            let mut end = 0;
            for (by, range) in copy_parts(from, to, bytes) {
                prop_assert_eq!(range.start, end);
                prop_assert!(range.end > range.start);
                end = range.end;
                if by == By::Blit {
                    for number in [from + range.start, to + range.start, range.len()] {
                        prop_assert_eq!(number % BLIT_ALIGNMENT, 0);
                    }
                }
            }
            prop_assert_eq!(end, bytes);
        }
    }
}
