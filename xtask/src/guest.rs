//! A Linux of our own in an emulated machine, for limits of the system that this machine may not let us set.
//!
//! The kernel is Debian's, the root a few files in memory: one program, what it is linked with, and busybox. The
//! processor is emulated in software, which is slow and needs nothing of the machine around it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::debian;
use crate::error::{Failure, Result};
use crate::paths::{self, Paths};
use crate::process::Run;
use crate::progress::Steps;

const PACKAGES: [&str; 2] = ["qemu-system-x86", "busybox-static"];
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
/// Depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
const MEMORY_MIB: u32 = 1024;
/// A machine that hangs is ended after so many seconds.
const SECONDS_MAX: u32 = 1800;

/// Which interface the control groups of the machine have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlGroups {
    One,
    Two,
}

impl ControlGroups {
    /// What the kernel is told about them.
    fn parameter(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Two => "cgroup_no_v1=all",
        }
    }

    /// Commands that put the memory controller at `/sys/fs/cgroup`.
    fn mount(self) -> &'static str {
        match self {
            Self::One => "$b mount -t cgroup -o memory memory /sys/fs/cgroup",
            Self::Two => {
                "$b mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
                 echo +memory > /sys/fs/cgroup/cgroup.subtree_control"
            }
        }
    }
}

/// What a machine needs, in place.
#[derive(Debug)]
pub(crate) struct Guest {
    directory: PathBuf,
    kernel: PathBuf,
}

impl Guest {
    /// Finds the emulator and the kernel, or has Debian's packages bring them.
    pub(crate) fn prepare(paths: &Paths, steps: &mut Steps) -> Result<Self> {
        let directory = paths.cache().join("guest");
        let unpacked = directory.join("kernel");
        paths::create_directory(&unpacked)?;
        let programs_missing = [QEMU, BUSYBOX].iter().any(|file| !Path::new(file).exists());
        if programs_missing {
            if !debian::can_install() {
                return Err(missing());
            }
            debian::install(steps, &PACKAGES)?;
        }
        if kernel(&unpacked).is_none() {
            if !debian::is_debian() {
                return Err(missing());
            }
            if !programs_missing && debian::can_install() {
                debian::update(steps)?;
            }
            debian::unpack(steps, KERNEL, &unpacked)?;
        }
        let kernel = kernel(&unpacked).ok_or_else(|| {
            Failure::new(format!("there is no kernel in {}", unpacked.display()))
                .hint("remove the directory and try again")
        })?;
        Ok(Self { directory, kernel })
    }

    /// Boots, runs a program that writes to the file `/dev/ttyS1`, and returns what it wrote there.
    pub(crate) fn run(
        &self,
        steps: &mut Steps,
        program: &Path,
        arguments: &[String],
        groups: ControlGroups,
    ) -> Result<String> {
        let root = self.directory.join("root");
        paths::remove_directory(&root)?;
        for name in ["bin", "proc", "sys", "dev", "tmp"] {
            paths::create_directory(&root.join(name))?;
        }
        copy(Path::new(BUSYBOX), &root.join("bin/busybox"))?;
        for library in libraries(program)? {
            let inside = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &root.join(inside))?;
        }
        paths::write(&root.join("init"), &init(arguments, groups))?;
        let pack = "strip -o root/program \"$1\" && chmod +x root/init && cd root && \
                    find . | \"$2\" cpio -o -H newc > ../root.cpio";
        let pack = Run::new("sh")
            .args(["-ec", pack, "sh"])
            .arg(program)
            .arg(BUSYBOX)
            .directory(&self.directory);
        steps.log("pack the machine's root", pack)?;

        let written = self.directory.join("written");
        paths::write(&written, "")?;
        steps.show("the machine", self.machine(groups))?;
        let text = paths::read(&written)?;
        if text.is_empty() {
            return Err(Failure::new("the program in the machine wrote nothing")
                .hint("what it and the kernel said stands above"));
        }
        Ok(text)
    }

    fn machine(&self, groups: ControlGroups) -> Run {
        let parameters = format!("console=ttyS0 quiet panic=-1 psi=1 {}", groups.parameter());
        Run::new("timeout")
            .args(["--kill-after=10", &SECONDS_MAX.to_string(), QEMU])
            .args([
                "-no-user-config",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1",
            ])
            .args([
                "-m",
                &MEMORY_MIB.to_string(),
                "-initrd",
                "root.cpio",
                "-kernel",
            ])
            .arg(&self.kernel)
            .args(["-append", parameters.trim()])
            .args(["-serial", "stdio", "-serial", "file:written"])
            .directory(&self.directory)
    }
}

fn missing() -> Failure {
    let packages = PACKAGES.join(" and ");
    Failure::new("there is no emulator or no kernel to run in it").hint(format!(
        "on Debian, as root, they are installed: {packages}, and the kernel of {KERNEL}; with a control group of your \
         own elsewhere, `cargo xtask bench pressure -- --group DIRECTORY`"
    ))
}

/// The kernel in an unpacked package.
fn kernel(unpacked: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(unpacked.join("boot")).ok()?;
    files
        .flatten()
        .find(|file| file.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .map(|file| file.path())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        paths::create_directory(directory)?;
    }
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| Failure::file("copy", from, &error))
}

/// What a program is linked with, as ldd(1) tells.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let printed = Run::new("ldd").arg(program).output()?;
    Ok(files(&printed))
}

fn files(printed: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in printed.lines() {
        let file = line.split_whitespace().find(|word| word.starts_with('/'));
        files.extend(file.map(PathBuf::from));
    }
    files
}

/// The first process of the machine.
fn init(arguments: &[String], groups: ControlGroups) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mount -t proc proc /proc\n\
         $b mount -t sysfs sys /sys\n\
         $b mount -t devtmpfs dev /dev\n\
         $b mount -t tmpfs tmp /tmp\n\
         {}\n\
         $b stty -F /dev/ttyS1 raw\n\
         /program {}\n\
         $b poweroff -f\n",
        groups.mount(),
        arguments.join(" ")
    )
}

fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_files_that_are_named() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(files(printed), expected.map(PathBuf::from));
        assert!(files("\tstatically linked\n").is_empty());
    }

    #[test]
    fn the_first_process_quotes_what_it_passes_on() {
        let arguments = ["pressure".to_owned(), "it's two".to_owned()];
        let script = init(&arguments, ControlGroups::Two);
        assert!(
            script.contains("/program 'pressure' 'it'\\''s two'\n"),
            "{script}"
        );
        assert!(script.contains("subtree_control"), "{script}");
        assert!(init(&[], ControlGroups::One).contains("-o memory"));
    }
}
