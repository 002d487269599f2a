//! The thin layer over onnxruntime's C API: one type per handle, one foreign call per function.
//!
//! Every function checks what the C API assumes, so that all of them are safe to call; whatever
//! the library allocates is released by the type that stands for it. Nothing here decides anything.
#![allow(unsafe_code)]

mod allocator;
mod logging;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};

use ort_sys as sys;

use crate::DataType;

pub(super) use allocator::{AllocatorTable, Taken};

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
        let library: &'static libloading::Library = Box::leak(Box::new(library));

        // SAFETY: the symbol is the C API's entry point of exactly this type wherever it exists.
        let entry = unsafe {
            library.get::<unsafe extern "system" fn() -> *const sys::OrtApiBase>(b"OrtGetApiBase\0")
        }
        .map_err(|_| OpenError::NotOnnxRuntime)?;
        // SAFETY: the function takes nothing and may be called at any time.
        let base = unsafe { entry() };
        // SAFETY: it returns null or a table that lives as long as the library, which is leaked.
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
        // `api-*` features, none of which this crate enables; it lives as long as the library.
        let table = unsafe { table.as_ref() }.ok_or(OpenError::TooOld(version.clone()))?;

        // SAFETY: `operator new(size_t)` has exactly this type in every C++ runtime; the lookup
        // goes through the library's own dependencies.
        let operator_new = unsafe { library.get::<OperatorNew>(b"_Znwm\0") };
        Ok(Api {
            table,
            version: Box::leak(version.into_boxed_str()),
            operator_new: operator_new.ok().map(|symbol| *symbol),
        })
    }

    /// The library's version, such as `1.31.1`.
    pub(super) fn version(&self) -> &'static str {
        self.version
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
                logging::log,
                ptr::null_mut(),
                logging::level(),
                c"weldpool".as_ptr(),
                &raw mut env,
            )
        };
        self.check(status)?;
        Ok(Env {
            api: self,
            handle: handle(env)?,
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
            api: self,
            handle: handle(options)?,
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
    };
}

