//! The thin layer over onnxruntime's C API: one type per handle, one foreign call per function.
//!
//! Every function checks what the C API assumes, so that all of them are safe to call; whatever
//! the library allocates is released by the type that stands for it. Nothing here decides anything.
#![allow(unsafe_code)]

mod allocator;
mod logging;
mod options;
mod session;
mod value;

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, PoisonError, RwLock};

use ort_sys as sys;

pub(super) use allocator::{AllocatorTable, Taken};
pub(super) use session::Side;
pub(super) use value::{Value, data_type};

/// The C API asked for: that of onnxruntime 1.17, which every later library offers as well.
const API_VERSION: u32 = 17;

/// The oldest library that offers [`API_VERSION`].
pub(super) const OLDEST_LIBRARY: &str = "1.17";

type Result<T> = std::result::Result<T, Status>;

/// A failure that onnxruntime reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The library's error code, one of the `OrtErrorCode`s.
    pub(super) code: i32,
    /// The library's message, in one line.
    pub(super) message: String,
}

impl Status {
    /// A failure that was found before the library was called.
    fn refused(message: impl Into<String>) -> Status {
        Status {
            code: sys::OrtErrorCode::ORT_INVALID_ARGUMENT as i32,
            message: message.into(),
        }
    }
}

/// Why a shared library cannot be used.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The system's loader refused it.
    NotLoadable(String),
    /// It loads, but is something else.
    NotOnnxRuntime,
    /// It is older than [`OLDEST_LIBRARY`].
    TooOld(String),
}

/// Throws a C++ exception of type `std::bad_alloc` when called with a size nobody can allocate.
type OperatorNew = unsafe extern "C-unwind" fn(usize) -> *mut c_void;

/// The functions of one loaded library. The library stays loaded until the process ends:
/// onnxruntime keeps threads and thread-local state that outlive its last object.
#[derive(Clone, Copy)]
pub(super) struct Api {
    table: &'static sys::OrtApi,
    version: &'static str,
    operator_new: Option<OperatorNew>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "onnxruntime {}", self.version)
    }
}

impl Api {
    /// Loads a shared library by path, or by a name that the system's loader looks up.
    pub(super) fn open(file: &Path) -> std::result::Result<Api, OpenError> {
        // SAFETY: loading runs the library's initialisers. The caller's search decides which file
        // is trusted with that; nothing else is assumed of it.
        let library = unsafe { libloading::Library::new(file) }
            .map_err(|error| OpenError::NotLoadable(one_line(&error.to_string())))?;
        // SAFETY: the symbol is the C API's entry point of exactly this type wherever it exists.
        let entry = unsafe {
            library.get::<unsafe extern "system" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase\0")
        }
        .map_err(|_| OpenError::NotOnnxRuntime)?;
        // SAFETY: the function takes nothing and may be called at any time.
        let base = unsafe { entry() };
        // SAFETY: it returns null or a table that lives as long as the library.
        let base = unsafe { base.as_ref() }.ok_or(OpenError::NotOnnxRuntime)?;

        // SAFETY: the function takes nothing and returns a string constant.
        let version = unsafe { (base.GetVersionString)() };
        // SAFETY: the string ends with a zero byte and lives as long as the library.
        let version = unsafe { text(version) };
        // Asked first, because old libraries print a line of their own when asked for a newer API.
        if older_than(&version, API_VERSION) {
            return Err(OpenError::TooOld(version));
        }
        // SAFETY: any number may be asked for; an unknown one is answered with null.
        let table = unsafe { (base.GetApi)(API_VERSION) };
        // SAFETY: a table for version 17 has every field that the bindings declare without their
        // `api-*` features, none of which this crate enables. It lives as long as the library,
        // which is leaked below, where the table is first stored.
        let table = unsafe { table.as_ref() }.ok_or_else(|| OpenError::TooOld(version.clone()))?;

        // SAFETY: `operator new(size_t)` has exactly this type in every C++ runtime; the lookup
        // goes through the library's own dependencies.
        let operator_new = unsafe { library.get::<OperatorNew>(b"_Znwm\0") };
        let operator_new = operator_new.ok().map(|symbol| *symbol);
        std::mem::forget(library);
        Ok(Api {
            table,
            version: Box::leak(version.into_boxed_str()),
            operator_new,
        })
    }

