//! Packages of Debian.

use std::path::Path;

use crate::error::{Failure, Result};
use crate::process::Run;
use crate::progress::Steps;

/// Whether packages can be installed here: the system is Debian's and we are root.
pub(crate) fn can_install() -> bool {
    let is_root = || {
        Run::new("id")
            .arg("-u")
            .output()
            .is_ok_and(|id| id.trim() == "0")
    };
    is_debian() && is_root()
}

/// Whether the system has Debian's package manager.
pub(crate) fn is_debian() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

/// Installs packages without what they only recommend.
pub(crate) fn install(steps: &mut Steps, packages: &[&str]) -> Result<()> {
    update(steps)?;
    let install = apt_get().args(["install", "--yes", "--no-install-recommends"]);
    steps.log(
        &format!("install {}", packages.join(", ")),
        install.args(packages),
    )
}

/// Reads which packages there are.
pub(crate) fn update(steps: &mut Steps) -> Result<()> {
    steps.log("apt-get update", apt_get().arg("update"))
}

/// Downloads the package that another one stands for into a directory, and unpacks it there without
/// installing it.
pub(crate) fn unpack(steps: &mut Steps, meta: &str, directory: &Path) -> Result<()> {
    let depends = Run::new("apt-cache").args(["depends", "--important", meta]);
    let depends = depends.output()?;
    let package = first_dependency(&depends)
        .ok_or_else(|| Failure::new(format!("Debian's package {meta} depends on nothing")))?;
    let download = apt_get().args(["download", package]).directory(directory);
    steps.log(&format!("download {package}"), download)?;
    let unpack = Run::new("sh")
        .args([
            "-c",
            "dpkg-deb --extract \"$1\"_*.deb . && rm -- \"$1\"_*.deb",
            "sh",
            package,
        ])
        .directory(directory);
    steps.log(&format!("unpack {package}"), unpack)
}

fn apt_get() -> Run {
    Run::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive")
}

fn first_dependency(printed: &str) -> Option<&str> {
    printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_names_another() {
        let printed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n";
        assert_eq!(
            first_dependency(printed),
            Some("linux-image-6.1.0-1-cloud-amd64")
        );
        assert_eq!(first_dependency("busybox-static\n"), None);
    }
}