handle_type!(
    /// The process-wide environment of one library. The library counts its users itself.
    Env, OrtEnv, ReleaseEnv, "The environment locks its own state."
);
handle_type!(
    /// A description of memory.
    MemoryInfo, OrtMemoryInfo, ReleaseMemoryInfo, "A description is never written after it is made."
);
handle_type!(
    /// How to load a model.
    SessionOptions, OrtSessionOptions, ReleaseSessionOptions, "Setters take the options mutably."
);
handle_type!(
    /// How to run a model.
    RunOptions, OrtRunOptions, ReleaseRunOptions, "Setters take the options mutably."
);
handle_type!(
    /// A loaded model.
    Session, OrtSession, ReleaseSession, "Any thread may use and release a session."
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
unsafe impl Sync for Env {}
// SAFETY: nothing writes a description after it is made.
unsafe impl Sync for MemoryInfo {}
// SAFETY: the C API documents that several threads may run one session at once, and everything
// else called on a shared session here only reads it.
unsafe impl Sync for Session {}
// SAFETY: setters take `&mut self`, so shared options are only read.
unsafe impl Sync for RunOptions {}

impl Env {
    /// Offers an allocator to sessions made from now on that ask for the environment's.
    pub(super) fn register(&self, allocator: &AllocatorTable) -> Result<()> {
        // SAFETY: both handles are alive. The library keeps the allocator's address; the caller
        // keeps the table until the sessions that took it up are gone, which `environment.rs`
        // ensures by giving each of them a share in it.
        let status =
            unsafe { (self.api.table.RegisterAllocator)(self.handle.as_ptr(), allocator.as_ptr()) };
        self.api.check(status)
    }

    /// Ends the offer. Sessions that took it up go on using the allocator.
    pub(super) fn unregister(&self, info: &MemoryInfo) -> Result<()> {
        // SAFETY: both handles are alive.
        let status = unsafe {
            (self.api.table.UnregisterAllocator)(self.handle.as_ptr(), info.handle.as_ptr())
        };
        self.api.check(status)
    }

    /// Offers an arena of the library's own, as another user of the process may do.
    #[cfg(test)]
    pub(super) fn register_own_arena(&self, info: &MemoryInfo) -> Result<()> {
        // SAFETY: both handles are alive; a null configuration means the defaults.
        let status = unsafe {
            (self.api.table.CreateAndRegisterAllocator)(
                self.handle.as_ptr(),
                info.handle.as_ptr(),
                ptr::null(),
            )
        };
        self.api.check(status)
    }

    /// Loads a model from a file.
    pub(super) fn session_from_file(
        &self,
        file: &Path,
        options: &SessionOptions,
    ) -> Result<Session> {
        let path = os_path(file)?;
        let mut session = ptr::null_mut();
        // SAFETY: the handles are alive, the path ends with a zero, `session` is valid for writing.
        let status = unsafe {
            (self.api.table.CreateSession)(
                self.handle.as_ptr(),
                path.as_ptr(),
                options.handle.as_ptr(),
                &raw mut session,
            )
        };
        self.api.check(status)?;
        Ok(Session {
            api: self.api,
            handle: handle(session)?,
        })
    }

    /// Loads a model from its file's contents, which are copied.
    pub(super) fn session_from_bytes(
        &self,
        bytes: &[u8],
        options: &SessionOptions,
    ) -> Result<Session> {
        let mut session = ptr::null_mut();
        // SAFETY: the handles are alive, the bytes are valid for the length given and only read
        // during the call, `session` is valid for writing.
        let status = unsafe {
            (self.api.table.CreateSessionFromArray)(
                self.handle.as_ptr(),
                bytes.as_ptr().cast::<c_void>(),
                bytes.len(),
                options.handle.as_ptr(),
                &raw mut session,
            )
        };
        self.api.check(status)?;
        Ok(Session {
            api: self.api,
            handle: handle(session)?,
        })
    }
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

impl SessionOptions {
    /// Sets how many threads share one operator; 0 lets the library decide.
    pub(super) fn set_intra_op_threads(&mut self, threads: usize) -> Result<()> {
        let threads = c_int::try_from(threads).map_err(|_| Status::refused("too many threads"))?;
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.api.table.SetIntraOpNumThreads)(self.handle.as_ptr(), threads) };
        self.api.check(status)
    }

    /// Sets how many threads run operators side by side; 0 lets the library decide.
    pub(super) fn set_inter_op_threads(&mut self, threads: usize) -> Result<()> {
        let threads = c_int::try_from(threads).map_err(|_| Status::refused("too many threads"))?;
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.api.table.SetInterOpNumThreads)(self.handle.as_ptr(), threads) };
        self.api.check(status)
    }

    /// Sets whether operators run side by side.
    pub(super) fn set_parallel(&mut self, parallel: bool) -> Result<()> {
        let mode = if parallel {
            sys::ExecutionMode::ORT_PARALLEL
        } else {
            sys::ExecutionMode::ORT_SEQUENTIAL
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status =
            unsafe { (self.api.table.SetSessionExecutionMode)(self.handle.as_ptr(), mode) };
        self.api.check(status)
    }

    /// Sets how much the graph is rewritten.
    pub(super) fn set_graph_optimization(
        &mut self,
        level: sys::GraphOptimizationLevel,
    ) -> Result<()> {
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe {
            (self.api.table.SetSessionGraphOptimizationLevel)(self.handle.as_ptr(), level)
        };
        self.api.check(status)
    }

    /// Sets whether the library's own arena is used.
    pub(super) fn set_arena(&mut self, on: bool) -> Result<()> {
        let set = if on {
            self.api.table.EnableCpuMemArena
        } else {
            self.api.table.DisableCpuMemArena
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe { set(self.handle.as_ptr()) };
        self.api.check(status)
    }

    /// Sets whether the memory of a run is planned ahead.
    pub(super) fn set_memory_pattern(&mut self, on: bool) -> Result<()> {
        let set = if on {
            self.api.table.EnableMemPattern
        } else {
            self.api.table.DisableMemPattern
        };
        // SAFETY: the options are alive and borrowed mutably.
        let status = unsafe { set(self.handle.as_ptr()) };
        self.api.check(status)
    }

    /// Sets one of the library's named settings.
    pub(super) fn set_entry(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: the options are alive and borrowed mutably; both strings are copied.
        let status = unsafe {
            (self.api.table.AddSessionConfigEntry)(
                self.handle.as_ptr(),
                name.as_ptr(),
                value.as_ptr(),
            )
        };
        self.api.check(status)
    }
}

impl RunOptions {
    /// Sets one of the library's named settings for runs.
    pub(super) fn set_entry(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        // SAFETY: the options are alive and borrowed mutably; both strings are copied.
        let status = unsafe {
            (self.api.table.AddRunConfigEntry)(self.handle.as_ptr(), name.as_ptr(), value.as_ptr())
        };
        self.api.check(status)
    }
}

/// Inputs or outputs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

impl Session {
    /// How many inputs or outputs there are.
    pub(super) fn count(&self, side: Side) -> Result<usize> {
        let get = match side {
            Side::Input => self.api.table.SessionGetInputCount,
            Side::Output => self.api.table.SessionGetOutputCount,
        };
        let mut count = 0;
        // SAFETY: the session is alive and `count` valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), &raw mut count) };
        self.api.check(status)?;
        Ok(count)
    }

    /// The name of an input or output. The library refuses an index that is out of range.
    pub(super) fn name(&self, side: Side, index: usize) -> Result<String> {
        let allocator = self.api.default_allocator()?;
        let get = match side {
            Side::Input => self.api.table.SessionGetInputName,
            Side::Output => self.api.table.SessionGetOutputName,
        };
        let mut name = ptr::null_mut();
        // SAFETY: session and allocator are alive, `name` is valid for writing.
        let status = unsafe {
            get(
                self.handle.as_ptr(),
                index,
                allocator.as_ptr(),
                &raw mut name,
            )
        };
        self.api.check(status)?;
        self.api.take_text(name)
    }

    /// The type of an input or output. The library refuses an index that is out of range.
    pub(super) fn type_info(&self, side: Side, index: usize) -> Result<TypeInfo> {
        let get = match side {
            Side::Input => self.api.table.SessionGetInputTypeInfo,
            Side::Output => self.api.table.SessionGetOutputTypeInfo,
        };
        let mut info = ptr::null_mut();
        // SAFETY: the session is alive and `info` valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), index, &raw mut info) };
        self.api.check(status)?;
        Ok(TypeInfo {
            api: self.api,
            handle: handle(info)?,
        })
    }

    /// What the model says about itself.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        let mut metadata = ptr::null_mut();
        // SAFETY: the session is alive and `metadata` valid for writing.
        let status = unsafe {
            (self.api.table.SessionGetModelMetadata)(self.handle.as_ptr(), &raw mut metadata)
        };
        self.api.check(status)?;
        Ok(Metadata {
            api: self.api,
            handle: handle(metadata)?,
        })
    }

    /// Runs the model. Outputs that hold a value are written into it, the others are made.
    pub(super) fn run<'a>(
        &self,
        options: &RunOptions,
        inputs: &[(&CStr, &Value<'_>)],
        outputs: &mut [(&CStr, Option<Value<'a>>)],
    ) -> Result<()> {
        let input_names: Vec<_> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let input_values: Vec<_> = inputs
            .iter()
            .map(|(_, value)| value.handle.as_ptr().cast_const())
            .collect();
        let output_names: Vec<_> = outputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let mut output_values: Vec<_> = outputs
            .iter()
            .map(|(_, value)| {
                value
                    .as_ref()
                    .map_or(ptr::null_mut(), |value| value.handle.as_ptr())
            })
            .collect();
        // SAFETY: session, options, names and values are alive during the call; each array has the
        // length given. Values over borrowed memory hold that borrow, exclusively for outputs.
        // Several runs of one session at once are allowed.
        let status = unsafe {
            (self.api.table.Run)(
                self.handle.as_ptr(),
                options.handle.as_ptr(),
                input_names.as_ptr(),
                input_values.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                outputs.len(),
                output_values.as_mut_ptr(),
            )
        };
        self.api.check(status)?;
        for ((_, slot), made) in outputs.iter_mut().zip(output_values) {
            if slot.is_none() {
                *slot = Some(Value {
                    api: self.api,
                    handle: handle(made)?,
                    data: PhantomData,
                });
            }
        }
        Ok(())
    }
}

impl Metadata {
    fn take(
        &self,
        get: unsafe extern "system" fn(
            *const sys::OrtModelMetadata,
            *mut sys::OrtAllocator,
            *mut *mut c_char,
        ) -> sys::OrtStatusPtr,
    ) -> Result<String> {
        let allocator = self.api.default_allocator()?;
        let mut value = ptr::null_mut();
        // SAFETY: metadata and allocator are alive, `value` is valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), allocator.as_ptr(), &raw mut value) };
        self.api.check(status)?;
        self.api.take_text(value)
    }

    pub(super) fn producer(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetProducerName)
    }

    pub(super) fn graph(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetGraphName)
    }

    pub(super) fn domain(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetDomain)
    }

    pub(super) fn description(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetDescription)
    }

    pub(super) fn version(&self) -> Result<i64> {
        let mut version = 0;
        // SAFETY: the metadata is alive and `version` valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataGetVersion)(self.handle.as_ptr(), &raw mut version)
        };
        self.api.check(status)?;
        Ok(version)
    }

    /// The names of the entries that the model adds.
    pub(super) fn keys(&self) -> Result<Vec<String>> {
        let allocator = self.api.default_allocator()?;
        let (mut keys, mut count) = (ptr::null_mut::<*mut c_char>(), 0_i64);
        // SAFETY: metadata and allocator are alive, both results are valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataGetCustomMetadataMapKeys)(
                self.handle.as_ptr(),
                allocator.as_ptr(),
                &raw mut keys,
                &raw mut count,
            )
        };
        self.api.check(status)?;
        let Some(array) = NonNull::new(keys) else {
            return Ok(Vec::new());
        };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the library says that the array has `count` strings, and it is ours.
        let strings = unsafe { std::slice::from_raw_parts(array.as_ptr(), count) };
        let taken = strings.iter().map(|key| self.api.take_text(*key)).collect();
        // SAFETY: the array came from this allocator and is not used after this.
        let status = unsafe {
            (self.api.table.AllocatorFree)(allocator.as_ptr(), array.as_ptr().cast::<c_void>())
        };
        self.api.check(status)?;
        taken
    }

    /// One of the entries that the model adds.
    pub(super) fn entry(&self, key: &str) -> Result<String> {
        let allocator = self.api.default_allocator()?;
        let key = c_string(key)?;
        let mut value = ptr::null_mut();
        // SAFETY: metadata and allocator are alive, the key ends with a zero byte, and `value` is
        // valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataLookupCustomMetadataMap)(
                self.handle.as_ptr(),
                allocator.as_ptr(),
                key.as_ptr(),
                &raw mut value,
            )
        };
        self.api.check(status)?;
        self.api.take_text(value)
    }
}