    /// The library's version, such as `1.31.1`.
    pub(super) fn version(&self) -> &'static str {
        self.version
    }

    /// Whether an allocator of ours can report a lack of memory as the library expects it.
    pub(super) fn can_throw(&self) -> bool {
        self.operator_new.is_some()
    }

    /// Tells two loads of the same library from two libraries.
    pub(super) fn identity(&self) -> usize {
        ptr::from_ref(self.table).addr()
    }

    /// Turns a returned status into a result and releases it.
    fn check(&self, status: sys::OrtStatusPtr) -> Result<()> {
        let Some(status) = NonNull::new(status.0) else {
            return Ok(());
        };
        // SAFETY: the enumeration is a C `int` on both sides; read as one, a code that is newer
        // than the bindings is not undefined behaviour.
        let get_code = unsafe {
            std::mem::transmute::<
                unsafe extern "system" fn(*const sys::OrtStatus) -> sys::OrtErrorCode,
                unsafe extern "system" fn(*const sys::OrtStatus) -> i32,
            >(self.table.GetErrorCode)
        };
        // SAFETY: the status is not null and not released yet.
        let code = unsafe { get_code(status.as_ptr()) };
        // SAFETY: as above.
        let message = unsafe { (self.table.GetErrorMessage)(status.as_ptr()) };
        // SAFETY: the message lives as long as the status and ends with a zero byte.
        let message = one_line(&unsafe { text(message) });
        // SAFETY: the status came from the library, is released once, and not used after this.
        unsafe { (self.table.ReleaseStatus)(status.as_ptr()) };
        Err(Status { code, message })
    }

    /// Makes the process's environment, or joins the one that exists.
    pub(super) fn create_env(self) -> Result<Env> {
        let mut env = ptr::null_mut();
        // SAFETY: the callback is a function with static lifetime that ignores its parameter, the
        // name is a constant, and `env` is valid for writing.
        let status = unsafe {
            (self.table.CreateEnvWithCustomLogger)(
                logging::callback(),
                ptr::null_mut(),
                logging::level(),
                c"weldpool".as_ptr(),
                &raw mut env,
            )
        };
        self.check(status)?;
        Ok(Env {
            handle: EnvHandle {
                api: self,
                handle: handle(env)?,
            },
            offered: RwLock::default(),
        })
    }

    /// Describes host memory that a caller owns.
    pub(super) fn host_memory(self, kind: MemoryKind) -> Result<MemoryInfo> {
        let mem_type = match kind {
            MemoryKind::Default => sys::OrtMemType::OrtMemTypeDefault,
            MemoryKind::Output => sys::OrtMemType::OrtMemTypeCPUOutput,
        };
        let mut info = ptr::null_mut();
        // SAFETY: `info` is valid for writing.
        let status = unsafe {
            (self.table.CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtDeviceAllocator,
                mem_type,
                &raw mut info,
            )
        };
        self.check(status)?;
        Ok(MemoryInfo {
            api: self,
            handle: handle(info)?,
        })
    }

    /// Options with the library's defaults.
    pub(super) fn session_options(self) -> Result<SessionOptions> {
        let mut options = ptr::null_mut();
        // SAFETY: `options` is valid for writing.
        let status = unsafe { (self.table.CreateSessionOptions)(&raw mut options) };
        self.check(status)?;
        Ok(SessionOptions {
            handle: SessionOptionsHandle {
                api: self,
                handle: handle(options)?,
            },
            env_allocators: false,
        })
    }

    /// Options of a run with the library's defaults.
    pub(super) fn run_options(self) -> Result<RunOptions> {
        let mut options = ptr::null_mut();
        // SAFETY: `options` is valid for writing.
        let status = unsafe { (self.table.CreateRunOptions)(&raw mut options) };
        self.check(status)?;
        Ok(RunOptions {
            api: self,
            handle: handle(options)?,
        })
    }

    /// The allocator for what the library returns to its callers: names and other small things.
    fn default_allocator(&self) -> Result<NonNull<sys::OrtAllocator>> {
        let mut allocator = ptr::null_mut();
        // SAFETY: `allocator` is valid for writing.
        let status = unsafe { (self.table.GetAllocatorWithDefaultOptions)(&raw mut allocator) };
        self.check(status)?;
        handle(allocator)
    }

    /// Takes over a string that the library made with its default allocator.
    fn take_text(&self, made: *mut c_char) -> Result<String> {
        let allocator = self.default_allocator()?;
        // SAFETY: the string is null or ends with a zero byte, and nobody has released it.
        let copy = unsafe { text(made) };
        // SAFETY: the string came from this allocator and is not used after this.
        let status =
            unsafe { (self.table.AllocatorFree)(allocator.as_ptr(), made.cast::<c_void>()) };
        self.check(status)?;
        Ok(copy)
    }
}

