//! The warm path takes no lock and makes no atomic read-modify-write: it is run one instruction at a time, and
//! each instruction is looked at. That sees everything, whoever wrote it: locks and atomics of this library,
//! counts of `Arc`, and what the standard library and the C library do.
//!
//! The processor's trap flag has it stop after every instruction; the handler of that signal decodes the next one
//! as far as it takes to tell whether it locks: by the prefix, or an exchange with memory, which always does.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::arch::asm;
use std::cell::Cell;
use std::ffi::c_int;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use weldpool::{Allocator, Buffer, Config, Request, StorageMode};

/// Runs until caches have the length that they keep.
const WARM_UPS: usize = 8;
/// Runs that are looked at. Of default allocations at most one in 512 is a sample and leaves the warm path.
const RUNS: usize = 4;
const SAMPLED_MAX: usize = 2;
/// Buffers alive at once in a batch.
const BATCH: usize = 8;

thread_local! {
    /// What this thread ran while it was looked at.
    static SEEN: Cell<Seen> = const { Cell::new(Seen::NOTHING) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    instructions: u64,
    locking: u64,
    /// Where the last of those is, from [`locks`] on: the offset finds it in a disassembly.
    last: isize,
}

impl Seen {
    const NOTHING: Self = Self {
        instructions: 0,
        locking: 0,
        last: 0,
    };
}

/// Whether the instruction at `code` locks its operand.
///
/// # Safety
///
/// There is an instruction.
unsafe fn locks(code: *const u8) -> bool {
    const LOCK: u8 = 0xf0;
    let mut at = code;
    let mut next = || {
        // SAFETY: an instruction is read no further than its opcode and the byte behind that.
        let byte = unsafe { at.read() };
        at = at.wrapping_add(1);
        byte
    };
    let mut opcode = next();
    // Prefixes of operands, segments, repetition, and REX, which is the last.
    while matches!(opcode, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | LOCK | 0xf2 | 0xf3 | 0x40..=0x4f)
    {
        if opcode == LOCK {
            return true;
        }
        opcode = next();
    }
    // XCHG with memory rather than a register.
    matches!(opcode, 0x86 | 0x87) && next() < 0xc0
}

extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel gives the state of the thread that was stopped.
    let next = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as usize;
    let mut seen = SEEN.get();
    seen.instructions += 1;
    // SAFETY: the thread is about to run the instruction there.
    if unsafe { locks(next as *const u8) } {
        seen.locking += 1;
        seen.last = next.wrapping_sub(locks as *const () as usize).cast_signed();
    }
    SEEN.set(seen);
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: zeroes are an empty set of signals and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler touches its thread's own cell and reads code.
        let installed = unsafe { libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()) };
        assert_eq!(installed, 0);
    });
}

/// Runs `work` one instruction at a time.
fn look_at(work: impl FnOnce()) -> Seen {
    install();
    SEEN.set(Seen::NOTHING);
    // SAFETY: the handler of the traps that follow is installed.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    work();
    // SAFETY: no trap follows.
    unsafe { asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
    SEEN.get()
}

#[test]
fn what_locks_is_seen() {
    let (number, mutex) = (AtomicU64::new(0), Mutex::new(0));
    let shared = Arc::new(0);
    let seen = look_at(|| _ = black_box(number.fetch_add(1, Ordering::Relaxed)));
    assert_eq!(seen.locking, 1, "{seen:?}");
    let seen = look_at(|| _ = black_box(number.swap(1, Ordering::Relaxed)));
    assert_eq!(seen.locking, 1, "{seen:?}");
    let seen = look_at(|| *mutex.lock().unwrap() = 1);
    assert_eq!(seen.locking, 2, "locked and unlocked: {seen:?}");
    let seen = look_at(|| drop(black_box(Arc::clone(&shared))));
    assert_eq!(seen.locking, 2, "counted up and down: {seen:?}");
    let seen = look_at(|| number.store(2, Ordering::Release));
    assert_eq!(seen.locking, 0, "a store does not lock: {seen:?}");
    assert!(seen.instructions > 0);
}

/// Runs what is warm by then, and demands that nothing locks unless it is a sample.
fn assert_nothing_locks(allocator: &Allocator, what: &str, mut run: impl FnMut()) {
    for _ in 0..WARM_UPS {
        run();
    }
    let mut sampled = 0;
    for _ in 0..RUNS {
        let before = allocator.samples().taken;
        let seen = look_at(&mut run);
        if allocator.samples().taken > before {
            sampled += 1;
            continue;
        }
        println!("{what}: {} instructions", seen.instructions);
        assert!(seen.instructions > 10, "{what}: {seen:?}");
        assert_eq!(seen.locking, 0, "{what}: {seen:?}");
    }
    assert!(sampled <= SAMPLED_MAX, "{what}: {sampled} samples");
}

/// With the default configuration, in which a sample is the one thing that leaves the warm path.
#[test]
fn a_warm_pair_locks_nothing() {
    for bytes in [
        1,
        256,
        4 << 10,
        64 << 10,
        1 << 20,
        16 << 20,
        100 << 20,
        256 << 20,
    ] {
        // Of its own, so that no other class takes its place in the cache.
        let allocator = Allocator::host().unwrap();
        let queue = allocator.create_queue().unwrap();
        assert_nothing_locks(&allocator, &format!("{bytes} bytes"), || {
            drop(allocator.allocate(bytes).unwrap());
        });
        let request = Request::new(bytes)
            .storage(StorageMode::Shared)
            .name("warm");
        assert_nothing_locks(&allocator, &format!("{bytes} bytes, named"), || {
            drop(allocator.allocate_with(&request).unwrap());
        });
        let request = Request::new(bytes).queue(&queue);
        assert_nothing_locks(&allocator, &format!("{bytes} bytes on a queue"), || {
            allocator.allocate_with(&request).unwrap().free_on(&queue);
        });
    }
}

#[test]
fn a_warm_batch_locks_nothing() {
    let mut live: Vec<Buffer> = Vec::with_capacity(BATCH);
    for bytes in [256, 64 << 10] {
        let allocator = Allocator::host().unwrap();
        assert_nothing_locks(&allocator, &format!("{BATCH} of {bytes} bytes"), || {
            for _ in 0..BATCH {
                live.push(allocator.allocate(bytes).unwrap());
            }
            live.clear();
        });
    }
}

/// What is not warm does lock, and is seen to.
#[test]
fn a_cold_pair_locks() {
    let config = Config {
        pooling: false,
        ..Config::default()
    };
    let device = Arc::new(weldpool::device::host::HostDevice::new().unwrap());
    let allocator = Allocator::builder(device).config(config).build().unwrap();
    let seen = look_at(|| drop(allocator.allocate(4096).unwrap()));
    assert!(seen.locking > 0, "{seen:?}");
}
