//! `libcopy_counter.so`, preloaded into a server: a line for every large copy, and for the buffers of its sockets.
//!
//! It stands in front of the C library's `memcpy` and `memmove`, which is where compiled Rust and C++ copy
//! everything whose length is large or not known when compiling, and of the calls that receive from and send to
//! the system. Copies of 64 KiB and more, and transfers of 4 KiB and more, are appended to the file that
//! `WELDPOOL_COPY_LOG` names, one line each, as they happen:
//!
//! ```text
//! memcpy 7f10a0000100 7f1090000100 1048576     target, source, bytes
//! memmove 7f10a0000100 7f1090000100 65536
//! receive 7f1090000100 131072                  buffer, bytes
//! send 7f10a0000100 1048576
//! ```
//!
//! What it cannot see: copies that a library makes in code of its own instead of calling the C library, calls
//! inside the C library itself, and transfers made with system calls of a program's own.
//!
//! It runs inside every copy of the process, in signal handlers and before the program's `main` too: it never
//! allocates, locks, panics or calls what it stands in front of, and it leaves `errno` alone.
#![allow(unsafe_code)]
#![cfg(target_os = "linux")]

use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// Smallest copy that counts, in bytes.
const COPY_BYTES_MIN: usize = 64 << 10;
/// Smallest transfer that is written down, in bytes.
const TRANSFER_BYTES_MIN: usize = 4 << 10;
/// Copies remembered in memory.
const RING: usize = 256;
/// Longest line: a word, three numbers of 16 and 20 digits, spaces and the end.
const LINE_BYTES: usize = 80;

/// The log's descriptor; -1 before it is open and when there is none.
static LOG: AtomicI32 = AtomicI32::new(-1);
static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Target, source and length of the last copies; entries are overwritten in turn.
static LAST: [[AtomicUsize; 3]; RING] = [const { [const { AtomicUsize::new(0) }; 3] }; RING];

/// How many large copies there were since the start or the last reset.
#[unsafe(no_mangle)]
extern "C" fn weldpool_copy_count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// How many bytes they had in all.
#[unsafe(no_mangle)]
extern "C" fn weldpool_copy_bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Sets both counters to zero.
#[unsafe(no_mangle)]
extern "C" fn weldpool_copy_reset() {
    COUNT.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
}

/// Writes target, source and length of the copy `age` copies ago (0 is the last) to `entry`; false when it is not
/// remembered.
///
/// # Safety
/// `entry` must be valid for writing three words.
#[unsafe(no_mangle)]
unsafe extern "C" fn weldpool_copy_last(age: usize, entry: *mut [usize; 3]) -> bool {
    let count = COUNT.load(Ordering::Acquire) as usize;
    if age >= count.min(RING) {
        return false;
    }
    let [target, source, bytes] = &LAST[(count - 1 - age) % RING];
    let values = [target, source, bytes].map(|value| value.load(Ordering::Relaxed));
    // SAFETY: the caller promises room for three words.
    unsafe { entry.write(values) };
    true
}

/// Opens the log before anything else of the program runs.
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_LOG: extern "C" fn() = open_log;