/// Whether a version says that it is 1.x with an x below `minor`.
fn older_than(version: &str, minor: u32) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(1)), Some(Ok(x))) if x < minor)
}

/// Gives the pages that `malloc` holds but does not use back to the system, where the C library
/// can do so. Loading a model leaves many of them.
pub(super) fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let process = libloading::os::unix::Library::this();
        // SAFETY: the C library's function has exactly this type.
        let trim = unsafe {
            process.get::<unsafe extern "C" fn(usize) -> std::ffi::c_int>(b"malloc_trim\0")
        };
        if let Ok(trim) = trim {
            // SAFETY: it may be called at any time, from any thread, with any number.
            let trimmed = unsafe { trim(0) };
            tracing::trace!("malloc gave memory back: {}", trimmed != 0);
        }
    }
}

/// Reads a C string; null is empty.
///
/// # Safety
/// A string that is not null must end with a zero byte and live during the call.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller promises it.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn handle<T>(made: *mut T) -> Result<NonNull<T>> {
    NonNull::new(made).ok_or_else(|| Status::refused("onnxruntime returned no object"))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Status::refused(format!("'{}' has a zero byte in it", text.escape_debug())))
}

/// What a description of host memory is for; two kinds never stand in each other's way when an
/// allocator is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryKind {
    Default,
    Output,
}

macro_rules! handle_type {
    ($(#[$doc:meta])* $name:ident, $foreign:ident, $release:ident, $threads:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name {
            api: Api,
            handle: NonNull<sys::$foreign>,
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle came from the library and is released here only.
                unsafe { (self.api.table.$release)(self.handle.as_ptr()) };
            }
        }

        #[doc = $threads]
        // SAFETY: the C API ties none of its objects to a thread; see the type's note.
        unsafe impl Send for $name {}

        impl $name {
            #[allow(dead_code, reason = "some are only ever released")]
            fn as_ptr(&self) -> *mut sys::$foreign {
                self.handle.as_ptr()
            }
        }
    };
}

handle_type!(
    /// A use of the process's environment. The library counts them itself.
    EnvHandle, OrtEnv, ReleaseEnv, "The environment locks its own state."
);
handle_type!(
    /// A description of memory.
    MemoryInfo, OrtMemoryInfo, ReleaseMemoryInfo, "A description is never written after it is made."
);
handle_type!(
    /// How to load a model, by itself.
    SessionOptionsHandle, OrtSessionOptions, ReleaseSessionOptions, "Setters take the options mutably."
);
handle_type!(
    /// How to run a model.
    RunOptions, OrtRunOptions, ReleaseRunOptions, "Setters take the options mutably."
);
handle_type!(
    /// A loaded model, by itself.
    SessionHandle, OrtSession, ReleaseSession, "Any thread may use and release a session."
);
handle_type!(
    /// What a model says about itself.
    Metadata, OrtModelMetadata, ReleaseModelMetadata, "Only read."
);
handle_type!(
    /// The type of an input or output.
    TypeInfo, OrtTypeInfo, ReleaseTypeInfo, "Only read."
);
handle_type!(
    /// The element type and shape of a tensor.
    ShapeInfo, OrtTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo, "Only read."
);

// SAFETY: the environment guards its state with its own lock; it is documented to be shared.
unsafe impl Sync for EnvHandle {}
// SAFETY: nothing writes a description after it is made.
unsafe impl Sync for MemoryInfo {}
// SAFETY: the C API documents that several threads may run one session at once, and everything
// else called on a shared session here only reads it.
unsafe impl Sync for SessionHandle {}
// SAFETY: setters take `&mut self`, so shared options are only read.
unsafe impl Sync for SessionOptionsHandle {}
// SAFETY: as above; the one setting that takes `&self` may be changed at any time.
unsafe impl Sync for RunOptions {}

/// How to load a model.
#[derive(Debug)]
pub(super) struct SessionOptions {
    handle: SessionOptionsHandle,
    /// Whether the session takes up the allocators that its environment offers.
    env_allocators: bool,
}

