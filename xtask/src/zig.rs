//! Compiles C and links Mach-O programs on Linux: zig, with text stubs for the libraries that only a Mac has.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::paths::{self, Paths};
use crate::process::Run;
use crate::progress::Steps;
use crate::python::{self, Requirements};

const FRAMEWORKS: [&str; 6] = [
    "CoreFoundation",
    "CoreGraphics",
    "Foundation",
    "Metal",
    "MetalPerformanceShaders",
    "MetalPerformanceShadersGraph",
];
const LIBRARIES: [&str; 2] = ["libiconv", "libobjc"];
const REQUIREMENTS: [Requirements; 1] = [Requirements {
    file: "darwin.txt",
    options: &[],
}];

/// Start of every 64-bit Mach-O file for arm64: magic number and processor type, little-endian.
const MACH_O_ARM64: [u8; 8] = [0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0x00, 0x00, 0x01];

/// Where the header says what kind of file it is, and the kinds (`mach-o/loader.h`).
const FILE_TYPE_AT: usize = 12;
const MH_EXECUTE: u32 = 2;
const MH_DYLIB: u32 = 6;

/// What cargo needs to build for macOS.
#[derive(Debug)]
pub(crate) struct Zig {
    directory: PathBuf,
}

impl Zig {
    /// Fetches zig; writes the programs that call it and the stubs.
    pub(crate) fn prepare(paths: &Paths, steps: &mut Steps, targets: &[&str]) -> Result<Self> {
        let venv = python::ensure(paths, steps, "darwin-venv", &REQUIREMENTS)?;
        let zig = Self {
            directory: paths.cache().join("darwin"),
        };
        paths::create_directory(&zig.directory)?;
        for target in targets {
            write_program(
                &zig.compiler(target),
                &compiler_script(&venv.python(), target),
            )?;
        }
        write_program(&zig.archiver(), &archiver_script(&venv.python()))?;
        zig.write_stubs()?;
        Ok(zig)
    }

    /// Lets build scripts of a cargo command compile C for the target.
    pub(crate) fn compile(&self, run: Run, target: &str) -> Run {
        let cache = self.directory.join("zig-cache");
        run.env(&format!("CC_{target}"), self.compiler(target))
            .env(&format!("AR_{target}"), self.archiver())
            .env("ZIG_GLOBAL_CACHE_DIR", &cache)
            .env("ZIG_LOCAL_CACHE_DIR", &cache)
    }

    /// Lets a cargo command link for the target, too.
    pub(crate) fn link(&self, run: Run, target: &str) -> Run {
        let linker = format!(
            "CARGO_TARGET_{}_LINKER",
            target.replace('-', "_").to_uppercase()
        );
        let stubs = self.stubs();
        // The stubs name no symbols: what they would define is looked up when the program starts on a Mac.
        let flags = [
            format!("-F{}", stubs.display()),
            format!("-L{}", stubs.display()),
            "-Wl,-undefined,dynamic_lookup".to_owned(),
        ]
        .map(|flag| format!("-Clink-arg={flag}"));
        self.compile(run, target)
            .env(&linker, self.compiler(target))
            // Separated by a character that no path contains.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
    }

    fn compiler(&self, target: &str) -> PathBuf {
        self.directory.join(format!("cc-{target}"))
    }

    fn archiver(&self) -> PathBuf {
        self.directory.join("ar")
    }

    fn stubs(&self) -> PathBuf {
        self.directory.join("stubs")
    }

    fn write_stubs(&self) -> Result<()> {
        for name in FRAMEWORKS {
            let directory = self.stubs().join(format!("{name}.framework"));
            let install = format!("/System/Library/Frameworks/{name}.framework/Versions/A/{name}");
            paths::create_directory(&directory)?;
            paths::write(&directory.join(format!("{name}.tbd")), &stub(&install))?;
        }
        for name in LIBRARIES {
            let install = format!("/usr/lib/{name}.dylib");
            paths::write(&self.stubs().join(format!("{name}.tbd")), &stub(&install))?;
        }
        Ok(())
    }
}

