//! `cargo xtask install-c`: libweldpool, its headers and its pkg-config file, laid out as C and C++ programs expect it.

use std::fs;
use std::path::Path;

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::paths::{self, Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

/// Headers that are installed, in the crate's folder `include`.
const HEADERS: [&str; 3] = ["weldpool.h", "weldpool.hpp", "weldpool_resource.hpp"];
const STATIC: &str = "libweldpool.a";

/// What a program that links libweldpool.a needs besides: what `rustc --print native-static-libs` says of it.
const PRIVATE_LIBRARIES: &str = match cfg!(target_os = "macos") {
    false => "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc",
    true => "-framework Metal -framework Foundation -lobjc -liconv -lSystem -lc -lm",
};

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let prefix = arguments.value("--prefix")?.ok_or_else(|| {
        Failure::new("install-c needs a folder").hint("cargo xtask install-c --prefix DIR")
    })?;
    let profile = match arguments.flag("--debug") {
        true => Profile::Debug,
        false => Profile::Release,
    };
    arguments.finish_all()?;
    let prefix = std::path::absolute(&prefix)
        .map_err(|error| Failure::file("resolve", Path::new(&prefix), &error))?;
    let pkg_config = pkg_config(&prefix)?;
    let include = paths.root().join("crates/weldpool-capi/include");
    let names = Names::new(abi_version(&paths::read(&include.join(HEADERS[0]))?)?);

    let mut steps = Steps::new(paths.logs());
    steps.log("build libweldpool", build(paths, profile, &names))?;
    steps.work("lay it out", || {
        let [lib, pkgconfig, headers] =
            ["lib", "lib/pkgconfig", "include"].map(|name| prefix.join(name));
        for folder in [&lib, &pkgconfig, &headers] {
            paths::create_directory(folder)?;
        }
        copy(
            &paths.artifact(profile, &names.built),
            &lib.join(&names.real),
        )?;
        copy(&paths.artifact(profile, STATIC), &lib.join(STATIC))?;
        link(&names.real, &lib.join(&names.versioned))?;
        link(&names.versioned, &lib.join(&names.built))?;
        for header in HEADERS {
            copy(&include.join(header), &headers.join(header))?;
        }
        paths::write(&pkgconfig.join("weldpool.pc"), &pkg_config)
    })?;
    steps.done("install-c");
    Ok(())
}

/// Names of the shared library.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// As it is built, and looked for by linkers.
    built: String,
    /// As programs that were linked with it ask for it.
    versioned: String,
    /// The file.
    real: String,
    /// Gives it the second as its own.
    link_argument: String,
}

impl Names {
    fn new(abi: u32) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        match cfg!(target_os = "macos") {
            false => Self {
                built: "libweldpool.so".to_owned(),
                versioned: format!("libweldpool.so.{abi}"),
                real: format!("libweldpool.so.{abi}.{version}"),
                link_argument: format!("-Wl,-soname,libweldpool.so.{abi}"),
            },
            true => Self {
                built: "libweldpool.dylib".to_owned(),
                versioned: format!("libweldpool.{abi}.dylib"),
                real: format!("libweldpool.{abi}.{version}.dylib"),
                link_argument: format!("-Wl,-install_name,@rpath/libweldpool.{abi}.dylib"),
            },
        }
    }
}

/// The version of the binary interface that the header names.
fn abi_version(header: &str) -> Result<u32> {
    let lines = header.lines();
    let mut numbers = lines.filter_map(|line| line.strip_prefix("#define WELDPOOL_ABI_VERSION "));
    let number = numbers.next().and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| Failure::new("weldpool.h names no WELDPOOL_ABI_VERSION"))
}

fn build(paths: &Paths, profile: Profile, names: &Names) -> Run {
    let mut build =
        Run::cargo()
            .directory(paths.root())
            .args(["rustc", "--package", "weldpool-capi", "--lib"]);
    if profile == Profile::Release {
        build = build.arg("--release");
    }
    build.args(["--", "-C", &format!("link-arg={}", names.link_argument)])
}

/// Replaces a file, so that a program that has the old one mapped keeps it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| Failure::file("write", to, &error))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::file("replace", path, &error))
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> Result<()> {
    remove(path)?;
    std::os::unix::fs::symlink(target, path).map_err(|error| Failure::file("make", path, &error))
}

#[cfg(not(unix))]
fn link(_: &str, path: &Path) -> Result<()> {
    Err(Failure::new(format!(
        "{} would be a symbolic link",
        path.display()
    )))
}

fn pkg_config(prefix: &Path) -> Result<String> {
    let prefix = prefix
        .to_str()
        .filter(|prefix| !prefix.contains(['"', '\'', '\\', '$', '#']))
        .filter(|prefix| !prefix.contains(char::is_whitespace))
        .ok_or_else(|| {
            Failure::new(format!("pkg-config cannot name {}", prefix.display()))
                .hint("choose a folder without blanks and signs that it reads otherwise")
        })?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "prefix={prefix}\n\
         libdir=${{prefix}}/lib\n\
         includedir=${{prefix}}/include\n\
         \n\
         Name: weldpool\n\
         Description: Pools and unifies the memory of a GPU and its host\n\
         Version: {version}\n\
         Cflags: -I${{includedir}}\n\
         Libs: -L${{libdir}} -lweldpool\n\
         Libs.private: {PRIVATE_LIBRARIES}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_header_has_a_version() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let header = root.join("crates/weldpool-capi/include/weldpool.h");
        assert_eq!(abi_version(&paths::read(&header).unwrap()).unwrap(), 0);
        assert!(abi_version("#define WELDPOOL_ABI_VERSION x").is_err());
        assert!(abi_version("").is_err());
    }

    #[test]
    fn a_prefix_that_pkg_config_would_read_otherwise_is_refused() {
        for wrong in ["/opt/$HOME", "/opt/a b", "/opt/#1"] {
            assert!(pkg_config(Path::new(wrong)).is_err(), "{wrong}");
        }
        let text = pkg_config(Path::new("/opt/weldpool")).unwrap();
        assert!(text.starts_with("prefix=/opt/weldpool\n"), "{text}");
    }
}
