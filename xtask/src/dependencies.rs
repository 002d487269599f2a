//! Crates depend on each other in one direction only: cli, server, config, engine, memory manager.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Failure, Result};
use crate::process::Run;

/// What one crate of the workspace may depend on, tests aside.
struct Rule {
    name: &'static str,
    /// Crates of the workspace that it may name.
    may_use: &'static [&'static str],
    /// Packages that must not reach it, however indirectly.
    never: &'static [&'static str],
}

/// Untyped errors stay in the program and the tools; libraries that others publish may use them inside.
const UNTYPED_ERRORS: &str = "anyhow";
const TYPED_ERRORS_IN: [&str; 6] = [
    "weldpool",
    "weldpool-config",
    "weldpool-engine",
    "weldpool-server",
    "weldpool-response-allocator",
    "weldpool-triton",
];

const RULES: [Rule; 12] = [
    Rule {
        name: "weldpool",
        may_use: &[],
        never: &[
            "tokio",
            "ort-sys",
            "prost",
            "httparse",
            "serde_json",
            "clap",
            "anyhow",
        ],
    },
    Rule {
        name: "weldpool-capi",
        may_use: &["weldpool", "weldpool-response-allocator"],
        never: &["tokio", "ort-sys", "prost", "httparse", "clap"],
    },
    Rule {
        name: "weldpool-engine",
        may_use: &["weldpool"],
        never: &["tokio", "prost", "httparse", "clap"],
    },
    Rule {
        name: "weldpool-config",
        may_use: &["weldpool-engine"],
        never: &["tokio", "httparse", "clap"],
    },
    Rule {
        name: "weldpool-triton-sys",
        may_use: &[],
        never: &["tokio", "prost", "httparse", "clap", "serde_json"],
    },
    Rule {
        name: "weldpool-response-allocator",
        may_use: &["weldpool", "weldpool-triton-sys"],
        never: &[
            "tokio",
            "ort-sys",
            "prost",
            "httparse",
            "clap",
            "serde_json",
        ],
    },
    Rule {
        name: "weldpool-triton",
        may_use: &[
            "weldpool",
            "weldpool-config",
            "weldpool-engine",
            "weldpool-triton-sys",
        ],
        never: &["tokio", "httparse", "clap"],
    },
    Rule {
        name: "weldpool-server",
        may_use: &["weldpool", "weldpool-config", "weldpool-engine"],
        never: &["clap"],
    },
    Rule {
        name: "weldpool-cli",
        // `weldpool doctor` runs the device suite.
        may_use: &[
            "weldpool",
            "weldpool-engine",
            "weldpool-server",
            "weldpool-testkit",
        ],
        never: &[],
    },
    Rule {
        name: "weldpool-testkit",
        may_use: &["weldpool", "weldpool-engine"],
        never: &["tokio"],
    },
    Rule {
        name: "weldpool-bench",
        may_use: &[
            "weldpool",
            "weldpool-engine",
            "weldpool-server",
            "weldpool-testkit",
        ],
        never: &[],
    },
    Rule {
        name: "xtask",
        may_use: &[],
        never: &[],
    },
];

/// One of each system; asking for all platforms would download packages that none of these needs.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"];

/// One line of `cargo tree --prefix depth`.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    depth: usize,
    package: &'a str,
}

/// Asks cargo for the dependencies of every crate of the workspace and applies the rules.
pub(crate) fn check(root: &Path) -> Result<()> {
    let members = members(root)?;
    let mut problems = unknown_members(&members);
    for rule in RULES.iter().filter(|rule| members.contains(rule.name)) {
        problems.extend(rule.violations(&parse(&tree(root, rule.name)?), &members));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("dependencies point the wrong way\n  {}", problems.join("\n  ")))
        .hint("the direction is cli -> server -> config -> engine -> weldpool; the rules stand in xtask/src/dependencies.rs"))
}

