//! Where the functions are looked for.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::ptr::NonNull;

/// Where Triton's functions are found: among everything that the process has loaded, or in one
/// library. It is never closed, since pointers into it are kept.
#[derive(Clone, Copy, Debug)]
pub struct Library(Place);

#[derive(Clone, Copy, Debug)]
enum Place {
    Process,
    Loaded(NonNull<c_void>),
}

// SAFETY: a handle of the dynamic linker's, which any thread may ask; it is never closed.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// What this process has loaded already: its own program and libraries, and `libtritonserver`
    /// even where it was loaded out of others' sight (`RTLD_LOCAL`). On Linux that is any library
    /// whose file name begins so, since wheels add a hash to it; elsewhere `libtritonserver.so`.
    /// Loads nothing.
    #[must_use]
    pub fn of_process() -> Library {
        if Library(Place::Process)
            .symbol(c"TRITONSERVER_ApiVersion")
            .is_some()
        {
            return Library(Place::Process);
        }
        match hidden() {
            Some(handle) => Library(Place::Loaded(handle)),
            None => Library(Place::Process),
        }
    }

    /// Loads Triton's library from a file, for good, and what it depends on.
    ///
    /// # Errors
    /// The dynamic linker's words.
    pub fn open(path: &Path) -> Result<Library, String> {
        open(path).map(|handle| Library(Place::Loaded(handle)))
    }

    /// The address of a function.
    #[must_use]
    pub fn symbol(self, name: &CStr) -> Option<NonNull<c_void>> {
        symbol(self.0, name)
    }
}

#[cfg(unix)]
fn symbol(place: Place, name: &CStr) -> Option<NonNull<c_void>> {
    let handle = match place {
        Place::Process => libc::RTLD_DEFAULT,
        Place::Loaded(handle) => handle.as_ptr(),
    };
    // SAFETY: the handle is the default one or open for good; the name ends with a zero.
    NonNull::new(unsafe { libc::dlsym(handle, name.as_ptr()) })
}

/// Triton's library where it is loaded, but its functions are not seen by all.
#[cfg(target_os = "linux")]
fn hidden() -> Option<NonNull<c_void>> {
    use std::ffi::{CString, c_int};

    /// Puts the first path of Triton's library, and looks no further then.
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the linker's, for the time of the call.
        let name = unsafe { (*info).dlpi_name };
        if name.is_null() {
            return 0;
        }
        // SAFETY: not null; the linker's text ends with a zero.
        let path = unsafe { CStr::from_ptr(name) };
        let file = path.to_bytes().rsplit(|&byte| byte == b'/').next();
        if !file.is_some_and(|file| file.starts_with(b"libtritonserver")) {
            return 0;
        }
        // SAFETY: what `hidden` passes, which nobody else uses meanwhile.
        unsafe { *found.cast::<Option<CString>>() = Some(path.to_owned()) };
        1
    }

    let mut found: Option<CString> = None;
    // SAFETY: the function has the type that is wanted, and is given what it expects.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    loaded(&found?)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn hidden() -> Option<NonNull<c_void>> {
    loaded(c"libtritonserver.so")
}

/// The handle of a library that is loaded already.
#[cfg(unix)]
fn loaded(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: with `RTLD_NOLOAD` no code of a library runs; the name ends with a zero.
    NonNull::new(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) })
}

#[cfg(unix)]
fn open(path: &Path) -> Result<NonNull<c_void>, String> {
    use std::os::unix::ffi::OsStrExt;

    let text = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| format!("{} has a zero in its name", path.display()))?;
    // Backends look Triton's functions up among everything that is loaded.
    let flags = libc::RTLD_NOW | libc::RTLD_GLOBAL;
    // SAFETY: the name ends with a zero; that the file is Triton's library is the caller's word,
    // and what its initialisers do is Triton's.
    let handle = unsafe { libc::dlopen(text.as_ptr(), flags) };
    NonNull::new(handle).ok_or_else(|| {
        // SAFETY: the linker's text about the last failure of this thread, or null.
        let reason = unsafe { libc::dlerror() };
        if reason.is_null() {
            return format!("{} cannot be loaded", path.display());
        }
        // SAFETY: not null, and valid until this thread's next call of the linker.
        unsafe { CStr::from_ptr(reason) }
            .to_string_lossy()
            .into_owned()
    })
}

#[cfg(not(unix))]
fn symbol(_: Place, _: &CStr) -> Option<NonNull<c_void>> {
    None
}

#[cfg(not(unix))]
fn hidden() -> Option<NonNull<c_void>> {
    None
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<NonNull<c_void>, String> {
    Err(format!(
        "{}: Triton's library is loaded on Unix systems only",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Core};

    #[test]
    fn without_triton_all_functions_are_named_as_missing() {
        let missing = Core::find(Library::of_process()).unwrap_err();
        assert_eq!(missing.names(), Core::NAMES);
        assert!(Backend::find(Library::of_process()).is_err());
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let error = Library::open(Path::new("/dev/null")).unwrap_err();
        assert!(error.contains("/dev/null"), "{error}");
    }
}
