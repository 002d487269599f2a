//! Streams that record a graph: what they are given is done later or never, so no memory is mapped for them.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

use libloading::{Library, Symbol};
use weldpool::{Buffer, Config, Request, StorageMode};

use crate::counted::Counted;
use crate::gpu::Stream;

const SIZES: [usize; 4] = [4096, 300_000, 5 << 20, 40 << 20];

fn private(counted: &Counted, bytes: usize, stream: &Stream) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    let request = request.queue(&stream.queue);
    counted.allocator.allocate_with(&request).unwrap()
}

#[test]
fn requests_and_frees_on_a_captured_stream_map_and_unmap_nothing() {
    let counted = Counted::open(Config::default());
    let stream = Stream::new(&counted.cuda, &counted.allocator);
    let all = || SIZES.map(|bytes| private(&counted, bytes, &stream));
    let free = |blocks: [Buffer; SIZES.len()]| {
        blocks
            .into_iter()
            .for_each(|block| block.free_on(&stream.queue));
    };
    // So much is held before.
    free(all());
    stream.synchronize();
    let before = (
        counted.mapping_calls(),
        counted.allocator.stats().driver_calls,
    );
    stream.begin_capture();
    for value in 0..50 {
        for bytes in SIZES {
            let block = private(&counted, bytes, &stream);
            stream.write_late(&block, value, 0);
            block.free_on(&stream.queue);
        }
        free(all());
    }
    let after = (
        counted.mapping_calls(),
        counted.allocator.stats().driver_calls,
    );
    assert!(stream.end_capture());
    assert_eq!(after, before);
    // What was freed meanwhile comes back once the stream has a point again.
    free(all());
    stream.queue.fence().unwrap().wait(None).unwrap();
    let _bytes = counted.allocator.clear();
    assert_eq!(counted.allocator.stats().reserved.value, 0);
}

#[test]
fn holes_are_not_mapped_together_for_a_captured_stream() {
    // Large enough that new memory is dearer than holes are.
    const HOLE: usize = 6 << 20;
    let counted = Counted::open(Config::default());
    let stream = Stream::new(&counted.cuda, &counted.allocator);
    let mut blocks: Vec<_> = (0..64)
        .map(|_| Some(private(&counted, HOLE, &stream)))
        .collect();
    for block in blocks.iter_mut().step_by(2).filter_map(Option::take) {
        block.free_on(&stream.queue);
    }
    stream.synchronize();
    let unmapped = counted.allocator.stats().reserved.value;
    stream.begin_capture();
    let large = private(&counted, 8 * HOLE, &stream);
    let valid = stream.end_capture();
    assert!(valid);
    let grown = counted.allocator.stats().reserved.value - unmapped;
    assert!(grown >= 8 * HOLE as u64, "{grown}: it is new memory");
    large.free_on(&stream.queue);
    drop(blocks);
    stream.queue.fence().unwrap().wait(None).unwrap();
    let _bytes = counted.allocator.clear();
    assert_eq!(counted.allocator.stats().reserved.value, 0);
}

/// Functions of `libweldpool.so`, which stays loaded.
struct Torch {
    malloc: Symbol<'static, unsafe extern "C" fn(isize, c_int, *mut c_void) -> *mut c_void>,
    free: Symbol<'static, unsafe extern "C" fn(*mut c_void, isize, c_int, *mut c_void)>,
    stats: Symbol<'static, unsafe extern "C" fn(c_int, *mut [u64; 6]) -> c_int>,
    last_error: Symbol<'static, unsafe extern "C" fn() -> *const c_char>,
    forget: Symbol<'static, unsafe extern "C" fn(c_int, *mut c_void) -> c_int>,
}

