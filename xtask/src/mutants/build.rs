//! A copy of the library in which each mutation has a switch, and its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Failure, Result};
use crate::metal_rules;
use crate::paths::{self, Paths};
use crate::process::{Ended, Run};
use crate::progress::Steps;

/// What the library and its tests are built of.
const COPIED: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "docs",
    "crates/weldpool",
    "crates/weldpool-testkit",
];
/// The members of the workspace, and those of the copy.
const MEMBERS: (&str, &str) = (
    "members = [\"crates/*\", \"xtask\"]",
    "members = [\"crates/*\"]",
);
const LIBRARY: &str = "crates/weldpool/src/lib.rs";
/// Names the mutation that is on.
const VARIABLE: &str = "WELDPOOL_MUTATION";
/// What the switches ask.
const SWITCHES: &str = "
mod mutation {
    pub(crate) fn is(name: &str) -> bool {
        static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let read = || std::env::var(\"WELDPOOL_MUTATION\").unwrap_or_default();
        NAME.get_or_init(read) == name
    }
}
";
/// From then on a test counts as one that hangs.
const TEST_LIMIT: Duration = Duration::from_secs(60);
/// For many at once, without a mutation.
const TESTS_LIMIT: Duration = Duration::from_secs(600);
/// Where the cases of the device suite are written, which run as tests of `it` on each device.
const SUITE: &str = "crates/weldpool-testkit/src/device_suite/";
/// How the devices over the model of Metal are called there, by their beginning.
const SUITE_DEVICES: [&str; 4] = [
    "fake_apple",
    "fake_intel_mac",
    "fake_macos",
    "fake_paravirtual",
];

/// A program of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// Those in the library.
    Lib,
    /// `tests/it`.
    It,
}

impl Program {
    /// Where its modules are.
    const fn sources(self) -> &'static str {
        match self {
            Self::Lib => "crates/weldpool/src/",
            Self::It => "crates/weldpool/tests/it/",
        }
    }

    /// The root of its modules, as cargo names it.
    const fn root(self) -> &'static str {
        match self {
            Self::Lib => "src/lib.rs",
            Self::It => "tests/it/main.rs",
        }
    }
}

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Hung,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passes",
            Self::Failed => "fails",
            Self::Hung => "hangs",
        })
    }
}

/// The tests with the mutations in them.
#[derive(Debug)]
pub(super) struct Built {
    package: PathBuf,
    log: PathBuf,
    lib: Tests,
    it: Tests,
}

#[derive(Debug)]
struct Tests {
    program: PathBuf,
    names: Vec<String>,
}

impl Built {
    pub(super) fn new(paths: &Paths, steps: &mut Steps) -> Result<Self> {
        let copy = paths.cache().join("mutants");
        write_copy(paths.root(), &copy)?;
        let target = paths.variant("mutants");
        let build = Run::cargo()
            .directory(&copy)
            .args(["test", "--package", "weldpool", "--lib", "--test", "it"])
            .arg("--no-run")
            .compiled_with("--cfg weldpool_mutation", &target);
        let title = "build the tests with the mutations";
        steps.log(title, build)?;
        let log = steps.log_of(title);
        let built = paths::read(&log)?;
        let tests = |program: Program| {
            let path = executable(&built, program.root()).ok_or_else(|| {
                Failure::new(format!(
                    "{} says nothing of the tests in {}",
                    log.display(),
                    program.root()
                ))
            })?;
            // Cargo's paths are relative to where it ran.
            let program = copy.join(path);
            let names = list(&Run::new(&program).arg("--list").output()?);
            Ok(Tests { program, names })
        };
        Ok(Self {
            package: copy.join("crates/weldpool"),
            log: paths.logs().join("mutant.log"),
            lib: tests(Program::Lib)?,
            it: tests(Program::It)?,
        })
    }

    /// Whether a test is to be run; some are of Linux alone.
    pub(super) fn has(&self, program: Program, test: &str) -> bool {
        cfg!(target_os = "linux") || self.tests(program).names.iter().any(|name| name == test)
    }

