//! Python environments with pinned packages, made once.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::paths::{self, Paths};
use crate::process::Run;
use crate::progress::Steps;

/// Minor versions of Python 3 for which every pinned package has a wheel; requirements/runtime.txt says where.
const MINOR_MIN: u32 = if cfg!(target_os = "macos") { 12 } else { 11 };
const MINOR_MAX: u32 = 14;

const CANDIDATES: [&str; 5] = [
    "python3",
    "python3.14",
    "python3.13",
    "python3.12",
    "python3.11",
];

/// One file of requirements/ and how pip treats it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirements {
    pub(crate) file: &'static str,
    pub(crate) options: &'static [&'static str],
}

/// A virtual environment that is ready.
#[derive(Debug)]
pub(crate) struct Venv {
    directory: PathBuf,
}

impl Venv {
    pub(crate) fn python(&self) -> PathBuf {
        self.directory.join("bin").join("python")
    }

    /// Where the packages lie.
    pub(crate) fn site_packages(&self) -> Result<PathBuf> {
        let lib = self.directory.join("lib");
        let entries = fs::read_dir(&lib).map_err(|error| Failure::file("read", &lib, &error))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")))
            .find(|path| path.is_dir())
            .ok_or_else(|| {
                Failure::new(format!("there is no site-packages below {}", lib.display()))
                    .hint(format!("remove {} and run again", self.directory.display()))
            })
    }
}

/// Returns the environment `name` with exactly the packages of `requirements`, making it anew when they changed.
pub(crate) fn ensure(
    paths: &Paths,
    steps: &mut Steps,
    name: &str,
    requirements: &[Requirements],
) -> Result<Venv> {
    let venv = Venv {
        directory: paths.cache().join(name),
    };
    // Written last, so an interrupted installation starts over. It holds what was installed, word for word.
    let marker = venv.directory.join("installed.txt");
    let mut wanted = String::new();
    for set in requirements {
        wanted += &paths::read(&paths.requirements(set.file))?;
    }
    if venv.python().exists() && fs::read_to_string(&marker).is_ok_and(|have| have == wanted) {
        return Ok(venv);
    }
    let base = find()?;
    paths::remove_directory(&venv.directory)?;
    steps.log(
        &format!("create the Python environment {name}"),
        Run::new(base).args(["-m", "venv"]).arg(&venv.directory),
    )?;
    for set in requirements {
        steps.log(
            &format!("install requirements {}", set.file),
            install(paths, &venv, set),
        )?;
    }
    paths::write(&marker, &wanted)?;
    Ok(venv)
}

fn install(paths: &Paths, venv: &Venv, set: &Requirements) -> Run {
    Run::new(venv.python())
        .args([
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
        ])
        // The files list everything, so nothing else may come in; and nothing is compiled here.
        .args(["--no-deps", "--only-binary", ":all:"])
        .arg("--cache-dir")
        .arg(paths.cache().join("pip"))
        .args(set.options)
        .arg("-r")
        .arg(paths.requirements(set.file))
}

/// Finds a Python that can make the environment.
pub(crate) fn find() -> Result<OsString> {
    let candidates = match env::var_os("WELDPOOL_PYTHON") {
        Some(named) => vec![named],
        None => CANDIDATES.map(OsString::from).to_vec(),
    };
    let mut rejected = Vec::new();
    for candidate in candidates {
        match probe(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(reason) => rejected.push(format!("{}: {reason}", Path::new(&candidate).display())),
        }
    }
    Err(Failure::new(format!(
        "no suitable Python; needed is 3.{MINOR_MIN} to 3.{MINOR_MAX} with the modules venv and pip\n  {}",
        rejected.join("\n  ")
    ))
    .hint(
        "install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install \
         python@3.13) or name it in WELDPOOL_PYTHON",
    ))
}

/// Says why a Python will not do.
fn probe(python: &OsStr) -> std::result::Result<(), String> {
    let ask = |code: &str| Run::new(python).args(["-c", code]).output();
    let version = ask("import sys; print(sys.version_info[0], sys.version_info[1])")
        .map_err(|_| "not found or does not run".to_owned())?;
    check_version(&version)?;
    ask("import venv, ensurepip").map_err(|_| {
        "has no module venv or ensurepip (Debian, Ubuntu: apt-get install python3-venv)".to_owned()
    })?;
    Ok(())
}

fn check_version(printed: &str) -> std::result::Result<(), String> {
    let numbers: Vec<u32> = printed
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [3, minor] if (MINOR_MIN..=MINOR_MAX).contains(&minor) => Ok(()),
        [major, minor] => Err(format!("is Python {major}.{minor}")),
        _ => Err("does not tell its version".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_the_range_are_rejected_by_name() {
        assert_eq!(check_version(&format!("3 {MINOR_MIN}\n")), Ok(()));
        assert_eq!(check_version(&format!("3 {MINOR_MAX}\n")), Ok(()));
        assert_eq!(check_version("3 9\n"), Err("is Python 3.9".to_owned()));
        assert_eq!(check_version("3 15\n"), Err("is Python 3.15".to_owned()));
        assert_eq!(check_version("2 7\n"), Err("is Python 2.7".to_owned()));
        assert!(check_version("").is_err());
    }

    #[test]
    fn a_program_that_is_no_python_is_rejected() {
        assert!(probe(OsStr::new("weldpool-no-such-program")).is_err());
    }

    #[test]
    fn every_requirement_is_pinned() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../requirements");
        let mut loose = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            for line in paths::read(&path).unwrap().lines() {
                let requirement = line.trim();
                if !requirement.is_empty()
                    && !requirement.starts_with('#')
                    && !requirement.contains("==")
                {
                    loose.push(format!("{}: {requirement}", path.display()));
                }
            }
        }
        assert!(loose.is_empty(), "{loose:#?}");
    }
}