impl Rule {
    fn violations(&self, tree: &[Entry<'_>], members: &BTreeSet<String>) -> Vec<String> {
        let mut problems = BTreeSet::new();
        for entry in tree.iter().filter(|entry| entry.depth > 0) {
            let package = entry.package;
            if entry.depth == 1 && members.contains(package) && !self.may_use.contains(&package) {
                problems.insert(format!("{} depends on {package}", self.name));
            }
            if entry.depth == 1 && package == UNTYPED_ERRORS && TYPED_ERRORS_IN.contains(&self.name)
            {
                problems.insert(format!("{} depends on {package}", self.name));
            }
            if self.never.contains(&package) {
                problems.insert(format!("{} pulls in {package}", self.name));
            }
        }
        problems.into_iter().collect()
    }
}

fn unknown_members(members: &BTreeSet<String>) -> Vec<String> {
    let known = |name: &str| RULES.iter().any(|rule| rule.name == name);
    let unknown = members.iter().filter(|name| !known(name));
    unknown.map(|name| format!("{name} has no rule")).collect()
}

/// The crates of the workspace.
fn members(root: &Path) -> Result<BTreeSet<String>> {
    let text = cargo_tree(root)
        .args(["--workspace", "--depth", "0"])
        .output()?;
    Ok(parse(&text)
        .iter()
        .map(|entry| entry.package.to_owned())
        .collect())
}

/// What a crate and its build script depend on where it is meant to run; tests may depend on anything.
fn tree(root: &Path, package: &str) -> Result<String> {
    let mut run = cargo_tree(root).args(["--package", package, "--edges", "normal,build"]);
    for platform in PLATFORMS {
        run = run.args(["--target", platform]);
    }
    run.output()
}

fn cargo_tree(root: &Path) -> Run {
    Run::cargo()
        .directory(root)
        .args(["tree", "--quiet", "--prefix", "depth", "--format", " {p}"])
}

/// Reads lines like `1 bytes v1.2.0 (*)`.
fn parse(tree: &str) -> Vec<Entry<'_>> {
    let entry = |line: &'_ str| -> Option<(usize, usize)> {
        let digits = line.find(' ')?;
        let depth = line[..digits].parse().ok()?;
        Some((depth, digits + 1))
    };
    tree.lines()
        .filter_map(|line| {
            let (depth, start) = entry(line)?;
            Some(Entry {
                depth,
                package: line[start..].split_whitespace().next()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
0 weldpool-engine v0.1.0 (/somewhere/weldpool-engine)
1 half v2.7.1
2 bytemuck v1.24.0
1 weldpool v0.1.0 (/somewhere/weldpool)
2 tokio v1.48.0
1 weldpool-server v0.1.0 (/somewhere/weldpool-server)
2 half v2.7.1 (*)
";

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn rule(name: &str) -> &'static Rule {
        RULES.iter().find(|rule| rule.name == name).unwrap()
    }

    #[test]
    fn the_workspace_keeps_the_direction() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        if let Err(failure) = check(root) {
            panic!("{failure}");
        }
    }

    #[test]
    fn lines_are_read_with_their_depth() {
        let entries = parse(TREE);
        assert_eq!(entries.len(), 7);
        assert_eq!(
            entries[0],
            Entry {
                depth: 0,
                package: "weldpool-engine"
            }
        );
        assert_eq!(
            entries[6],
            Entry {
                depth: 2,
                package: "half"
            }
        );
    }

    #[test]
    fn an_arrow_that_points_back_and_a_forbidden_package_are_named() {
        let members = set(&["weldpool", "weldpool-engine", "weldpool-server"]);
        let problems = rule("weldpool-engine").violations(&parse(TREE), &members);
        assert_eq!(
            problems,
            [
                "weldpool-engine depends on weldpool-server",
                "weldpool-engine pulls in tokio"
            ]
        );
    }

    #[test]
    fn untyped_errors_are_named_when_a_library_uses_them_itself() {
        let members = set(&["weldpool-server"]);
        let direct = "0 weldpool-server v0.1.0\n1 anyhow v1.0.0\n";
        let inside = "0 weldpool-server v0.1.0\n1 prost v0.14.0\n2 anyhow v1.0.0\n";
        let problems = rule("weldpool-server").violations(&parse(direct), &members);
        assert_eq!(problems, ["weldpool-server depends on anyhow"]);
        assert!(
            rule("weldpool-server")
                .violations(&parse(inside), &members)
                .is_empty()
        );
        assert!(
            rule("weldpool-cli")
                .violations(&parse(direct), &members)
                .is_empty()
        );
    }

    #[test]
    fn a_tree_that_keeps_the_rule_has_no_problem() {
        let members = set(&["weldpool", "weldpool-engine", "weldpool-server"]);
        let tree = "0 weldpool-engine v0.1.0\n1 weldpool v0.1.0\n2 bytemuck v1.0.0\n";
        assert!(
            rule("weldpool-engine")
                .violations(&parse(tree), &members)
                .is_empty()
        );
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        assert_eq!(
            unknown_members(&set(&["weldpool", "weldpool-gui"])),
            ["weldpool-gui has no rule"]
        );
    }
}
