//! `cargo xtask darwin`: the workspace for macOS, as far as this machine can tell.

use crate::arguments::Arguments;
use crate::error::Result;
use crate::paths::Paths;
use crate::process::Run;
use crate::progress::Steps;
use crate::toolchain::{TARGETS, Toolchain};
use crate::zig::{self, Zig};

/// Some of what libweldpool has to export for macOS, one of each of its parts.
const LIBRARY_EXPORTS: [&str; 12] = [
    "_weldpool_abi_version",
    "_weldpool_allocator_create",
    "_weldpool_allocator_on_pressure",
    "_weldpool_allocator_stats",
    "_weldpool_buffer_write",
    "_weldpool_device_open",
    "_weldpool_error_message",
    "_weldpool_last_error",
    "_weldpool_queue_adopt_cuda",
    "_weldpool_queue_before_external_submit",
    "_weldpool_strategy_create",
    "_weldpool_trace_replay",
];

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let no_link = arguments.flag("--no-link");
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    let toolchain = Toolchain::find(&mut steps)?;
    // A Mac has its own C compiler, and links the program in its ordinary build.
    let zig = match cfg!(target_os = "macos") {
        true => None,
        false => Some(Zig::prepare(paths, &mut steps, &TARGETS)?),
    };
    // Apart from the ordinary target directory, so that neither build makes the other start over.
    let target_directory = paths.cache().join("darwin").join("target");
    let cargo = |subcommand, target| -> Run {
        toolchain
            .cargo(subcommand, target)
            .arg("--target-dir")
            .arg(&target_directory)
            .directory(paths.root())
    };
    let check_with = toolchain.check();
    for target in TARGETS {
        let mut check = cargo(check_with, target)
            .args(["--workspace", "--all-targets"])
            // What only a Mac compiles, only this sees.
            .env("RUSTFLAGS", "-D warnings");
        if let Some(zig) = &zig {
            check = zig.compile(check, target);
        }
        steps.log(&format!("{check_with} {target}"), check)?;
    }
    if let Some(zig) = zig.filter(|_| !no_link) {
        let target = TARGETS[0];
        let build = cargo("build", target).args([
            "--package",
            "weldpool-cli",
            "--package",
            "weldpool-capi",
            "--package",
            "weldpool-triton",
        ]);
        steps.log(
            &format!("link weldpool, libweldpool and the Triton backend for {target}"),
            zig.link(build, target),
        )?;
        let built = target_directory.join(target).join("debug");
        zig::check_file(&built.join("weldpool"), zig::Linked::Program, "_main")?;
        let library = built.join("libweldpool.dylib");
        for symbol in LIBRARY_EXPORTS {
            zig::check_file(&library, zig::Linked::Library, symbol)?;
        }
        // No Triton for macOS would load it; it shows that nothing in it stands in the way.
        let backend = built.join("libtriton_metal_mps.dylib");
        let exported = "_TRITONBACKEND_ModelInstanceExecute";
        zig::check_file(&backend, zig::Linked::Library, exported)?;
    }
    steps.done("darwin");
    Ok(())
}
