//! Finds the shared library of onnxruntime.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::raw::{Api, OLDEST_LIBRARY, OpenError};
use crate::env;
use crate::{Error, ErrorKind, Result};

/// How long the question to the Python interpreter may take.
const PYTHON_TIMEOUT: Duration = Duration::from_secs(5);

/// How many folders above the executable are searched for the cache.
const ANCESTORS_MAX: usize = 5;

/// How many entries of a folder are looked at.
const ENTRIES_MAX: usize = 10_000;

/// An opened library.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) api: Api,
    pub(super) path: PathBuf,
}

/// Opens the library at `explicit`, or the first suitable one of the search order.
pub(super) fn open(explicit: Option<&Path>) -> Result<Found> {
    if let Some(path) = explicit {
        return open_named(path, "the path given");
    }
    if let Some(path) = env::onnxruntime_library() {
        return open_named(&path, env::ORT_DYLIB_PATH);
    }
    let mut unsuitable = None;
    // One place after another: asking Python takes long and is rarely needed.
    let places: [fn() -> Vec<PathBuf>; 5] = [
        beside_executable,
        in_cache,
        in_virtual_environment,
        in_python,
        system_names,
    ];
    for candidate in places.iter().flat_map(|place| place()) {
        match Api::open(&candidate) {
            Ok(api) => {
                return Ok(Found {
                    api,
                    path: candidate,
                });
            }
            // A name that only the loader can resolve tells nothing by failing.
            Err(_) if candidate.parent() == Some(Path::new("")) => {}
            Err(error) => {
                tracing::debug!("{}: {error:?}", candidate.display());
                unsuitable.get_or_insert_with(|| refuse(&candidate, &error));
            }
        }
    }
    Err(unsuitable.unwrap_or_else(|| missing("the onnxruntime shared library was not found")))
}

/// Opens a library that the user named: there is no second choice.
fn open_named(path: &Path, named_by: &str) -> Result<Found> {
    let file = if path.is_dir() {
        libraries_in(path).into_iter().next()
    } else {
        path.exists().then(|| path.to_path_buf())
    };
    let Some(file) = file else {
        return Err(missing(&format!(
            "no onnxruntime shared library at {} ({named_by})",
            path.display()
        )));
    };
    match Api::open(&file) {
        Ok(api) => Ok(Found { api, path: file }),
        Err(error) => Err(refuse(&file, &error)),
    }
}

fn missing(what: &str) -> Error {
    Error::new(
        ErrorKind::LibraryMissing,
        format!(
            "{what}: install it with `pip install onnxruntime`, or set {} to {}",
            env::ORT_DYLIB_PATH,
            file_name()
        ),
    )
}

fn refuse(file: &Path, error: &OpenError) -> Error {
    let why = match error {
        OpenError::NotLoadable(reason) => format!("cannot be loaded: {reason}"),
        OpenError::NotOnnxRuntime => "is not an onnxruntime shared library".to_owned(),
        OpenError::TooOld(version) => {
            format!("is onnxruntime {version}, but {OLDEST_LIBRARY} or later is needed")
        }
    };
    Error::new(
        ErrorKind::LibraryUnsuitable,
        format!("{} {why}", file.display()),
    )
}

/// The library's file name without a version.
const fn file_name() -> &'static str {
    if cfg!(target_os = "windows") {
        "onnxruntime.dll"
    } else if cfg!(target_vendor = "apple") {
        "libonnxruntime.dylib"
    } else {
        "libonnxruntime.so"
    }
}

/// Whether this is the library's file name, with or without a version.
fn is_library(name: &str) -> bool {
    if name == file_name() {
        return true;
    }
    let version = if cfg!(target_os = "windows") {
        None
    } else if cfg!(target_vendor = "apple") {
        name.strip_prefix("libonnxruntime.")
            .and_then(|rest| rest.strip_suffix(".dylib"))
    } else {
        name.strip_prefix("libonnxruntime.so.")
    };
    version.is_some_and(|version| {
        !version.is_empty()
            && version
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// The library's files in a folder, newest version first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = entries(folder)
        .into_iter()
        .filter(|path| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(is_library)
        })
        .collect();
    newest_first(&mut found);
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| {
            entries
                .take(ENTRIES_MAX)
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .collect()
        })
        .unwrap_or_default()
}

