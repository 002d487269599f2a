//! Triton's library where others do not see its functions.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use weldpool_triton_sys::Library;

/// As in a wheel, whose libraries have a hash in their names.
#[test]
fn a_library_of_any_ending_is_found_that_was_loaded_out_of_sight() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, file) = (
        folder.join("server.c"),
        folder.join("libtritonserver-0123abcd.so"),
    );
    std::fs::write(
        &source,
        "void *TRITONSERVER_ApiVersion(void) { return 0; }\n",
    )
    .unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&file, &source])
        .status()
        .unwrap();
    assert!(compiled.success());
    let symbol = || Library::of_process().symbol(c"TRITONSERVER_ApiVersion");
    assert!(symbol().is_none(), "nothing is loaded yet");

    let path = CString::new(file.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends with a zero, and the library does nothing when it is loaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null());
    // SAFETY: as above.
    let seen = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"TRITONSERVER_ApiVersion".as_ptr()) };
    assert!(seen.is_null(), "it is out of sight");
    assert!(symbol().is_some());
}
