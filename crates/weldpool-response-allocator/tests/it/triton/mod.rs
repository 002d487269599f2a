//! Triton within this process: one server for all tests, and requests to it.
#![allow(unsafe_code)]

mod command;
mod request;
mod response;
mod setting;

use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use weldpool_bench::peers::triton;
use weldpool_response_allocator::Functions;
use weldpool_triton_sys::{self as sys, ErrorCode};

pub(crate) use self::command::Command;
pub(crate) use self::request::{Request, Responses};
pub(crate) use self::response::{Output, Response};
use self::setting::Setting;

/// A failure as Triton tells it.
pub(crate) type Told<T = ()> = Result<T, (ErrorCode, String)>;

/// A server, and the functions that it was reached by.
#[derive(Debug)]
pub(crate) struct Server {
    core: sys::Core,
    embedding: sys::Embedding,
    allocators: sys::ResponseAllocators,
    server: *mut sys::Server,
    // Its folders live as long as it does.
    _setting: Setting,
}

// SAFETY: Triton's server takes calls of all threads.
unsafe impl Send for Server {}
// SAFETY: as above.
unsafe impl Sync for Server {}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

/// The server, which is started the first time; none where there is no Triton.
pub(crate) fn server() -> Option<&'static Server> {
    SERVER
        .get_or_init(|| {
            if !triton::is_supported() {
                eprintln!("no Triton for this platform: nothing to test against");
                return None;
            }
            let server =
                Server::start(Setting::prepare().expect("Triton and its backends are prepared"));
            // SAFETY: the function takes nothing; it runs before the destructors of Triton's library, which was
            // loaded before.
            assert_eq!(unsafe { libc::atexit(stop) }, 0);
            Some(server)
        })
        .as_ref()
}

/// Stops the server when the tests are over, since Triton's threads must not outlive what they stand on.
extern "C" fn stop() {
    if let Some(Some(server)) = SERVER.get() {
        // SAFETY: the server is live; no test runs any more.
        let stopped = server.check(unsafe { (server.embedding.server_stop)(server.server) });
        // SAFETY: as above, and nobody uses it after this.
        let deleted = server.check(unsafe { (server.embedding.server_delete)(server.server) });
        if let Err(error) = stopped.and(deleted) {
            eprintln!("the server did not stop: {error:?}");
        }
    }
}

impl Server {
    fn start(setting: Setting) -> Server {
        let library = setting::open(&setting.library).unwrap();
        let mut server = Server {
            core: sys::Core::find(library).unwrap(),
            embedding: sys::Embedding::find(library).unwrap(),
            allocators: sys::ResponseAllocators::find(library).unwrap(),
            server: ptr::null_mut(),
            _setting: setting,
        };
        let api = server.embedding;
        let mut options = ptr::null_mut();
        // SAFETY: a place for the result.
        server
            .check(unsafe { (api.options_new)(&mut options) })
            .unwrap();
        let repository = c_path(&server._setting.repository);
        let backends = c_path(&server._setting.backends);
        // SAFETY: the options are live; Triton copies the text, which ends with a zero.
        let told = unsafe { (api.options_set_repository)(options, repository.as_ptr()) };
        server.check(told).unwrap();
        // SAFETY: as above.
        let told = unsafe { (api.options_set_backend_directory)(options, backends.as_ptr()) };
        server.check(told).unwrap();
        // SAFETY: the options are live.
        server
            .check(unsafe { (api.options_set_log_info)(options, false) })
            .unwrap();
        // SAFETY: a place for the result, and live options.
        let told = unsafe { (api.server_new)(&mut server.server, options) };
        server.check(told).unwrap();
        // SAFETY: the options are deleted once.
        server
            .check(unsafe { (api.options_delete)(options) })
            .unwrap();
        server
    }

    /// Functions for an allocator. With `failing`, which takes the place of a setter of attributes, they fail when that
    /// does.
    pub(crate) fn functions(&self, failing: Option<SetByteSize>) -> Functions {
        let mut table = self.allocators;
        if let Some(failing) = failing {
            table.set_byte_size = failing;
        }
        // SAFETY: Triton's, and one that makes an error as Triton's do.
        unsafe { Functions::of(table) }
    }

    /// Makes an error of Triton's.
    pub(crate) fn error(&self, message: &str) -> *mut sys::Error {
        let message = CString::new(message).unwrap();
        // SAFETY: Triton copies the text, which ends with a zero.
        unsafe { (self.core.error_new)(ErrorCode::Internal.number(), message.as_ptr()) }
    }

    /// Turns what a function returned into a result. The error is deleted.
    fn check(&self, error: *mut sys::Error) -> Told {
        let told = self.read(error);
        if !error.is_null() {
            // SAFETY: the error is ours, and not used again.
            unsafe { (self.core.error_delete)(error) };
        }
        told
    }

    /// Reads an error, which stays whose it is.
    fn read(&self, error: *mut sys::Error) -> Told {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null, and live.
        let code = unsafe { (self.core.error_code)(error) };
        // SAFETY: as above.
        let message = unsafe { (self.core.error_message)(error) };
        Err((ErrorCode::of(code).unwrap(), text(message)))
    }
}

/// `TRITONSERVER_BufferAttributesSetByteSize`.
pub(crate) type SetByteSize =
    unsafe extern "C" fn(attributes: *mut sys::BufferAttributes, bytes: usize) -> *mut sys::Error;

fn text(text: *const c_char) -> String {
    // SAFETY: Triton's texts end with a zero and live as long as what they belong to.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_str()
        .unwrap()
        .to_owned()
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}
