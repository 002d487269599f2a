//! What the library exports is what the header declares.

use std::collections::BTreeSet;
use std::process::Command;

use super::build::{prefix, source, succeed};

/// Names that the header declares as functions.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(source("include/weldpool.h")).unwrap();
    let code = header
        .lines()
        .filter(|line| !line.starts_with("//") && !line.starts_with('#'));
    let words = code.flat_map(|line| line.split_inclusive(['(', ' ', '*']));
    let called = words.filter_map(|word| word.strip_suffix('('));
    // Types of functions are `(*weldpool_..._fn)(`.
    let names = called.filter(|name| name.starts_with("weldpool_") && !name.ends_with(')'));
    names.map(str::to_owned).collect()
}

/// Names in the library's table of dynamic symbols.
fn symbols(which: &str) -> BTreeSet<String> {
    let mut nm = Command::new("nm");
    nm.args(["-D", which, "--format=posix"])
        .arg(prefix().join("lib/libweldpool.so"));
    let printed = succeed(&mut nm);
    let names = printed.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The library loads where there is no Triton, so it must not be linked with it.
#[test]
fn the_library_needs_nothing_of_triton() {
    let needed = symbols("--undefined-only");
    assert!(
        needed.iter().any(|name| name.starts_with("malloc")),
        "{needed:?}"
    );
    let of_triton = needed.iter().filter(|name| name.starts_with("TRITON"));
    assert_eq!(of_triton.collect::<Vec<_>>(), Vec::<&String>::new());
}

/// What the header declares can be had by RAII, but for PyTorch's interface, which Python calls.
#[test]
fn the_wrapper_has_every_function() {
    let wrapper = std::fs::read_to_string(source("include/weldpool.hpp")).unwrap();
    let words = wrapper.split(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
    let used: BTreeSet<&str> = words.collect();
    let missing = declared().into_iter().filter(|name| {
        !name.starts_with("weldpool_torch_")
            && name != "weldpool_last_error"
            && !used.contains(name.as_str())
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let exported = symbols("--defined-only");
    let declared = declared();
    assert!(declared.len() > 80, "{declared:?}");
    assert_eq!(exported, declared);
}

#[test]
fn the_names_that_programs_rely_on_are_there() {
    let declared = declared();
    for name in [
        "weldpool_last_error",
        "weldpool_torch_malloc",
        "weldpool_torch_malloc_aligned",
        "weldpool_torch_free",
        "weldpool_torch_record_stream",
        "weldpool_torch_forget_stream",
        "weldpool_torch_stats",
        "weldpool_abi_version",
    ] {
        assert!(declared.contains(name), "{name}");
    }
}

#[test]
fn the_page_names_every_function() {
    let page = std::fs::read_to_string(source("../../docs/c.md")).unwrap();
    let table = page.split("### Functions").nth(1).unwrap();
    let table = table.split("\n### ").next().unwrap();
    let named: BTreeSet<String> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| *name != "weldpool_")
        .map(|name| format!("weldpool_{name}"))
        .collect();
    assert_eq!(named, declared());
}

/// A panic must not reach C. Functions that only hand out a constant need no guard.
#[test]
fn every_export_is_behind_a_guard() {
    let guards = [
        "fallible(",
        "infallible(",
        "guarded(",
        "say(",
        "tell(allocator",
        "submit(queue",
        "allocate(allocator",
        "allocate(name",
        "allocate(\"",
        "try_with(",
    ];
    let constants = ["weldpool_abi_version", "weldpool_version"];
    let mut seen = BTreeSet::new();
    let mut folders = vec![source("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for export in text.split("extern \"C\" fn weldpool_").skip(1) {
                let name = format!("weldpool_{}", export.split('(').next().unwrap());
                let body = export.split("\n}\n").next().unwrap();
                let guarded = guards.iter().any(|guard| body.contains(guard));
                assert!(guarded || constants.contains(&name.as_str()), "{name}");
                seen.insert(name);
            }
        }
    }
    assert_eq!(seen, declared());
}
