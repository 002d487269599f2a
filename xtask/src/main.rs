//! The command surface of the workspace: everything that a developer or a build machine runs is a subcommand of
//! `cargo xtask`. It has no dependencies, so it compiles in seconds on a fresh machine.

mod arguments;
mod bench;
mod check;
mod darwin;
mod debian;
mod demo;
mod dependencies;
mod environment;
mod error;
mod fuzz;
mod gpu;
mod guest;
mod header;
mod install_c;
mod loom;
mod metal_rules;
mod models;
mod mutants;
mod nightly;
mod onnxruntime;
mod paths;
mod process;
mod progress;
mod python;
mod rust_source;
mod sanitize;
mod test;
mod toolchain;
mod triton;
mod unsafe_list;
mod zig;

use std::process::ExitCode;

use arguments::Arguments;
use error::{Failure, Result};
use paths::Paths;

const HELP: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  demo [-- ARGS]             serve real OCR models and read a picture through tritonclient; ARGS go to the
                             pipeline (examples/demo/ocr_pipeline.py), for instance `-- --repeats 50`
  triton-demo [-- ARGS]      the same picture, read by the real Triton Inference Server with the backend metal_mps
                             (Linux x86_64)
  test [--filter NAME]       build the program and run the tests of the whole workspace, or those whose name
                             contains NAME
  header                     write crates/weldpool-capi/include/weldpool.h from the library's sources
  install-c --prefix DIR [--debug]
                             build libweldpool and lay it out with its headers and pkg-config file
  check                      formatting, clippy and documentation with warnings denied, and the structure tests
  darwin [--no-link]         clippy over the workspace for macOS (arm64 and x86_64); on Linux also link the
                             program and libweldpool for arm64, unless --no-link is given
  bench SUITE [--json FILE] [--quick] [--filter TEXT] [-- ARGS]
                             run a benchmark suite of crates/weldpool-bench; `bench help` names them
  bench pressure [--json FILE] [--quick] [--control-groups 1|2]
                             fill memory up to a limit in an emulated machine; with `-- --group DIRECTORY` in
                             control groups of this one
  gpu [--run [-- PARTS]]     pack what a machine with an NVIDIA GPU is to run: tests, benchmarks against CUDA, RMM
                             and PyTorch, and training in PyTorch; with --run, run it here (PARTS of test check
                             bench rmm torch record)
  loom                       the small concurrent kernels under the model checker (part of `test`)
  mutants                    leave out each wait of ordered reuse, and each line that keeps a rule of Metal's, in turn;
                             a test must notice (part of `test`)
  sanitize [address|thread] [-- ARGS]
                             the memory manager's tests under a sanitizer; needs the nightly toolchain
  fuzz [TARGET] [--seconds N]
                             fuzz the allocator, the readers of traces, and the configurations that a backend in
                             Triton receives; needs the nightly toolchain
  help                       print this text

Downloads (Python packages, models, the onnxruntime library) are pinned in requirements/ and kept under
target/weldpool; a second run downloads nothing.

Environment:
  WELDPOOL_PYTHON            the Python to build the virtual environment with (default: the first suitable one)
  CARGO_TARGET_DIR           where builds and downloads go (default: target)
";

fn main() -> ExitCode {
    match run(Arguments::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<()> {
    let command = arguments.positional().unwrap_or_else(|| "help".to_owned());
    if matches!(command.as_str(), "help" | "--help" | "-h") || arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let paths = Paths::discover()?;
    match command.as_str() {
        "demo" => demo::run(&paths, arguments),
        "triton-demo" => triton::demo(&paths, arguments),
        "test" => test::run(&paths, arguments),
        "check" => check::run(&paths, arguments),
        "darwin" => darwin::run(&paths, arguments),
        "bench" => bench::run(&paths, arguments),
        "header" => header::run(&paths, arguments),
        "install-c" => install_c::run(&paths, arguments),
        "gpu" => gpu::run(&paths, arguments),
        "loom" => loom::run(&paths, arguments),
        "mutants" => mutants::run(&paths, arguments),
        "sanitize" => sanitize::run(&paths, arguments),
        "fuzz" => fuzz::run(&paths, arguments),
        other => Err(Failure::new(format!("there is no command `{other}`"))
            .hint("run `cargo xtask help` for the list")),
    }
}
