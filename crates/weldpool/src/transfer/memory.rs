//! Copies by processors.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::extent::Rows;

/// What becomes of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Processors may read it soon, so it may stay in their caches.
    Used,
    /// No processor reads it soon: a device does, which is slowed down by what lies modified in a processor's cache,
    /// or it is more than the caches hold.
    Elsewhere,
}

/// Rows shorter than this are copied in the usual way.
const STREAMED_BYTES_MIN: usize = 4 << 10;

/// Copies rows.
///
/// # Safety
///
/// Both are valid for the rows, and apart; nothing else touches what is written nor writes what is read.
pub(super) unsafe fn copy_rows(
    source: NonNull<u8>,
    destination: NonNull<u8>,
    rows: Rows,
    next: Next,
) {
    for row in 0..rows.count {
        // SAFETY: the caller's promise, row by row, here and below.
        let from = unsafe { source.add(row * rows.source_pitch) };
        // SAFETY: as above.
        let to = unsafe { destination.add(row * rows.destination_pitch) };
        if next == Next::Elsewhere && rows.bytes >= STREAMED_BYTES_MIN {
            // SAFETY: as above.
            unsafe { stream(from, to, rows.bytes) };
        } else {
            // SAFETY: as above.
            unsafe { from.copy_to_nonoverlapping(to, rows.bytes) };
        }
    }
}

/// Copies past the caches, where the processor can.
///
/// # Safety
///
/// As for `copy_nonoverlapping`.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(source: NonNull<u8>, destination: NonNull<u8>, bytes: usize) {
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has the instructions; the rest is the caller's promise.
        unsafe { x86::stream(source.as_ptr(), destination.as_ptr(), bytes) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { source.copy_to_nonoverlapping(destination, bytes) };
    }
}

/// Copies; only x86-64 is told to write past its caches.
///
/// # Safety
///
/// As for `copy_nonoverlapping`.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(source: NonNull<u8>, destination: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { source.copy_to_nonoverlapping(destination, bytes) };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};

    /// Bytes of a vector, and vectors of a turn.
    const VECTOR: usize = 32;
    const VECTORS: usize = 4;

    /// Non-temporal stores, which are ordered before everything that comes after the call.
    ///
    /// # Safety
    ///
    /// As for `copy_nonoverlapping`.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn stream(source: *const u8, destination: *mut u8, bytes: usize) {
        const TURN: usize = VECTOR * VECTORS;
        let head = destination.align_offset(VECTOR).min(bytes);
        // SAFETY: the head is a part of both.
        unsafe { destination.copy_from_nonoverlapping(source, head) };
        let turns = (bytes - head) / TURN;
        for turn in 0..turns {
            let at = head + turn * TURN;
            // SAFETY: the turn is a part of both, here and below.
            let from = unsafe { source.add(at) }.cast::<__m256i>();
            // SAFETY: as above.
            let to = unsafe { destination.add(at) }.cast::<__m256i>();
            let loaded: [__m256i; VECTORS] = std::array::from_fn(|vector| {
                // SAFETY: as above.
                let from = unsafe { from.add(vector) };
                // SAFETY: as above; the load needs no alignment.
                unsafe { _mm256_loadu_si256(from) }
            });
            for (vector, value) in loaded.into_iter().enumerate() {
                // SAFETY: as above.
                let to = unsafe { to.add(vector) };
                // SAFETY: as above; what comes after the head is aligned.
                unsafe { _mm256_stream_si256(to, value) };
            }
        }
        let done = head + turns * TURN;
        // SAFETY: the tail is a part of both, here and below.
        let from = unsafe { source.add(done) };
        // SAFETY: as above.
        let to = unsafe { destination.add(done) };
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(from, bytes - done) };
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_every_byte_and_no_other() {
        let source: Vec<u8> = (0..100_000_u32)
            .map(|index| ((index * 7) >> 3) as u8)
            .collect();
        for next in [Next::Used, Next::Elsewhere] {
            for (bytes, from, to) in [(1, 0, 0), (4096, 3, 1), (5000, 0, 31), (70_001, 1, 64)] {
                let mut copy = vec![0xAA_u8; 100_100];
                let rows = Rows::single(bytes);
                let start = NonNull::from(&mut copy[to..]).cast::<u8>();
                let given = NonNull::from(&source[from..]).cast::<u8>();
                // SAFETY: both ranges lie in their vectors.
                unsafe { copy_rows(given, start, rows, next) };
                assert!(copy[to..to + bytes] == source[from..from + bytes]);
                let rest = copy[..to].iter().chain(&copy[to + bytes..]);
                assert!(rest.into_iter().all(|&byte| byte == 0xAA));
            }
        }
    }
}
