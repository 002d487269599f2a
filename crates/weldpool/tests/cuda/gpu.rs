//! Kernels on streams of the tests' own, which the allocator knows only by adoption.

#![allow(unsafe_code)]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block is one step of the driver's"
)]

use std::ffi::{CString, c_void};
use std::sync::{Arc, LazyLock};

use cudarc::driver::sys::{self, CUresult};
use weldpool::device::cuda::CudaDevice;
use weldpool::{Allocator, Buffer, Queue};

const PTX: &str = include_str!("kernels.ptx");

fn check(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// The functions of the module.
struct Kernels {
    write_late: sys::CUfunction,
    count_wrong: sys::CUfunction,
}

// SAFETY: functions of a module may be launched from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as for `Send`.
unsafe impl Sync for Kernels {}

static KERNELS: LazyLock<Kernels> = LazyLock::new(|| {
    let text = CString::new(PTX).unwrap();
    // SAFETY: the text ends with zero, and the places are writable; the primary context is kept alive by the
    // devices that the tests open, and made current by every test that launches.
    unsafe {
        let mut module = std::ptr::null_mut();
        check(sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast()));
        let function = |name: &std::ffi::CStr| {
            let mut function = std::ptr::null_mut();
            check(sys::cuModuleGetFunction(
                &raw mut function,
                module,
                name.as_ptr(),
            ));
            function
        };
        Kernels {
            write_late: function(c"write_late"),
            count_wrong: function(c"count_wrong"),
        }
    }
});

/// A stream that the allocator adopted.
pub(crate) struct Stream {
    stream: sys::CUstream,
    pub(crate) queue: Queue,
}

// SAFETY: streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as for `Send`.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn new(device: &Arc<CudaDevice>, allocator: &Allocator) -> Self {
        make_current();
        let mut stream = std::ptr::null_mut();
        // SAFETY: the place is writable; 1 is CU_STREAM_NON_BLOCKING. The stream is never destroyed.
        let adopted = unsafe {
            check(sys::cuStreamCreate(&raw mut stream, 1));
            device.adopt_stream(stream.cast()).unwrap()
        };
        Self {
            stream,
            queue: allocator.adopt_queue(adopted),
        }
    }

    /// Writes `value` to every word of a buffer, but only after so many cycles.
    pub(crate) fn write_late(&self, buffer: &Buffer, value: u32, cycles: u64) {
        self.launch(KERNELS.write_late, buffer, value, cycles);
    }

    /// Writes to an address at which there is nothing.
    pub(crate) fn write_nowhere(&self) {
        self.launch_at(KERNELS.write_late, 1 << 20, 1024, 1, 0);
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Adds the words of a buffer that have another value to the first word of `wrong`.
    pub(crate) fn count_wrong(&self, buffer: &Buffer, value: u32, wrong: &Buffer) {
        let wrong = wrong.binding().device_address.unwrap();
        self.launch(KERNELS.count_wrong, buffer, value, wrong);
    }

    /// As [`write_late`](Self::write_late), at a device's address.
    pub(crate) fn write_late_at(&self, at: u64, bytes: usize, value: u32, cycles: u64) {
        self.launch_at(KERNELS.write_late, at, bytes as u64 / 4, value, cycles);
    }

    /// As [`count_wrong`](Self::count_wrong), at a device's address.
    pub(crate) fn count_wrong_at(&self, at: u64, bytes: usize, value: u32, wrong: &Buffer) {
        let wrong = wrong.binding().device_address.unwrap();
        self.launch_at(KERNELS.count_wrong, at, bytes as u64 / 4, value, wrong);
    }

    fn launch(&self, function: sys::CUfunction, buffer: &Buffer, value: u32, last: u64) {
        let at = buffer.binding().device_address.unwrap();
        self.launch_at(function, at, buffer.len() as u64 / 4, value, last);
    }

    fn launch_at(&self, function: sys::CUfunction, at: u64, words: u64, value: u32, last: u64) {
        make_current();
        let (mut at, mut words) = (at, words);
        let (mut value, mut last) = (value, last);
        let mut arguments: [*mut c_void; 4] = [
            (&raw mut at).cast(),
            (&raw mut words).cast(),
            (&raw mut value).cast(),
            (&raw mut last).cast(),
        ];
        let blocks = u32::try_from(words.div_ceil(256).clamp(1, 264)).unwrap();
        // SAFETY: the arguments are those of the kernel, whose range lies inside the buffer; the tests free
        // the buffer in the order of this stream.
        check(unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                256,
                1,
                1,
                0,
                self.stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        });
    }

    pub(crate) fn synchronize(&self) {
        make_current();
        // SAFETY: the stream is alive.
        check(unsafe { sys::cuStreamSynchronize(self.stream) });
    }

    /// Begins to record what is submitted instead of doing it.
    pub(crate) fn begin_capture(&self) {
        make_current();
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: the stream is alive.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) });
    }

    /// Whether the stream records, and nothing has made that invalid.
    pub(crate) fn is_capturing(&self) -> bool {
        let mut status = sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is alive and the place writable.
        check(unsafe { sys::cuStreamIsCapturing(self.stream, &raw mut status) });
        status == sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_ACTIVE
    }

    /// Ends the recording; whether it was valid to the end.
    pub(crate) fn end_capture(&self) -> bool {
        let mut graph = std::ptr::null_mut();
        // SAFETY: the place is writable; the graph is freed if there is one.
        unsafe {
            let ended = sys::cuStreamEndCapture(self.stream, &raw mut graph);
            if !graph.is_null() {
                check(sys::cuGraphDestroy(graph));
            }
            ended == CUresult::CUDA_SUCCESS
        }
    }
}

/// Makes the primary context of the first device current.
fn make_current() {
    // SAFETY: the places are writable; the context stays, since it is retained here once and never released.
    static CONTEXT: LazyLock<usize> = LazyLock::new(|| unsafe {
        let mut context = std::ptr::null_mut();
        check(sys::cuDevicePrimaryCtxRetain(&raw mut context, 0));
        context.expose_provenance()
    });
    let context = std::ptr::with_exposed_provenance_mut(*CONTEXT);
    // SAFETY: the context is retained.
    check(unsafe { sys::cuCtxSetCurrent(context) });
}