/// A library as far as a linker has to know it.
fn stub(install_name: &str) -> String {
    format!(
        "--- !tapi-tbd\n\
         tbd-version: 4\n\
         targets: [ arm64-macos, x86_64-macos ]\n\
         install-name: '{install_name}'\n\
         exports:\n  - targets: [ arm64-macos, x86_64-macos ]\n    symbols: [ _weldpool_stub ]\n\
         ...\n"
    )
}

/// A C compiler and linker for the target. Left out are the options that name Apple's target in Apple's way, since zig
/// has its own, and the list of exported symbols, which zig does not know and a program does not need.
fn compiler_script(python: &Path, target: &str) -> String {
    let processor = target.split('-').next().unwrap_or(target);
    let python = python.display();
    format!(
        "#!/bin/sh\n\
         skip=\n\
         for argument do\n\
         \x20 shift\n\
         \x20 if [ -n \"$skip\" ]; then skip=; continue; fi\n\
         \x20 case \"$argument\" in\n\
         \x20   -arch|-Wl,-exported_symbols_list) skip=1 ;;\n\
         \x20   -mmacosx-version-min=*|-mmacos-version-min=*|--target=*|-Wl,-exported_symbols_list*) ;;\n\
         \x20   *) set -- \"$@\" \"$argument\" ;;\n\
         \x20 esac\n\
         done\n\
         exec '{python}' -m ziglang cc -target {processor}-macos \"$@\"\n"
    )
}

fn archiver_script(python: &Path) -> String {
    format!(
        "#!/bin/sh\nexec '{}' -m ziglang ar \"$@\"\n",
        python.display()
    )
}

fn write_program(path: &Path, script: &str) -> Result<()> {
    paths::write(path, script)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|error| Failure::file("make executable", path, &error))?;
    }
    Ok(())
}

/// What a linker makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    Program,
    Library,
}

/// Makes sure that a linked file is what was asked for, and names a symbol.
pub(crate) fn check_file(path: &Path, linked: Linked, symbol: &str) -> Result<()> {
    let bytes = fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
    let file_type = match linked {
        Linked::Program => MH_EXECUTE,
        Linked::Library => MH_DYLIB,
    };
    let found = bytes.get(FILE_TYPE_AT..FILE_TYPE_AT + 4);
    let is_named = bytes
        .windows(symbol.len())
        .any(|window| window == symbol.as_bytes());
    if bytes.starts_with(&MACH_O_ARM64) && found == Some(&file_type.to_le_bytes()) {
        if is_named {
            return Ok(());
        }
        return Err(Failure::new(format!(
            "{} has no symbol {symbol}",
            path.display()
        )));
    }
    Err(Failure::new(format!(
        "{} is no Mach-O file for arm64 of the kind {linked:?}",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_file_is_rejected() {
        let own = std::env::current_exe().unwrap();
        let is_arm_mac = cfg!(all(target_os = "macos", target_arch = "aarch64"));
        assert_eq!(
            check_file(&own, Linked::Program, "main").is_ok(),
            is_arm_mac
        );
        assert!(check_file(&own, Linked::Library, "main").is_err());
    }

    #[test]
    fn programs_and_libraries_are_told_apart() {
        let file = std::env::temp_dir().join(format!("weldpool-mach-o-{}", std::process::id()));
        let mut header = MACH_O_ARM64.to_vec();
        header.extend([0, 0, 0, 0]);
        header.extend(MH_DYLIB.to_le_bytes());
        header.extend(b"_name");
        fs::write(&file, header).unwrap();
        let checked =
            [Linked::Program, Linked::Library].map(|kind| check_file(&file, kind, "_name").is_ok());
        fs::remove_file(&file).unwrap();
        assert_eq!(checked, [false, true]);
    }

    #[cfg(unix)]
    #[test]
    fn the_compiler_drops_what_zig_does_not_take_and_keeps_the_rest() {
        let script = compiler_script(Path::new("printf"), "aarch64-apple-darwin")
            .replace("-m ziglang cc", "'<%s>'");
        let given = "-arch arm64 -mmacosx-version-min=11.0 -Wl,-exported_symbols_list,x \
                     -Wl,-exported_symbols_list -Wl,x -o c";
        let printed = Run::new("sh")
            .args(["-c", &script, "cc", "a b"])
            .args(given.split_whitespace())
            .output()
            .unwrap();
        assert_eq!(printed, "<-target><aarch64-macos><a b><-o><c>");
    }
}
