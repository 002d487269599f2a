//! The examples of docs/c.md, run as they stand there.

use std::path::PathBuf;
use std::process::Command;

use super::build::{folder, pkg_config, prefix, source, succeed};

/// The only code of a language behind a heading.
fn code(heading: &str, language: &str) -> String {
    let page = std::fs::read_to_string(source("../../docs/c.md")).unwrap();
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("docs/c.md has no section {heading}"));
    let fence = format!("\n```{language}\n");
    let code = section.split(&fence).nth(1);
    let code = code.unwrap_or_else(|| panic!("no {language} in {heading}"));
    code.split("\n```").next().unwrap().to_owned()
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_example_in_c_compiles_and_runs() {
    let source = written("page.c", &code("C\n", "c"));
    let program = folder().join("page-c");
    let mut compile = Command::new("cc");
    compile
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(pkg_config("--cflags"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(pkg_config("--libs"))
        .arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
    succeed(&mut compile);
    let printed = succeed(&mut Command::new(program));
    assert!(printed.contains("1048576 bytes are live"), "{printed}");
}

#[test]
fn the_example_in_python_runs() {
    let script = written("page.py", &code("Python", "python"));
    let python = std::env::var("WELDPOOL_TEST_PYTHON").unwrap_or("python3".to_owned());
    let mut run = Command::new(python);
    run.arg(script).arg(prefix().join("lib/libweldpool.so"));
    let printed = succeed(&mut run);
    assert!(printed.contains("1048576 bytes are live"), "{printed}");
    assert!(printed.contains("LIMIT_EXCEEDED"), "{printed}");
}
