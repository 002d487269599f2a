//! What the library exports.

use std::process::Command;

use crate::backend;

/// The functions of a backend's life, and nothing else.
const EXPORTS: [&str; 9] = [
    "TRITONBACKEND_Finalize",
    "TRITONBACKEND_GetBackendAttribute",
    "TRITONBACKEND_Initialize",
    "TRITONBACKEND_ModelFinalize",
    "TRITONBACKEND_ModelInitialize",
    "TRITONBACKEND_ModelInstanceExecute",
    "TRITONBACKEND_ModelInstanceFinalize",
    "TRITONBACKEND_ModelInstanceInitialize",
    "TRITONBACKEND_ModelInstanceReady",
];

#[test]
fn the_library_exports_what_triton_looks_for_and_needs_nothing_of_it() {
    let Some(places) = backend::places() else {
        return;
    };
    let names = |option: &str| {
        let output = Command::new("nm")
            .args(["--dynamic", option, "--format=posix"])
            .arg(&places.library)
            .output()
            .expect("nm comes with the C compiler");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("--defined-only"), EXPORTS);
    let wanted = names("--undefined-only");
    assert!(
        !wanted.iter().any(|name| name.starts_with("TRITON")),
        "{wanted:#?}"
    );
}