extern "C" fn open_log() {
    // SAFETY: the name is a C string; the environment is not changed this early.
    let path = unsafe { libc::getenv(c"WELDPOOL_COPY_LOG".as_ptr()) };
    if path.is_null() {
        return;
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string of the environment.
    let log = unsafe { libc::open(path, flags, 0o644) };
    LOG.store(log, Ordering::Release);
}

/// Counts and writes down one copy, if it is large.
#[inline]
fn copied(word: &[u8], target: *const c_void, source: *const c_void, bytes: usize) {
    if bytes < COPY_BYTES_MIN {
        return;
    }
    let number = COUNT.fetch_add(1, Ordering::AcqRel) as usize;
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    let entry = &LAST[number % RING];
    for (place, value) in entry.iter().zip([target.addr(), source.addr(), bytes]) {
        place.store(value, Ordering::Relaxed);
    }
    let mut line = Line::new(word);
    line.number(target.addr(), 16);
    line.number(source.addr(), 16);
    line.number(bytes, 10);
    line.write();
}

/// Writes down one transfer, if it succeeded and is large.
fn transferred(word: &[u8], buffer: *const c_void, result: isize) {
    if result < TRANSFER_BYTES_MIN as isize {
        return;
    }
    let mut line = Line::new(word);
    line.number(buffer.addr(), 16);
    line.number(result.unsigned_abs(), 10);
    line.write();
}

/// A line being put together on the stack, byte by byte: a slice copy could call `memcpy`.
struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Line {
    fn new(word: &[u8]) -> Self {
        let mut line = Self {
            bytes: [0; LINE_BYTES],
            length: 0,
        };
        for byte in word {
            line.push(*byte);
        }
        line
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    /// Appends a space and `value`.
    fn number(&mut self, value: usize, base: usize) {
        self.push(b' ');
        let mut scale = 1;
        while value / scale >= base {
            scale *= base;
        }
        while scale > 0 {
            let digit = (value / scale % base) as u8;
            self.push(if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            });
            scale /= base;
        }
    }

    /// Appends the end and writes the line with one call, so that lines of threads do not mix.
    fn write(mut self) {
        self.push(b'\n');
        let log = LOG.load(Ordering::Acquire);
        if log < 0 {
            return;
        }
        // SAFETY: the place of the calling thread's `errno` is valid while the thread runs.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let before = unsafe { errno.read() };
        // The system call itself: `write` is ours.
        // SAFETY: the line is readable for its length.
        unsafe { libc::syscall(libc::SYS_write, log, self.bytes.as_ptr(), self.length) };
        // SAFETY: as above.
        unsafe { errno.write(before) };
    }
}

/// Copies upwards, with an instruction where there is one and otherwise byte by byte in a way that the compiler
/// must not turn into a call of `memcpy`.
///
/// # Safety
/// As for `memcpy`, or overlapping with `target` below `source`.
#[inline]
unsafe fn copy_up(target: *mut u8, source: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller promises both ranges; the ABI keeps the direction flag clear.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rdi") target => _,
            inout("rsi") source => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..bytes {
        // SAFETY: the index is inside both ranges.
        unsafe { copy_byte(target, source, index) };
    }
}

/// Copies downwards, for a `target` inside the source range.
///
/// # Safety
/// As for `memmove`.
#[inline]
unsafe fn copy_down(target: *mut u8, source: *const u8, bytes: usize) {
    for index in (0..bytes).rev() {
        // SAFETY: the index is inside both ranges.
        unsafe { copy_byte(target, source, index) };
    }
}

/// # Safety
/// `index` must be inside both ranges.
#[inline]
unsafe fn copy_byte(target: *mut u8, source: *const u8, index: usize) {
    // SAFETY: the caller promises the place.
    let from = unsafe { source.add(index) };
    // SAFETY: the caller promises the place.
    let to = unsafe { target.add(index) };
    // SAFETY: the caller promises that it is readable.
    let byte = unsafe { from.read_volatile() };
    // SAFETY: the caller promises that it is writable.
    unsafe { to.write_volatile(byte) };
}

/// # Safety
/// As the C library's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(
    target: *mut c_void,
    source: *const c_void,
    bytes: usize,
) -> *mut c_void {
    copied(b"memcpy", target, source, bytes);
    // SAFETY: the caller's promise is the same.
    unsafe { copy_up(target.cast(), source.cast(), bytes) };
    target
}

/// # Safety
/// As the C library's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(
    target: *mut c_void,
    source: *const c_void,
    bytes: usize,
) -> *mut c_void {
    copied(b"memmove", target, source, bytes);
    if target.addr().wrapping_sub(source.addr()) < bytes {
        // SAFETY: the caller's promise is the same.
        unsafe { copy_down(target.cast(), source.cast(), bytes) };
    } else {
        // SAFETY: the caller's promise; an overlap, if any, has the target below the source.
        unsafe { copy_up(target.cast(), source.cast(), bytes) };
    }
    target
}

/// `memcpy` as compilers call it for C with overflow checks.
///
/// # Safety
/// As the C library's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __memcpy_chk(
    target: *mut c_void,
    source: *const c_void,
    bytes: usize,
    room: usize,
) -> *mut c_void {
    if bytes > room {
        // SAFETY: it has no preconditions.
        unsafe { libc::abort() };
    }
    // SAFETY: the caller's promise is the same.
    unsafe { memcpy(target, source, bytes) }
}