/// What a model says of one of its tensors.
pub(super) struct TensorInfo {
    /// The library's number for the element type.
    pub(super) element_type: i32,
    /// Dimensions; negative where runs decide.
    pub(super) dims: Vec<i64>,
    /// A name per dimension; empty where it has none.
    pub(super) symbols: Vec<String>,
}

impl TypeInfo {
    /// Which of the `ONNXType`s it is, as its number.
    pub(super) fn onnx_type(&self) -> Result<i32> {
        let mut onnx_type = 0_i32;
        // SAFETY: the info is alive. The enumeration is a C `int`, and a number is valid for
        // writing any of its values, newer ones included.
        let status = unsafe {
            (self.api.table.GetOnnxTypeFromTypeInfo)(
                self.handle.as_ptr(),
                (&raw mut onnx_type).cast::<sys::ONNXType>(),
            )
        };
        self.api.check(status)?;
        Ok(onnx_type)
    }

    /// The tensor's type; `None` if this is not a tensor.
    pub(super) fn tensor(&self) -> Result<Option<TensorInfo>> {
        let mut info = ptr::null();
        // SAFETY: the info is alive and `info` valid for writing; the result belongs to it.
        let status = unsafe {
            (self.api.table.CastTypeInfoToTensorInfo)(self.handle.as_ptr(), &raw mut info)
        };
        self.api.check(status)?;
        let Some(info) = NonNull::new(info.cast_mut()) else {
            return Ok(None);
        };
        let dims = self.api.dimensions(info)?;
        let mut names = vec![ptr::null::<c_char>(); dims.len()];
        // SAFETY: the array has as many places as the shape has dimensions, which is its length.
        let status = unsafe {
            (self.api.table.GetSymbolicDimensions)(info.as_ptr(), names.as_mut_ptr(), names.len())
        };
        self.api.check(status)?;
        let names = names
            .into_iter()
            .map(|name| {
                // SAFETY: the strings live as long as the info and end with a zero byte.
                unsafe { text(name) }
            })
            .collect();
        Ok(Some(TensorInfo {
            element_type: self.api.element_type(info)?,
            dims,
            symbols: names,
        }))
    }
}

