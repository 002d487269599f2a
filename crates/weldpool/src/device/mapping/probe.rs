//! Whether addresses are mapped.

#![allow(unsafe_code)]

/// Whether all of these bytes are mapped, however they may be touched. One system call.
#[cfg(target_os = "linux")]
pub(in crate::device) fn is_mapped(start: usize, bytes: usize) -> bool {
    use rustix::mm::MsyncFlags;

    let page = rustix::param::page_size();
    let first = start / page * page;
    let end = start
        .checked_add(bytes)
        .and_then(|end| end.checked_next_multiple_of(page));
    let Some(end) = end else {
        return false;
    };
    let address = std::ptr::without_provenance_mut(first);
    // SAFETY: an asynchronous request does nothing but look whether all of it is mapped (msync(2)); no byte is touched.
    let looked = unsafe { rustix::mm::msync(address, end - first, MsyncFlags::ASYNC) };
    looked.is_ok()
}

/// Elsewhere no call tells without side effects; they are presumed to be.
#[cfg(not(target_os = "linux"))]
pub(in crate::device) fn is_mapped(_start: usize, _bytes: usize) -> bool {
    true
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::device::mapping::AlignedMapping;

    #[test]
    fn what_was_unmapped_is_not() {
        let page = rustix::param::page_size();
        let mapping = AlignedMapping::new(1 << 30, 2 << 20).unwrap();
        let start = mapping.address().as_ptr().addr();
        assert!(is_mapped(start, 4 * page) && is_mapped(start + 1, 1));
        assert!(!is_mapped(usize::MAX - 10, 20) && !is_mapped(usize::MAX, 1));
        drop(mapping);
        // What other threads map meanwhile comes to lie at the end of what is free.
        assert!(!is_mapped(start, page));
    }
}
