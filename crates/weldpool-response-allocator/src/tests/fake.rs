//! A Triton of the tests: its objects, and calls of the callbacks as its core makes them.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::Mutex;

use weldpool_triton_sys::{
    self as sys, AllocFn, BufferAttributesFn, ErrorCode, Number, QueryFn, ReleaseFn, StartFn,
};

use crate::{Functions, Options, ResponseAllocator, Source};

/// What Triton's objects are here.
struct FakeError(Number, CString);

#[derive(Clone, Copy)]
struct Callbacks {
    alloc: AllocFn,
    release: ReleaseFn,
    start: StartFn,
    attributes: Option<BufferAttributesFn>,
    query: Option<QueryFn>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) memory_type: Number,
    pub(super) id: i64,
    pub(super) bytes: usize,
}

/// Addresses of the allocators that exist.
static ALLOCATORS: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

thread_local! {
    static ERRORS: Cell<i64> = const { Cell::new(0) };
    /// Errors that `another_error_new` made on this thread.
    static OF_ANOTHER: Cell<i64> = const { Cell::new(0) };
    /// Which setter of attributes fails on this thread, by its number from 1.
    static FAILING: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" fn error_new(code: Number, message: *const c_char) -> *mut sys::Error {
    ERRORS.set(ERRORS.get() + 1);
    // SAFETY: the caller's text ends with a zero.
    let message = unsafe { CStr::from_ptr(message) }.to_owned();
    Box::into_raw(Box::new(FakeError(code, message))).cast()
}

/// `TRITONSERVER_ErrorNew` of a second Triton in the process.
pub(super) unsafe extern "C" fn another_error_new(
    code: Number,
    message: *const c_char,
) -> *mut sys::Error {
    OF_ANOTHER.set(OF_ANOTHER.get() + 1);
    // SAFETY: the caller's text ends with a zero.
    unsafe { error_new(code, message) }
}

/// How many errors that one made on this thread.
pub(super) fn made_by_another() -> i64 {
    OF_ANOTHER.get()
}

unsafe extern "C" fn error_delete(error: *mut sys::Error) {
    ERRORS.set(ERRORS.get() - 1);
    // SAFETY: made by `error_new`, deleted once.
    drop(unsafe { Box::from_raw(error.cast::<FakeError>()) });
}

unsafe extern "C" fn error_message(error: *mut sys::Error) -> *const c_char {
    // SAFETY: made by `error_new`, and not deleted yet.
    unsafe { &(*error.cast::<FakeError>()).1 }.as_ptr()
}

fn set(
    number: u32,
    attributes: *mut sys::BufferAttributes,
    change: impl FnOnce(&mut Attributes),
) -> *mut sys::Error {
    if FAILING.get() == number {
        // SAFETY: a text that ends with a zero.
        return unsafe { error_new(1, c"on purpose".as_ptr()) };
    }
    // SAFETY: the tests pass attributes of theirs.
    change(unsafe { &mut *attributes.cast::<Attributes>() });
    ptr::null_mut()
}

unsafe extern "C" fn set_type(
    attributes: *mut sys::BufferAttributes,
    value: Number,
) -> *mut sys::Error {
    set(1, attributes, |attributes| attributes.memory_type = value)
}

unsafe extern "C" fn set_id(attributes: *mut sys::BufferAttributes, value: i64) -> *mut sys::Error {
    set(2, attributes, |attributes| attributes.id = value)
}

unsafe extern "C" fn set_bytes(
    attributes: *mut sys::BufferAttributes,
    value: usize,
) -> *mut sys::Error {
    set(3, attributes, |attributes| attributes.bytes = value)
}

unsafe extern "C" fn allocator_new(
    allocator: *mut *mut sys::ResponseAllocator,
    alloc: AllocFn,
    release: ReleaseFn,
    start: Option<StartFn>,
) -> *mut sys::Error {
    let callbacks = Callbacks {
        alloc,
        release,
        start: start.unwrap(),
        attributes: None,
        query: None,
    };
    let made: *mut sys::ResponseAllocator = Box::into_raw(Box::new(callbacks)).cast();
    ALLOCATORS.lock().unwrap().insert(made.addr());
    // SAFETY: a place for the result.
    unsafe { *allocator = made };
    ptr::null_mut()
}