impl Api {
    fn element_type(&self, info: NonNull<sys::OrtTensorTypeAndShapeInfo>) -> Result<i32> {
        let mut element_type = 0_i32;
        // SAFETY: callers pass an info that is alive; the enumeration is a C `int`, as above.
        let status = unsafe {
            (self.table.GetTensorElementType)(
                info.as_ptr(),
                (&raw mut element_type).cast::<sys::ONNXTensorElementDataType>(),
            )
        };
        self.check(status)?;
        Ok(element_type)
    }

    fn dimensions(&self, info: NonNull<sys::OrtTensorTypeAndShapeInfo>) -> Result<Vec<i64>> {
        let mut rank = 0;
        // SAFETY: callers pass an info that is alive; `rank` is valid for writing.
        let status = unsafe { (self.table.GetDimensionsCount)(info.as_ptr(), &raw mut rank) };
        self.check(status)?;
        let mut dims = vec![0_i64; rank];
        // SAFETY: as above, and the array has the length given.
        let status =
            unsafe { (self.table.GetDimensions)(info.as_ptr(), dims.as_mut_ptr(), dims.len()) };
        self.check(status)?;
        Ok(dims)
    }
}

/// A tensor of the library: over memory borrowed for `'d`, or over memory of its own.
#[derive(Debug)]
pub(super) struct Value<'d> {
    api: Api,
    handle: NonNull<sys::OrtValue>,
    data: PhantomData<&'d mut [u8]>,
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from the library and is released here only.
        unsafe { (self.api.table.ReleaseValue)(self.handle.as_ptr()) };
    }
}