impl Torch {
    /// Beside this program, as `cargo xtask gpu` packs it, or where cargo builds it.
    fn load() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut folders = program.ancestors().skip(1).take(2).map(PathBuf::from);
        let file = folders.find_map(|folder| {
            let file = folder.join("libweldpool.so");
            file.exists().then_some(file)
        });
        let file = file.expect("`cargo build --release -p weldpool-capi` builds libweldpool.so");
        // SAFETY: its initialisers are those of a Rust library.
        let library = Box::leak(Box::new(unsafe { Library::new(file) }.unwrap()));
        Self {
            // SAFETY: the signatures are those of include/weldpool.h, here and below.
            malloc: unsafe { library.get(b"weldpool_torch_malloc\0") }.unwrap(),
            // SAFETY: as above.
            free: unsafe { library.get(b"weldpool_torch_free\0") }.unwrap(),
            // SAFETY: as above.
            stats: unsafe { library.get(b"weldpool_torch_stats\0") }.unwrap(),
            // SAFETY: as above.
            last_error: unsafe { library.get(b"weldpool_last_error\0") }.unwrap(),
            // SAFETY: as above.
            forget: unsafe { library.get(b"weldpool_torch_forget_stream\0") }.unwrap(),
        }
    }

    /// Bytes that live, and calls of the driver for memory.
    fn live_and_calls(&self) -> (u64, u64) {
        let mut stats = [0; 6];
        // SAFETY: the place is writable and as long as `WeldpoolTorchStats`.
        assert_eq!(unsafe { (self.stats)(0, &raw mut stats) }, 0);
        (stats[0], stats[5])
    }
}

#[test]
fn libweldpool_gives_a_captured_stream_nothing_and_says_why() {
    const BYTES: isize = 5 << 20;
    let counted = Counted::open(Config::default());
    let stream = Stream::new(&counted.cuda, &counted.allocator);
    let torch = Torch::load();
    // SAFETY: the stream is of the first device and never destroyed, here and below.
    let malloc = || unsafe { (torch.malloc)(BYTES, 0, stream.handle()) };
    // SAFETY: what is given comes from `malloc`, and nothing was submitted that uses it.
    let free = |address| unsafe { (torch.free)(address, BYTES, 0, stream.handle()) };
    let (first, second) = (malloc(), malloc());
    assert!(!first.is_null() && !second.is_null());
    free(first);
    let (live, calls) = torch.live_and_calls();
    assert_eq!(live, BYTES as u64);
    stream.begin_capture();
    let refused = malloc();
    // SAFETY: it takes nothing.
    let said = unsafe { (torch.last_error)() };
    // SAFETY: the text is the thread's and valid until the next call.
    let said = unsafe { CStr::from_ptr(said) };
    let said = said.to_string_lossy().into_owned();
    let refusing = stream.is_capturing();
    // A tensor may die while a graph is recorded.
    free(second);
    let freeing = stream.is_capturing();
    let after = torch.live_and_calls();
    let looking = stream.is_capturing();
    let valid = stream.end_capture();
    assert_eq!([refusing, freeing, looking, valid], [true; 4]);
    assert!(refused.is_null());
    assert!(said.contains("CUDA graph"), "{said}");
    assert_eq!(after, (0, calls));
    let again = malloc();
    assert!(!again.is_null());
    free(again);
    stream.synchronize();
    // SAFETY: as above.
    assert_eq!(unsafe { (torch.forget)(0, stream.handle()) }, 0);
}

#[test]
fn libweldpool_frees_later_what_a_stream_that_it_cannot_look_up_had() {
    const BYTES: isize = 5 << 20;
    let counted = Counted::open(Config::default());
    // Not seen by libweldpool so far.
    let stream = Stream::new(&counted.cuda, &counted.allocator);
    let torch = Torch::load();
    let legacy = std::ptr::without_provenance_mut(1);
    // SAFETY: `CU_STREAM_LEGACY`, and a stream that is alive until it is forgotten, both of the first device; what is
    // given comes from `malloc`, and nothing was submitted that uses it. Here and below.
    let malloc = || unsafe { (torch.malloc)(BYTES, 0, legacy) };
    // SAFETY: as above.
    let free = |address, stream| unsafe { (torch.free)(address, BYTES, 0, stream) };
    let memory = malloc();
    assert!(!memory.is_null());
    stream.begin_capture();
    free(memory, stream.handle());
    let kept = torch.live_and_calls().0;
    let goes_on = stream.is_capturing();
    assert!(stream.end_capture() && goes_on);
    assert_eq!(kept, BYTES as u64);
    let other = malloc();
    assert_eq!(torch.live_and_calls().0, BYTES as u64, "the first is free");
    free(other, legacy);
    // Null is the same stream.
    free(malloc(), std::ptr::null_mut());
    assert_eq!(torch.live_and_calls().0, 0);
    stream.synchronize();
    // SAFETY: as above.
    assert_eq!(unsafe { (torch.forget)(0, stream.handle()) }, 0);
}
