//! Compiles a peer's library on the machine that has the GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};

const HEADER: &str = include_str!("peers/peer.h");
const DRIVER: &str = include_str!("peers/driver.cu");
const RMM: &str = include_str!("peers/rmm.cpp");
const TORCH: &str = include_str!("peers/torch.cpp");

/// Where PyTorch's headers and libraries are, a line each.
const TORCH_FOLDERS: &str = "\
import torch, os
from torch.utils import cpp_extension
print(os.pathsep.join(cpp_extension.include_paths()))
print(os.path.join(os.path.dirname(torch.__file__), 'lib'))
print(int(torch._C._GLIBCXX_USE_CXX11_ABI))
";

/// The library of a peer, compiled unless it is there already.
///
/// # Errors
/// `Environment` when a compiler or what the peer consists of is missing, with the end of what the compiler said.
pub(super) fn library(name: &str, folder: &Path, wheels: Option<&Path>) -> Result<PathBuf> {
    let library = folder.join(format!("lib{name}.so"));
    if library.exists() {
        return Ok(library);
    }
    write(&folder.join("peer.h"), HEADER)?;
    let (file, source) = match name {
        "driver" => ("driver.cu", DRIVER),
        "rmm" => ("rmm.cu", RMM),
        _ => ("torch.cu", TORCH),
    };
    write(&folder.join(file), source)?;
    let mut nvcc = Command::new("nvcc");
    nvcc.current_dir(folder)
        .args([
            "-O2",
            "-std=c++20",
            "-shared",
            "-Xcompiler",
            "-fPIC",
            "--cudart",
            "shared",
            "-o",
        ])
        .arg(&library)
        .arg(file);
    match name {
        "driver" => {}
        "rmm" => {
            let wheels = wheels.ok_or_else(|| missing("no --wheels were given"))?;
            let part = |part: &str| wheels.join(part);
            nvcc.arg("-DLIBCUDACXX_ENABLE_EXPERIMENTAL_MEMORY_RESOURCE");
            for include in [
                "nvidia/cu13/include/cccl",
                "librmm/include",
                "rapids_logger/include",
            ] {
                nvcc.arg("-I").arg(part(include));
            }
            for library in ["librmm/lib64", "rapids_logger/lib64"] {
                let folder = part(library);
                nvcc.arg("-L").arg(&folder);
                nvcc.arg("-Xlinker")
                    .arg(format!("-rpath={}", folder.display()));
            }
            nvcc.args(["-lrmm", "-lrapids_logger"]);
        }
        _ => {
            let told = output(Command::new("python3").args(["-c", TORCH_FOLDERS]))?;
            let mut lines = told.lines();
            let (Some(includes), Some(libraries), Some(abi)) =
                (lines.next(), lines.next(), lines.next())
            else {
                return Err(missing("python3 did not say where PyTorch is"));
            };
            for include in std::env::split_paths(includes) {
                nvcc.arg("-I").arg(include);
            }
            nvcc.arg(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"));
            nvcc.args(["-L", libraries, "-Xlinker"])
                .arg(format!("-rpath={libraries}"));
            // The last sets the hooks that the allocator calls, so it is linked though nothing names it.
            nvcc.args([
                "-lc10",
                "-lc10_cuda",
                "-Xlinker",
                "--no-as-needed",
                "-ltorch_cpu",
                "-ltorch_cuda",
            ]);
        }
    }
    output(&mut nvcc)?;
    Ok(library)
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Environment, what)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::io("writing a peer's source", error))
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| {
        Error::caused(ErrorKind::Environment, format!("starting {name}"), error)
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.contains("error"))
        .take(6)
        .collect();
    Err(missing(&format!("{name} failed: {}", errors.join(" | "))))
}