impl<'d> Value<'d> {
    /// A tensor over memory that a run only reads.
    pub(super) fn reading(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        bytes: &'d [u8],
    ) -> Result<Value<'d>> {
        // The library reads inputs only; its signature says otherwise for want of a const variant.
        Self::over(
            info,
            data_type,
            shape,
            bytes.as_ptr().cast_mut(),
            bytes.len(),
        )
    }

    /// A tensor over memory that a run writes.
    pub(super) fn writing(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        bytes: &'d mut [u8],
    ) -> Result<Value<'d>> {
        Self::over(info, data_type, shape, bytes.as_mut_ptr(), bytes.len())
    }

    fn over(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        data: *mut u8,
        len: usize,
    ) -> Result<Value<'d>> {
        if data_type == DataType::Bytes {
            return Err(Status::refused("byte strings have no memory to borrow"));
        }
        let mut value = ptr::null_mut();
        // SAFETY: the description is alive; the memory is valid for the length given and, by the
        // lifetime, for as long as the value; the library checks shape and length against each
        // other; `value` is valid for writing.
        let status = unsafe {
            (info.api.table.CreateTensorWithDataAsOrtValue)(
                info.handle.as_ptr(),
                data.cast::<c_void>(),
                len,
                shape.as_ptr(),
                shape.len(),
                element_type(data_type),
                &raw mut value,
            )
        };
        info.api.check(status)?;
        Ok(Value {
            api: info.api,
            handle: handle(value)?,
            data: PhantomData,
        })
    }

    /// A tensor of byte strings, all empty, in memory of the library's.
    pub(super) fn strings(api: Api, shape: &[i64]) -> Result<Value<'d>> {
        let allocator = api.default_allocator()?;
        let mut value = ptr::null_mut();
        // SAFETY: the allocator is alive as long as the library, the shape has the length given,
        // `value` is valid for writing.
        let status = unsafe {
            (api.table.CreateTensorAsOrtValue)(
                allocator.as_ptr(),
                shape.as_ptr(),
                shape.len(),
                element_type(DataType::Bytes),
                &raw mut value,
            )
        };
        api.check(status)?;
        Ok(Value {
            api,
            handle: handle(value)?,
            data: PhantomData,
        })
    }

    /// Copies a byte string into a tensor of them. The library refuses an index out of range.
    pub(super) fn set_string(&mut self, index: usize, string: &[u8]) -> Result<()> {
        let mut room = ptr::null_mut::<c_char>();
        // SAFETY: the value is alive, borrowed mutably and, as the library checks, of strings;
        // `room` is valid for writing.
        let status = unsafe {
            (self.api.table.GetResizedStringTensorElementBuffer)(
                self.handle.as_ptr(),
                index,
                string.len(),
                &raw mut room,
            )
        };
        self.api.check(status)?;
        let room = handle(room)?;
        // SAFETY: the room has exactly the length asked for and overlaps nothing of ours.
        unsafe {
            ptr::copy_nonoverlapping(string.as_ptr(), room.as_ptr().cast::<u8>(), string.len())
        };
        Ok(())
    }

    /// The length of a byte string. The library refuses an index out of range.
    pub(super) fn string_len(&self, index: usize) -> Result<usize> {
        let mut len = 0;
        // SAFETY: the value is alive and `len` valid for writing.
        let status = unsafe {
            (self.api.table.GetStringTensorElementLength)(self.handle.as_ptr(), index, &raw mut len)
        };
        self.api.check(status)?;
        Ok(len)
    }

    /// Copies a byte string out; `room` has its length.
    pub(super) fn get_string(&self, index: usize, room: &mut [u8]) -> Result<()> {
        // SAFETY: the value is alive; the library writes at most the length given.
        let status = unsafe {
            (self.api.table.GetStringTensorElement)(
                self.handle.as_ptr(),
                room.len(),
                index,
                room.as_mut_ptr().cast::<c_void>(),
            )
        };
        self.api.check(status)
    }

    /// The number of the element type, and the shape. Fails if this is not a tensor.
    pub(super) fn tensor(&self) -> Result<(i32, Vec<i64>)> {
        let mut is_tensor = 0;
        // SAFETY: the value is alive and `is_tensor` valid for writing.
        let status = unsafe { (self.api.table.IsTensor)(self.handle.as_ptr(), &raw mut is_tensor) };
        self.api.check(status)?;
        if is_tensor == 0 {
            return Err(Status::refused("the value is not a tensor"));
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is alive and `info` valid for writing.
        let status =
            unsafe { (self.api.table.GetTensorTypeAndShape)(self.handle.as_ptr(), &raw mut info) };
        self.api.check(status)?;
        let info = ShapeInfo {
            api: self.api,
            handle: handle(info)?,
        };
        Ok((
            self.api.element_type(info.handle)?,
            self.api.dimensions(info.handle)?,
        ))
    }

    /// The memory of a tensor of numbers that takes `len` bytes by its type and shape; `None` if
    /// it has none.
    fn address(&self) -> Result<Option<NonNull<u8>>> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is alive and `data` valid for writing.
        let status =
            unsafe { (self.api.table.GetTensorMutableData)(self.handle.as_ptr(), &raw mut data) };
        self.api.check(status)?;
        Ok(NonNull::new(data.cast::<u8>()))
    }

    /// The bytes of a tensor of numbers.
    pub(super) fn bytes(&self) -> Result<&[u8]> {
        let (element_type, dims) = self.tensor()?;
        let size = data_type(element_type)
            .and_then(DataType::byte_size)
            .ok_or_else(|| Status::refused("the tensor's elements have no fixed size"))?;
        let len = dims
            .iter()
            .try_fold(size, |len, dim| {
                len.checked_mul(usize::try_from(*dim).ok()?)
            })
            .ok_or_else(|| Status::refused("the tensor's size cannot be counted"))?;
        match self.address()? {
            // SAFETY: a tensor of this type and shape has `len` bytes, initialised by the run that
            // made it; they live as long as the value, which is borrowed.
            Some(data) if len > 0 => Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), len) }),
            _ => Ok(&[]),
        }
    }
}

/// The library's number for an element type.
fn element_type(data_type: DataType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as Onnx;
    match data_type {
        DataType::Bool => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Fp32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DataType::Bf16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    }
}

/// The element type of a number of the library's, if Triton has it.
pub(super) fn data_type(number: i32) -> Option<DataType> {
    DataType::ALL
        .into_iter()
        .find(|data_type| element_type(*data_type) as i32 == number)
}