/// The process-wide environment of one library, and the allocators it offers.
#[derive(Debug)]
pub(super) struct Env {
    handle: EnvHandle,
    /// Sessions that take them up are made under this lock, and keep them.
    offered: RwLock<Vec<Arc<AllocatorTable>>>,
}

impl Env {
    /// Offers an allocator to sessions made from now on that ask for the environment's. Waits for
    /// such sessions being made.
    pub(super) fn register(&self, allocator: &Arc<AllocatorTable>) -> Result<()> {
        let mut offered = self.offered.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both handles are alive. The library keeps the allocator's address until the
        // offer ends, for which time the table is kept below, and in sessions, which keep it too.
        let status = unsafe {
            (self.handle.api.table.RegisterAllocator)(self.handle.as_ptr(), allocator.as_ptr())
        };
        self.handle.api.check(status)?;
        offered.push(Arc::clone(allocator));
        Ok(())
    }

    /// Ends the offer. Sessions that took it up go on using the allocator. Waits as `register`.
    pub(super) fn unregister(&self, info: &MemoryInfo) -> Result<()> {
        let mut offered = self.offered.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both handles are alive.
        let status = unsafe {
            (self.handle.api.table.UnregisterAllocator)(self.handle.as_ptr(), info.as_ptr())
        };
        self.handle.api.check(status)?;
        offered.retain(|table| table.info().handle != info.handle);
        Ok(())
    }

    /// Offers an arena of the library's own, as another user of the process may do.
    #[cfg(test)]
    pub(super) fn register_own_arena(&self, info: &MemoryInfo) -> Result<()> {
        // SAFETY: both handles are alive; a null configuration means the defaults.
        let status = unsafe {
            (self.handle.api.table.CreateAndRegisterAllocator)(
                self.handle.as_ptr(),
                info.as_ptr(),
                ptr::null(),
            )
        };
        self.handle.api.check(status)
    }

    /// Loads a model from a file.
    pub(super) fn session_from_file(
        self: &Arc<Self>,
        file: &Path,
        options: &SessionOptions,
    ) -> Result<Session> {
        let path = os_path(file)?;
        self.session(options, |session| {
            // SAFETY: the handles are alive, the path ends with a zero, `session` is valid for
            // writing.
            unsafe {
                (self.handle.api.table.CreateSession)(
                    self.handle.as_ptr(),
                    path.as_ptr(),
                    options.handle.as_ptr(),
                    session,
                )
            }
        })
    }

    /// Loads a model from its file's contents, which are copied.
    pub(super) fn session_from_bytes(
        self: &Arc<Self>,
        bytes: &[u8],
        options: &SessionOptions,
    ) -> Result<Session> {
        self.session(options, |session| {
            // SAFETY: the handles are alive, the bytes are valid for the length given and only
            // read during the call, `session` is valid for writing.
            unsafe {
                (self.handle.api.table.CreateSessionFromArray)(
                    self.handle.as_ptr(),
                    bytes.as_ptr().cast::<c_void>(),
                    bytes.len(),
                    options.handle.as_ptr(),
                    session,
                )
            }
        })
    }

    /// Makes a session that keeps what it uses: this environment, and the allocators on offer if
    /// it takes them up.
    fn session(
        self: &Arc<Self>,
        options: &SessionOptions,
        create: impl FnOnce(*mut *mut sys::OrtSession) -> sys::OrtStatusPtr,
    ) -> Result<Session> {
        let offered = options
            .env_allocators
            .then(|| self.offered.read().unwrap_or_else(PoisonError::into_inner));
        let mut session = ptr::null_mut();
        self.handle.api.check(create(&raw mut session))?;
        Ok(Session {
            handle: SessionHandle {
                api: self.handle.api,
                handle: handle(session)?,
            },
            _allocators: offered.map(|offered| offered.clone()).unwrap_or_default(),
            _env: Arc::clone(self),
        })
    }
}

/// A loaded model. Fields are dropped in this order: the session before what it uses.
#[derive(Debug)]
pub(super) struct Session {
    handle: SessionHandle,
    _allocators: Vec<Arc<AllocatorTable>>,
    _env: Arc<Env>,
}

#[cfg(unix)]
fn os_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Status::refused(format!("the path {} has a zero byte in it", path.display())))
}

#[cfg(windows)]
fn os_path(path: &Path) -> Result<Vec<u16>> {
    use std::os::windows::ffi::OsStrExt;
    Ok(path.as_os_str().encode_wide().chain([0]).collect())
}
