//! Whether memory of the program is wrapped where it is, and which pages: decisions alone, without a call.
//!
//! `newBufferWithBytesNoCopy:length:options:deallocator:` takes whole pages (its documentation; 16 KiB on Apple silicon).
//! What begins or ends within a page is wrapped by the pages that it lies on, and named by its offset, as PyTorch and ggml
//! do (`aten/src/ATen/native/mps/operations/Copy.mm`; `ggml-metal-device.m`). That is sound because
//!
//! * the system maps pages whole, so as long as the program's bytes are mapped so are their neighbours on the page. Where
//!   pages are not the system's own (the model on Linux) that is asked;
//! * what is ours is used by offset, and work of ours is held to it;
//! * neighbours are read and written by nobody here; that a kernel of the program could reach them is said to its author;
//! * a page that is mapped for reading is so for all its bytes, and ours are not written then.

#![forbid(unsafe_code)]

use std::ops::Range;

use crate::registered::CopyReason;

/// Memory of the program: where it begins, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) start: usize,
    pub(super) bytes: usize,
}

/// What a device wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    /// Bytes of a page.
    pub(super) page: usize,
    /// `maxBufferLength` in bytes.
    pub(super) length_max: u64,
}

/// What becomes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// `length` bytes from `start` on are wrapped, both multiples of a page; what was asked for begins at `offset`.
    Wrap {
        start: usize,
        length: usize,
        offset: usize,
    },
    /// It has to be copied.
    Copy(CopyReason),
}

/// Decides. `are_whole` says whether pages are mapped whole on which some bytes of the program's lie; it is asked for the
/// first and the last page where they are not the program's whole.
pub(super) fn decide(
    asked: Asked,
    offered: Offered,
    mut are_whole: impl FnMut(Range<usize>) -> bool,
) -> Decision {
    let Asked { start: at, bytes } = asked;
    let page = offered.page.max(1);
    if bytes == 0 {
        return Decision::Copy(CopyReason::Empty);
    }
    let start = at / page * page;
    let end = at
        .checked_add(bytes)
        .and_then(|end| Some((end, end.checked_next_multiple_of(page)?)));
    // The last page of all addresses is nobody's.
    let Some((end, whole_end)) = end else {
        return Decision::Copy(CopyReason::PartialPages);
    };
    let length = whole_end - start;
    if length as u64 > offered.length_max {
        return Decision::Copy(CopyReason::TooLong);
    }
    let first = (at > start).then(|| start..start + page);
    let last = (whole_end > end).then(|| whole_end - page..whole_end);
    let partial = first.into_iter().chain(last);
    if !partial.into_iter().all(&mut are_whole) {
        return Decision::Copy(CopyReason::PartialPages);
    }
    Decision::Wrap {
        start,
        length,
        offset: at - start,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = 16 << 10;
    const OFFERED: Offered = Offered {
        page: PAGE,
        length_max: 10 * PAGE as u64,
    };

    fn wrap(start: usize, length: usize, offset: usize) -> Decision {
        Decision::Wrap {
            start,
            length,
            offset,
        }
    }

    #[test]
    fn pages_are_wrapped_as_they_are_and_parts_by_their_pages() {
        let decided = |start, bytes| decide(Asked { start, bytes }, OFFERED, |_| true);
        assert_eq!(decided(PAGE, PAGE), wrap(PAGE, PAGE, 0));
        assert_eq!(decided(PAGE, 1), wrap(PAGE, PAGE, 0));
        assert_eq!(decided(2 * PAGE - 1, 2), wrap(PAGE, 2 * PAGE, PAGE - 1));
        assert_eq!(decided(PAGE + 4, 10 * PAGE - 4), wrap(PAGE, 10 * PAGE, 4));
        assert_eq!(
            decided(PAGE + 4, 10 * PAGE - 3),
            Decision::Copy(CopyReason::TooLong)
        );
        assert_eq!(decided(PAGE, 0), Decision::Copy(CopyReason::Empty));
        for (start, bytes) in [(usize::MAX, 1), (usize::MAX - 5, 3), (1, usize::MAX)] {
            let decision = decided(start, bytes);
            assert_eq!(decision, Decision::Copy(CopyReason::PartialPages));
        }
    }

    #[test]
    fn only_pages_that_are_not_the_programs_whole_are_asked_about() {
        let mut seen = Vec::new();
        for (start, bytes, pages) in [
            (PAGE, 3 * PAGE, &[][..]),
            (PAGE + 1, 3 * PAGE - 1, &[PAGE]),
            (PAGE, 3 * PAGE - 1, &[3 * PAGE]),
            (PAGE + 1, 1, &[PAGE, PAGE]),
        ] {
            seen.clear();
            let decision = decide(Asked { start, bytes }, OFFERED, |page| {
                assert_eq!(page.len(), PAGE);
                seen.push(page.start);
                true
            });
            assert!(matches!(decision, Decision::Wrap { .. }), "{decision:?}");
            assert_eq!(seen, pages);
        }
        let refused = |partial: usize| {
            let asked = Asked {
                start: PAGE + 1,
                bytes: 2 * PAGE,
            };
            decide(asked, OFFERED, |page| page.start != partial)
        };
        for partial in [PAGE, 3 * PAGE] {
            let decision = refused(partial);
            assert_eq!(decision, Decision::Copy(CopyReason::PartialPages));
        }
        assert_eq!(refused(2 * PAGE), wrap(PAGE, 3 * PAGE, 1));
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_whole_pages_around_what_was_asked(
            start in any::<usize>(),
            bytes in prop_oneof![any::<usize>(), 0..100_usize, 0..1_usize << 40],
            page in prop_oneof![Just(4096_usize), Just(PAGE), Just(65_536)],
            length_max in prop_oneof![Just(0_u64), any::<u64>(), 0..1_u64 << 41],
            whole in any::<bool>(),
        ) {
            let mut partial = 0;
            let decision = decide(Asked { start, bytes }, Offered { page, length_max }, |range| {
                partial += 1;
                assert!(range.len() == page && range.start.is_multiple_of(page));
                whole
            });
            let end = start as u128 + bytes as u128;
            let first = start as u128 / page as u128 * page as u128;
            let past = end.next_multiple_of(page as u128);
            match decision {
                Decision::Wrap { start: begin, length, offset } => {
                    prop_assert!(bytes > 0 && length > 0);
                    prop_assert!(begin.is_multiple_of(page) && length.is_multiple_of(page));
                    prop_assert_eq!(begin as u128, first);
                    prop_assert_eq!(begin as u128 + length as u128, past, "no page more than needed");
                    prop_assert_eq!(begin + offset, start);
                    prop_assert!(length as u64 <= length_max);
                    prop_assert!(whole || partial == 0);
                }
                Decision::Copy(CopyReason::Empty) => prop_assert_eq!(bytes, 0),
                Decision::Copy(CopyReason::TooLong) => prop_assert!(past - first > u128::from(length_max)),
                Decision::Copy(CopyReason::PartialPages) => {
                    prop_assert!(past > usize::MAX as u128 || (!whole && partial > 0));
                }
                Decision::Copy(other) => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