unsafe extern "C" fn set_attributes_function(
    allocator: *mut sys::ResponseAllocator,
    function: BufferAttributesFn,
) -> *mut sys::Error {
    // SAFETY: made by `allocator_new`.
    unsafe { (*allocator.cast::<Callbacks>()).attributes = Some(function) };
    ptr::null_mut()
}

unsafe extern "C" fn set_query_function(
    allocator: *mut sys::ResponseAllocator,
    function: QueryFn,
) -> *mut sys::Error {
    // SAFETY: made by `allocator_new`.
    unsafe { (*allocator.cast::<Callbacks>()).query = Some(function) };
    ptr::null_mut()
}

unsafe extern "C" fn allocator_delete(allocator: *mut sys::ResponseAllocator) -> *mut sys::Error {
    assert!(ALLOCATORS.lock().unwrap().remove(&allocator.addr()));
    // SAFETY: made by `allocator_new`, deleted once.
    drop(unsafe { Box::from_raw(allocator.cast::<Callbacks>()) });
    ptr::null_mut()
}

fn functions() -> Functions {
    functions_of(error_new)
}

/// A table whose errors are made so.
pub(super) fn functions_of(
    error_new: unsafe extern "C" fn(Number, *const c_char) -> *mut sys::Error,
) -> Functions {
    let table = sys::ResponseAllocators {
        error_new,
        error_delete,
        error_message,
        set_memory_type: set_type,
        set_memory_type_id: set_id,
        set_byte_size: set_bytes,
        new: allocator_new,
        set_buffer_attributes_function: set_attributes_function,
        set_query_function,
        delete: allocator_delete,
    };
    // SAFETY: they do what Triton's do, as far as it matters here.
    unsafe { Functions::of(table) }
}

/// What becomes of a list of sources.
pub(super) fn made(sources: Vec<Source>, options: &Options) -> crate::Result<ResponseAllocator> {
    ResponseAllocator::with_functions(functions(), sources, options)
}

/// An allocator of the fake's.
pub(super) fn allocator<const N: usize>(sources: [Source; N], options: &Options) -> Triton {
    called(made(sources.into(), options).unwrap())
}

/// An allocator of a certain Triton's.
pub(super) fn allocator_of<const N: usize>(functions: Functions, sources: [Source; N]) -> Triton {
    let options = Options::default();
    called(ResponseAllocator::with_functions(functions, sources, &options).unwrap())
}

fn called(allocator: ResponseAllocator) -> Triton {
    // SAFETY: made by `allocator_new`.
    let callbacks = unsafe { *allocator.as_ptr().cast::<Callbacks>() };
    Triton {
        allocator,
        callbacks,
    }
}

/// Errors that nobody deleted yet on this thread.
pub(super) fn live_errors() -> i64 {
    ERRORS.get()
}

/// Whether Triton's object at an address exists.
pub(super) fn is_live(allocator: usize) -> bool {
    ALLOCATORS.lock().unwrap().contains(&allocator)
}

/// Has a setter of attributes fail on this thread; 0 for none.
pub(super) fn fail_setter(number: u32) {
    FAILING.set(number);
}

/// Turns what a callback returned into a result.
pub(super) fn result(error: *mut sys::Error) -> Result<(), (ErrorCode, String)> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: made by `error_new`, and not deleted yet.
    let FakeError(code, message) = unsafe { &*error.cast::<FakeError>() };
    let told = (
        ErrorCode::of(*code).unwrap(),
        message.to_str().unwrap().to_owned(),
    );
    // SAFETY: as above.
    unsafe { error_delete(error) };
    Err(told)
}

type Told<T = ()> = Result<T, (ErrorCode, String)>;

/// A buffer as the core records it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) buffer: usize,
    pub(super) userp: usize,
    pub(super) memory_type: Number,
    pub(super) id: i64,
    pub(super) bytes: usize,
}

/// What lies in Triton's variables before a call: anything.
pub(super) const RUBBISH: usize = 0xdead_beef;

pub(super) struct Triton {
    pub(super) allocator: ResponseAllocator,
    callbacks: Callbacks,
}