/// `memmove` as compilers call it for C with overflow checks.
///
/// # Safety
/// As the C library's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __memmove_chk(
    target: *mut c_void,
    source: *const c_void,
    bytes: usize,
    room: usize,
) -> *mut c_void {
    if bytes > room {
        // SAFETY: it has no preconditions.
        unsafe { libc::abort() };
    }
    // SAFETY: the caller's promise is the same.
    unsafe { memmove(target, source, bytes) }
}

/// Writes down a transfer over several buffers, which are filled or emptied one after the other.
///
/// # Safety
/// `parts` must point to `count` descriptors.
unsafe fn transferred_parts(word: &[u8], parts: *const libc::iovec, count: usize, result: isize) {
    let mut left = usize::try_from(result).unwrap_or(0);
    for index in 0..count {
        // SAFETY: the index is below the count that the caller promises.
        let place = unsafe { parts.add(index) };
        // SAFETY: the place holds a descriptor.
        let part = unsafe { place.read() };
        let here = part.iov_len.min(left);
        transferred(word, part.iov_base, here as isize);
        left -= here;
    }
}

/// Defines calls with the C library's meaning that make the system call and write down the buffer.
macro_rules! single_buffer {
    ($($word:literal $name:ident = $call:ident ($descriptor:ident, $buffer:ident: $pointer:ty, $bytes:ident
        $(, $argument:ident: $kind:ty)*) $([$($fixed:expr),*])?;)*) => { $(
        /// # Safety
        /// As the C library's function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            $descriptor: c_int, $buffer: $pointer, $bytes: usize $(, $argument: $kind)*
        ) -> isize {
            // SAFETY: the caller's promise is the same.
            let result = unsafe {
                libc::syscall(libc::$call, $descriptor, $buffer, $bytes $(, $argument)* $($(, $fixed)*)?)
            } as isize;
            transferred($word, $buffer as *const c_void, result);
            result
        }
    )* };
}

/// The peer's address of a datagram call; no buffer that matters here.
type Address = *mut c_char;
const NONE: c_long = 0;

single_buffer! {
    b"receive" read = SYS_read(descriptor, buffer: *mut c_void, bytes);
    b"receive" recv = SYS_recvfrom(descriptor, buffer: *mut c_void, bytes, flags: c_int) [NONE, NONE];
    b"receive" recvfrom = SYS_recvfrom(
        descriptor, buffer: *mut c_void, bytes, flags: c_int, address: Address, length: Address);
    b"send" write = SYS_write(descriptor, buffer: *const c_void, bytes);
    b"send" send = SYS_sendto(descriptor, buffer: *const c_void, bytes, flags: c_int) [NONE, NONE];
    b"send" sendto = SYS_sendto(
        descriptor, buffer: *const c_void, bytes, flags: c_int, address: Address, length: c_int);
}

/// Defines the same for calls over several buffers.
macro_rules! many_buffers {
    ($($word:literal $vector:ident = $vector_call:ident, $message:ident = $message_call:ident;)*) => { $(
        /// # Safety
        /// As the C library's function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $vector(descriptor: c_int, parts: *const libc::iovec, count: c_int) -> isize {
            // SAFETY: the caller's promise is the same.
            let result = unsafe { libc::syscall(libc::$vector_call, descriptor, parts, count) };
            let result = result as isize;
            // SAFETY: the call has read the same descriptors.
            unsafe { transferred_parts($word, parts, usize::try_from(count).unwrap_or(0), result) };
            result
        }

        /// # Safety
        /// As the C library's function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $message(descriptor: c_int, message: *mut libc::msghdr, flags: c_int) -> isize {
            // SAFETY: the caller's promise is the same.
            let result = unsafe { libc::syscall(libc::$message_call, descriptor, message, flags) };
            let result = result as isize;
            if result > 0 {
                // SAFETY: the call succeeded, so the message is readable.
                let message = unsafe { message.read() };
                // SAFETY: the call has read the same descriptors.
                unsafe { transferred_parts($word, message.msg_iov, message.msg_iovlen as usize, result) };
            }
            result
        }
    )* };
}

many_buffers! {
    b"receive" readv = SYS_readv, recvmsg = SYS_recvmsg;
    b"send" writev = SYS_writev, sendmsg = SYS_sendmsg;
}