    /// The tests that a function of a file is. On Linux there is one at least.
    pub(super) fn find(&self, file: &str, function: &str) -> Result<Vec<(Program, String)>> {
        let mut found = Vec::new();
        for program in [Program::Lib, Program::It] {
            let names = self.tests(program).names.iter();
            let names = names.filter(|name| is_in(program, file, function, name));
            found.extend(names.map(|name| (program, name.clone())));
        }
        if found.is_empty() && cfg!(target_os = "linux") {
            return Err(Failure::new(format!("{function} of {file} is no test")));
        }
        Ok(found)
    }

    /// Runs one test with a mutation on.
    pub(super) fn run(&self, program: Program, test: &str, mutation: &str) -> Result<Outcome> {
        let run = self.tests_run(program).arg(test).env(VARIABLE, mutation);
        Ok(match run.within(TEST_LIMIT, &self.log)? {
            Ended::Well => Outcome::Passed,
            Ended::Badly => Outcome::Failed,
            Ended::Killed => Outcome::Hung,
        })
    }

    /// Runs tests with no mutation on; all must pass.
    pub(super) fn all_pass(&self, program: Program, tests: &[String]) -> Result<()> {
        for test in tests {
            if !self.tests(program).names.contains(test) {
                return Err(Failure::new(format!("there is no test {test}")));
            }
        }
        let tests: BTreeSet<&String> = tests.iter().collect();
        if tests.is_empty() {
            return Ok(());
        }
        let run = self.tests_run(program).args(tests);
        match run.within(TESTS_LIMIT, &self.log)? {
            Ended::Well => Ok(()),
            Ended::Badly | Ended::Killed => Err(Failure::new("a test fails without a mutation")
                .hint(format!("what it said is in {}", self.log.display()))),
        }
    }

    fn tests(&self, program: Program) -> &Tests {
        match program {
            Program::Lib => &self.lib,
            Program::It => &self.it,
        }
    }

    fn tests_run(&self, program: Program) -> Run {
        Run::new(&self.tests(program).program)
            .directory(&self.package)
            .env_remove(VARIABLE)
            .arg("--exact")
    }
}

/// Whether a test is a function of a file.
fn is_in(program: Program, file: &str, function: &str, test: &str) -> bool {
    let Some(modules) = test.strip_suffix(function) else {
        return false;
    };
    let Some(modules) = modules.strip_suffix("::") else {
        return false;
    };
    if file.starts_with(SUITE) {
        return program == Program::It
            && !modules.contains("::")
            && SUITE_DEVICES.iter().any(|name| modules.starts_with(name));
    }
    let Some(inside) = file.strip_prefix(program.sources()) else {
        return false;
    };
    let path = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let path = path.replace('/', "::");
    modules
        .strip_prefix(&path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The program that cargo says it built of a root of modules.
fn executable<'a>(log: &'a str, root: &str) -> Option<&'a str> {
    let line = log.lines().find(|line| {
        let line = line.trim_start();
        line.starts_with("Executable") && line.contains(root)
    })?;
    line.trim_end()
        .strip_suffix(')')?
        .rsplit_once('(')
        .map(|two| two.1)
}

