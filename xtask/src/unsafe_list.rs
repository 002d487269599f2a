//! Unsafe code stands only in the files that `xtask/unsafe-files.txt` lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Failure, Result};
use crate::paths;
use crate::rust_source::has_keyword;

const LIST: &str = "xtask/unsafe-files.txt";
const ROOTS: [&str; 4] = ["crates", "xtask", "examples", "fuzz"];

/// Compares the list with the sources below `root`.
pub(crate) fn check(root: &Path) -> Result<()> {
    let allowed = parse(&paths::read(&root.join(LIST))?)?;
    let mut found = BTreeSet::new();
    for directory in ROOTS {
        let directory = root.join(directory);
        if directory.is_dir() {
            collect(root, &directory, &mut found)?;
        }
    }
    compare(&allowed, &found)
}

/// Reads `PATH: REASON` lines; `#` begins a comment line.
fn parse(list: &str) -> Result<BTreeSet<String>> {
    let mut allowed = BTreeSet::new();
    for line in list.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(": ") {
            Some((path, reason)) if !reason.trim().is_empty() => {
                if !allowed.insert(path.to_owned()) {
                    return Err(Failure::new(format!("{LIST} lists {path} twice")));
                }
            }
            _ => {
                return Err(Failure::new(format!("{LIST}: `{line}` gives no reason"))
                    .hint("write `PATH: REASON`"));
            }
        }
    }
    Ok(allowed)
}

/// Adds the Rust files with unsafe code below `directory`, named from `root` with slashes.
fn collect(root: &Path, directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let entries =
        fs::read_dir(directory).map_err(|error| Failure::file("read", directory, &error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| Failure::file("read", directory, &error))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(root, &path, found)?;
            }
        } else if name.ends_with(".rs") && has_keyword(&paths::read(&path)?, "unsafe") {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            found.insert(parts.join("/"));
        }
    }
    Ok(())
}

fn compare(allowed: &BTreeSet<String>, found: &BTreeSet<String>) -> Result<()> {
    let mut problems = Vec::new();
    for path in found.difference(allowed) {
        problems.push(format!("{path} has unsafe code and is not listed"));
    }
    for path in allowed.difference(found) {
        problems.push(format!(
            "{path} is listed and has no unsafe code, or is gone"
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{LIST} is not what the sources say\n  {}",
        problems.join("\n  ")
    ))
    .hint("move the code to a listed file, or change the list and say why in its reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn the_sources_match_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        if let Err(failure) = check(root) {
            panic!("{failure}");
        }
    }

    #[test]
    fn an_unlisted_and_a_stale_file_are_both_named() {
        let failure = compare(&set(&["a.rs", "b.rs"]), &set(&["b.rs", "c.rs"])).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("c.rs has unsafe code and is not listed"),
            "{text}"
        );
        assert!(
            text.contains("a.rs is listed and has no unsafe code"),
            "{text}"
        );
        assert!(!text.contains("b.rs"), "{text}");
        assert!(compare(&set(&["a.rs"]), &set(&["a.rs"])).is_ok());
    }

    #[test]
    fn files_are_found_in_directories_but_not_in_build_output() {
        let root =
            std::env::temp_dir().join(format!("weldpool-xtask-unsafe-{}", std::process::id()));
        for (path, source) in [
            ("crates/a/src/raw.rs", "unsafe fn f() {}"),
            ("crates/a/src/lib.rs", "// unsafe\nfn f() {}"),
            ("crates/a/target/x.rs", "unsafe fn f() {}"),
            ("crates/a/src/notes.txt", "unsafe"),
        ] {
            let path = root.join(path);
            paths::create_directory(path.parent().unwrap()).unwrap();
            paths::write(&path, source).unwrap();
        }
        let mut found = BTreeSet::new();
        collect(&root, &root.join("crates"), &mut found).unwrap();
        paths::remove_directory(&root).unwrap();
        assert_eq!(found, set(&["crates/a/src/raw.rs"]));
    }

    #[test]
    fn the_list_wants_reasons_and_no_repetition() {
        assert_eq!(
            parse("# comment\n\na.rs: driver calls\n").unwrap(),
            set(&["a.rs"])
        );
        assert!(parse("a.rs\n").is_err());
        assert!(parse("a.rs: \n").is_err());
        assert!(parse("a.rs: x\na.rs: y\n").is_err());
    }
}
