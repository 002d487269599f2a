//! The examples of docs/c.md, run as they stand there, and those of docs/response-allocator.md, compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::build::{folder, pkg_config, prefix, source, succeed};

/// The first code of a language behind a heading of a page.
fn code(page: &str, heading: &str, language: &str) -> String {
    let text = std::fs::read_to_string(source("../../docs").join(page)).unwrap();
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("{page} has no section {heading}"));
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

/// Compiles and runs an example of docs/c.md.
fn runs(name: &str, heading: &str, language: &str, compiler: &str, standard: &str) {
    let source = written(name, &code("c.md", heading, language));
    let program = source.with_extension("program");
    let mut compile = Command::new(compiler);
    compile
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic"])
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
fn the_example_in_c_runs() {
    runs("page-c.c", "C\n", "c", "cc", "-std=c11");
}

#[test]
fn the_example_in_cpp_runs() {
    runs("page-cpp.cpp", "C++\n", "cpp", "c++", "-std=c++17");
}

#[test]
fn the_example_in_python_runs() {
    let script = written("page.py", &code("c.md", "Python", "python"));
    let python = std::env::var("WELDPOOL_TEST_PYTHON").unwrap_or("python3".to_owned());
    let mut run = Command::new(python);
    run.arg(script).arg(prefix().join("lib/libweldpool.so"));
    let printed = succeed(&mut run);
    assert!(printed.contains("1048576 bytes are live"), "{printed}");
    assert!(printed.contains("LIMIT_EXCEEDED"), "{printed}");
}

/// Compiles what a page has with Triton's header, of which the tests have the part that it uses.
fn compiles_beside_triton(compiler: &str, standard: &str, program: &Path) {
    let mut compile = Command::new(compiler);
    compile
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-c"])
        .args(pkg_config("--cflags"))
        .arg("-I")
        .arg(source("tests/c/triton"))
        .arg(program)
        .arg("-o")
        .arg(program.with_extension("o"));
    succeed(&mut compile);
}

#[test]
fn the_example_of_the_response_allocator_in_c_compiles() {
    let text = code("response-allocator.md", "C\n", "c");
    let program = written("response-allocator.c", &text);
    compiles_beside_triton("cc", "-std=c11", &program);
}

#[test]
fn the_example_of_the_response_allocator_in_cpp_compiles() {
    let text = code("response-allocator.md", "C\n", "cpp");
    let program = written("response-allocator.cpp", &text);
    compiles_beside_triton("c++", "-std=c++17", &program);
}