impl Triton {
    /// `alloc` alone; what its variables hold after it, whatever it returned.
    pub(super) fn alloc_alone(&self, bytes: usize, place: (Number, i64)) -> (Told, Recorded) {
        let mut buffer = ptr::without_provenance_mut(RUBBISH);
        let mut userp = ptr::without_provenance_mut(RUBBISH);
        let (mut memory_type, mut id) = place;
        // SAFETY: as the core calls it.
        let error = unsafe {
            (self.callbacks.alloc)(
                self.allocator.as_ptr(),
                c"out".as_ptr(),
                bytes,
                place.0,
                place.1,
                self.allocator.user_pointer(),
                &mut buffer,
                &mut userp,
                &mut memory_type,
                &mut id,
            )
        };
        let recorded = Recorded {
            buffer: buffer.addr(),
            // The box is found by this number again.
            userp: userp.expose_provenance(),
            memory_type,
            id,
            bytes,
        };
        (result(error), recorded)
    }

    pub(super) fn attributes(&self, recorded: &Recorded) -> Told<Attributes> {
        let mut attributes = Attributes {
            memory_type: -1,
            id: -1,
            bytes: RUBBISH,
        };
        // SAFETY: as the core calls it, after `alloc`.
        let error = unsafe {
            (self.callbacks.attributes.unwrap())(
                self.allocator.as_ptr(),
                c"out".as_ptr(),
                (&raw mut attributes).cast(),
                self.allocator.user_pointer(),
                ptr::with_exposed_provenance_mut(recorded.userp),
            )
        };
        result(error).map(|()| attributes)
    }

    /// An output's buffer as the core obtains it: `alloc`, then the attributes, and nothing is recorded after an error.
    pub(super) fn output(&self, bytes: usize, place: (Number, i64)) -> Told<Recorded> {
        let (told, recorded) = self.alloc_alone(bytes, place);
        told?;
        self.attributes(&recorded)?;
        Ok(recorded)
    }

    /// The end of an output, as the core has it: no release without a buffer.
    pub(super) fn release(&self, recorded: Recorded) -> Told {
        if recorded.buffer == 0 {
            return Ok(());
        }
        release(self.callbacks.release, recorded)
    }

    /// What releases buffers when the allocator is gone.
    pub(super) fn releaser(&self) -> impl Fn(Recorded) -> Told + Send + Copy + use<> {
        let function = self.callbacks.release;
        move |recorded| release(function, recorded)
    }

    pub(super) fn start(&self) -> Told {
        // SAFETY: as the core calls it.
        result(unsafe {
            (self.callbacks.start)(self.allocator.as_ptr(), self.allocator.user_pointer())
        })
    }

    pub(super) fn query(&self, place: (Number, i64)) -> Told<(Number, i64)> {
        let (mut memory_type, mut id) = place;
        // SAFETY: as the core calls it; name and size may be null.
        let error = unsafe {
            (self.callbacks.query.unwrap())(
                self.allocator.as_ptr(),
                self.allocator.user_pointer(),
                ptr::null(),
                ptr::null_mut(),
                &mut memory_type,
                &mut id,
            )
        };
        result(error).map(|()| (memory_type, id))
    }

    /// Each callback with null wherever it can be.
    pub(super) fn nothing_but_null(&self) -> [Told; 5] {
        let null: *mut c_void = ptr::null_mut();
        let none = self.allocator.as_ptr();
        let c = self.callbacks;
        // SAFETY: null is looked for everywhere.
        let alloc = unsafe {
            (c.alloc)(
                none,
                ptr::null(),
                1,
                0,
                0,
                null,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        // SAFETY: as above.
        let attributes =
            unsafe { (c.attributes.unwrap())(none, ptr::null(), ptr::null_mut(), null, null) };
        // SAFETY: as above.
        let query = unsafe {
            (c.query.unwrap())(
                none,
                null,
                ptr::null(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        // SAFETY: as above.
        let start = unsafe { (c.start)(none, null) };
        // SAFETY: as above.
        let release = unsafe { (c.release)(none, null, null, 0, 0, 0) };
        [alloc, attributes, query, start, release].map(result)
    }
}

fn release(function: ReleaseFn, recorded: Recorded) -> Told {
    // SAFETY: as the core calls it, once. It passes no pointer of the user's but the buffer's.
    result(unsafe {
        function(
            ptr::null_mut(),
            ptr::without_provenance_mut(recorded.buffer),
            ptr::with_exposed_provenance_mut(recorded.userp),
            recorded.bytes,
            recorded.memory_type,
            recorded.id,
        )
    })
}