/// The names in what a program of tests lists.
fn list(listed: &str) -> Vec<String> {
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// Makes the copy what the sources are, with the mutations in it. What is so already stays, so that it is not built again.
fn write_copy(root: &Path, copy: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in COPIED {
        collect(root, Path::new(name), &mut files)?;
    }
    let mut change = |name: &str, change: &dyn Fn(String) -> Result<String>| {
        let file = files.get_mut(Path::new(name));
        let file = file.ok_or_else(|| Failure::new(format!("there is no {name}")))?;
        let text = String::from_utf8_lossy(file).into_owned();
        *file = change(text)?.into_bytes();
        Ok(())
    };
    change("Cargo.toml", &|text| {
        if !text.contains(MEMBERS.0) {
            return Err(Failure::new(format!("Cargo.toml has no {:?}", MEMBERS.0)));
        }
        Ok(text.replace(MEMBERS.0, MEMBERS.1))
    })?;
    change(LIBRARY, &|text| Ok(text + SWITCHES))?;
    for name in metal_rules::mutated_files() {
        change(&name, &|text| metal_rules::mutate(&name, text))?;
    }
    let mut there = BTreeMap::new();
    if copy.is_dir() {
        collect(copy, Path::new(""), &mut there)?;
    }
    for name in there.keys().filter(|name| !files.contains_key(*name)) {
        let path = copy.join(name);
        fs::remove_file(&path).map_err(|error| Failure::file("remove", &path, &error))?;
    }
    for (name, contents) in &files {
        if there.get(name) == Some(contents) {
            continue;
        }
        let path = copy.join(name);
        if let Some(folder) = path.parent() {
            paths::create_directory(folder)?;
        }
        fs::write(&path, contents).map_err(|error| Failure::file("write", &path, &error))?;
    }
    Ok(())
}

/// The files at and below a path, by their names from `root` on.
fn collect(root: &Path, name: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    let path = root.join(name);
    let failed = |error: std::io::Error| Failure::file("read", &path, &error);
    if !path.is_dir() {
        files.insert(name.to_owned(), fs::read(&path).map_err(failed)?);
        return Ok(());
    }
    for entry in fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        collect(root, &name.join(entry.file_name()), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_file_and_function() {
        let lib = |file, test| is_in(Program::Lib, file, "one", test);
        assert!(lib("crates/weldpool/src/a/b.rs", "a::b::tests::one"));
        assert!(lib("crates/weldpool/src/a/mod.rs", "a::tests::one"));
        assert!(lib("crates/weldpool/src/a/tests.rs", "a::tests::one"));
        assert!(!lib("crates/weldpool/src/a/b.rs", "a::bc::one"));
        assert!(!lib("crates/weldpool/src/a/b.rs", "a::b::not_one"));
        assert!(!lib("crates/weldpool/tests/it/a/b.rs", "a::b::one"));
        let it = |file, test| is_in(Program::It, file, "one", test);
        assert!(it("crates/weldpool/tests/it/fake/mod.rs", "fake::one"));
        let suite = "crates/weldpool-testkit/src/device_suite/queues.rs";
        assert!(it(suite, "fake_apple::one") && it(suite, "fake_apple_placement_sparse::one"));
        assert!(!it(suite, "fake_discrete::one") && !it(suite, "fake_apple::tests::one"));
    }

    #[test]
    fn programs_and_names_are_read_from_what_cargo_and_they_say() {
        let log = "    Finished `test` profile\n  Executable unittests src/lib.rs (/x/deps/weldpool-1)\n  \
                   Executable tests/it/main.rs (../builds/it-2)\n";
        assert_eq!(executable(log, "src/lib.rs"), Some("/x/deps/weldpool-1"));
        assert_eq!(executable(log, "tests/it/main.rs"), Some("../builds/it-2"));
        assert_eq!(executable(log, "tests/cuda/main.rs"), None);
        assert_eq!(list("a::b: test\nc: benchmark\n\n2 tests\n"), ["a::b"]);
    }

    #[test]
    fn the_copy_is_what_the_sources_are_and_old_files_go() {
        let root = std::env::temp_dir().join(format!("weldpool-xtask-copy-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            paths::create_directory(path.parent().unwrap()).unwrap();
            paths::write(&path, text).unwrap();
        };
        write("a/b/c", "1");
        write("a/d", "2");
        let mut files = BTreeMap::new();
        collect(&root, Path::new("a"), &mut files).unwrap();
        let names: Vec<_> = files
            .keys()
            .map(|name| name.display().to_string())
            .collect();
        assert_eq!(names, ["a/b/c", "a/d"]);
        assert!(collect(&root, Path::new("e"), &mut files).is_err());
        paths::remove_directory(&root).unwrap();
    }
}
