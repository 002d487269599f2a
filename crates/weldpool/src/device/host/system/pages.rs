//! From macOS's counts of pages to bytes that are available.

#![forbid(unsafe_code)]

/// Counts of `host_statistics64` with `HOST_VM_INFO64`, in pages of `page_bytes` bytes; meanings by
/// mach/vm_statistics.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pages {
    pub(crate) page_bytes: u64,
    /// Anonymous ones, purgeable ones included.
    pub(crate) internal: u64,
    /// Those that their owners allow to be discarded.
    pub(crate) purgeable: u64,
    /// Those that cannot be paged out.
    pub(crate) wired: u64,
    /// Those that hold what is compressed.
    pub(crate) compressor: u64,
}

/// What is neither a program's own, nor wired, nor compressed: free pages, file pages and purgeable ones. That is all
/// memory less what Activity Monitor calls used.
pub(crate) fn available_bytes(total: u64, pages: &Pages) -> u64 {
    let own = pages.internal.saturating_sub(pages.purgeable);
    let used = own
        .saturating_add(pages.wired)
        .saturating_add(pages.compressor);
    total.saturating_sub(used.saturating_mul(pages.page_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 16 << 30;

    #[test]
    fn what_is_discarded_without_loss_is_available() {
        let pages = Pages {
            page_bytes: 16 << 10,
            internal: 300_000,
            purgeable: 20_000,
            wired: 100_000,
            compressor: 50_000,
        };
        let used = (280_000 + 100_000 + 50_000) * (16 << 10);
        assert_eq!(available_bytes(TOTAL, &pages), TOTAL - used);
    }

    #[test]
    fn counts_that_contradict_each_other_are_no_overflow() {
        for pages in [
            Pages {
                page_bytes: u64::MAX,
                internal: u64::MAX,
                wired: u64::MAX,
                ..Pages::default()
            },
            Pages {
                page_bytes: 4096,
                internal: TOTAL / 4096 + 1,
                ..Pages::default()
            },
        ] {
            assert_eq!(available_bytes(TOTAL, &pages), 0, "{pages:?}");
        }
        // Counts are not taken at one moment.
        let purged = Pages {
            page_bytes: 4096,
            internal: 1,
            purgeable: 2,
            ..Pages::default()
        };
        assert_eq!(available_bytes(TOTAL, &purged), TOTAL);
    }
}