/// Sorts paths by the numbers in their last part, greatest first, and then by name.
fn newest_first(paths: &mut [PathBuf]) {
    let key = |path: &PathBuf| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let numbers: Vec<u64> = name
            .split(|character: char| !character.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect();
        (numbers, name)
    };
    paths.sort_by_cached_key(|path| std::cmp::Reverse(key(path)));
}

fn executable_folders() -> Vec<PathBuf> {
    std::env::current_exe()
        .map(|exe| {
            exe.ancestors()
                .skip(1)
                .take(ANCESTORS_MAX)
                .map(Path::to_path_buf)
                .collect()
        })
        .unwrap_or_default()
}

fn beside_executable() -> Vec<PathBuf> {
    executable_folders()
        .first()
        .map(|folder| libraries_in(folder))
        .unwrap_or_default()
}

/// The cache of downloaded libraries: `weldpool/onnxruntime/<version>` in a folder above the
/// executable, which for a program built with cargo is the target folder.
fn in_cache() -> Vec<PathBuf> {
    executable_folders()
        .iter()
        .flat_map(|folder| {
            let mut versions = entries(&folder.join("weldpool").join("onnxruntime"));
            newest_first(&mut versions);
            versions
        })
        .flat_map(|version| {
            [
                version.clone(),
                version.join("lib"),
                version.join("onnxruntime").join("capi"),
            ]
        })
        .flat_map(|folder| libraries_in(&folder))
        .collect()
}

fn in_virtual_environment() -> Vec<PathBuf> {
    let Some(root) = env::virtual_environment() else {
        return Vec::new();
    };
    let mut pythons = entries(&root.join("lib"));
    newest_first(&mut pythons);
    pythons.insert(0, root.join("Lib"));
    pythons
        .iter()
        .flat_map(|python| {
            libraries_in(
                &python
                    .join("site-packages")
                    .join("onnxruntime")
                    .join("capi"),
            )
        })
        .collect()
}

/// The library in the package that the Python on the path would import. Asked once per process.
fn in_python() -> Vec<PathBuf> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    PACKAGE
        .get_or_init(|| {
            ["python3", "python"]
                .iter()
                .find_map(|python| ask_python(python))
        })
        .as_deref()
        .map(|package| libraries_in(&package.join("capi")))
        .unwrap_or_default()
}

/// Asks an interpreter where its onnxruntime package is, without importing it.
fn ask_python(python: &str) -> Option<PathBuf> {
    const QUESTION: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
         print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '')";
    let mut child = Command::new(python)
        .args(["-c", QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + PYTHON_TIMEOUT;
    // The answer is one path, which fits any pipe, so waiting before reading cannot block it.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            tracing::debug!("{python} took too long to say where onnxruntime is");
            // Nothing depends on how it ends; waiting only removes it from the process table.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let answer = child.wait_with_output().ok()?;
    let path = String::from_utf8(answer.stdout).ok()?;
    let path = path.trim();
    (answer.status.success() && !path.is_empty()).then(|| PathBuf::from(path))
}

fn system_names() -> Vec<PathBuf> {
    let mut names = vec![PathBuf::from(file_name())];
    if cfg!(all(unix, not(target_vendor = "apple"))) {
        names.push(PathBuf::from("libonnxruntime.so.1"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(unix, not(target_vendor = "apple")))]
    fn only_the_library_counts() {
        for (name, expected) in [
            ("libonnxruntime.so", true),
            ("libonnxruntime.so.1", true),
            ("libonnxruntime.so.1.31.1", true),
            ("libonnxruntime.so.", false),
            ("libonnxruntime.so.bak", false),
            ("libonnxruntime_providers_shared.so", false),
            ("onnxruntime.dll", false),
        ] {
            assert_eq!(is_library(name), expected, "{name}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        let mut paths: Vec<PathBuf> = ["1.9.1", "1.31.1", "1.17.0", "1.31.10"]
            .iter()
            .map(PathBuf::from)
            .collect();
        newest_first(&mut paths);
        let sorted: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(sorted, ["1.31.10", "1.31.1", "1.17.0", "1.9.1"]);
    }

    #[test]
    fn a_named_path_has_no_second_choice() {
        let error = open(Some(Path::new("/nonexistent/libonnxruntime.so"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LibraryMissing);
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent") && text.contains("pip install onnxruntime"),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
    }
}
