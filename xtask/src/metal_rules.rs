//! The rules of Metal that docs/metal.md lists: that the lines and tests it names are there, and no rule of the model is
//! left out.

use std::fs;
use std::path::Path;

use crate::error::{Failure, Result};

const PAGE: &str = "docs/metal.md";
/// Where the rules that the model enforces are named, those of Metal's with `Metal:` in their first line.
const RULES: &str = "crates/weldpool/src/device/fake/violation.rs";
/// First cell of the table.
const HEAD: &str = "| Rule |";

/// Checks the page.
pub(crate) fn check(root: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = root.join(name);
        fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))
    };
    let page = read(PAGE)?;
    let rows = rows(&page);
    let mut wrong = Vec::new();
    if rows.is_empty() {
        wrong.push(format!("there is no table that begins with {HEAD:?}"));
    }
    for row in &rows {
        wrong.extend(row.wrong(&|name| read(name).ok()));
    }
    let first_cells: String = rows.iter().map(|row| row.rule.as_str()).collect();
    for rule in model_rules(&read(RULES)?) {
        if !first_cells.contains(&format!("`{rule}`")) {
            wrong.push(format!("the model's rule {rule} is in no row"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{PAGE}: {}", wrong.join("\n  "))))
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    rule: String,
    source: String,
    kept: String,
    caught: String,
}

fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        if line.starts_with(HEAD) {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if in_table && !line.starts_with("|---") {
            let line = line.trim().trim_start_matches('|').trim_end_matches('|');
            let mut cells = line.split(" | ").map(|cell| cell.trim().to_owned());
            let mut next = || cells.next().unwrap_or_default();
            rows.push(Row {
                rule: next(),
                source: next(),
                kept: next(),
                caught: next(),
            });
        }
    }
    rows
}

impl Row {
    /// What is wrong with it; `read` gives the text of a file of the repository.
    fn wrong(&self, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut say = |what: String| wrong.push(format!("{:?}: {what}", self.rule));
        if self.source.is_empty() {
            say("no source".into());
        }
        let kept = named(&self.kept);
        let caught = named(&self.caught);
        for (cell, names) in [("line", &kept), ("test", &caught)] {
            if names.is_empty() {
                say(format!("no {cell} is named"));
            }
        }
        for (file, text) in &kept {
            match read(file) {
                None => say(format!("there is no {file}")),
                Some(source) if !source.contains(text.as_str()) => {
                    say(format!("{file} has no {text:?}"));
                }
                Some(_) => {}
            }
        }
        for (file, test) in &caught {
            let is_there = read(file).is_some_and(|source| {
                source.contains(&format!("fn {test}(")) || source.contains(&format!("fn {test}<"))
            });
            if !is_there {
                say(format!("{file} has no function {test}"));
            }
        }
        wrong
    }
}

/// Files with what is named of them: each code span belongs to the link before it.
fn named(cell: &str) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let mut file = String::new();
    let mut rest = cell;
    while let Some(at) = rest.find(['`', '(']) {
        let (open, behind) = (&rest[at..=at], &rest[at + 1..]);
        let close = if open == "`" { '`' } else { ')' };
        let Some(end) = behind.find(close) else {
            break;
        };
        let inside = &behind[..end];
        match open {
            "(" => {
                if let Some(path) = inside.strip_prefix("../") {
                    path.clone_into(&mut file);
                }
            }
            _ => names.push((file.clone(), inside.to_owned())),
        }
        rest = &behind[end + 1..];
    }
    names
}

/// The names of the rules that are Metal's.
fn model_rules(source: &str) -> Vec<String> {
    let mut rules = Vec::new();
    let mut is_metal = false;
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            is_metal |= comment.trim().starts_with("Metal:");
        } else {
            if is_metal && line.ends_with(',') {
                rules.push(line.trim_end_matches(',').to_owned());
            }
            is_metal = false;
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
text
| Rule | Source | Kept by | Caught by |
|---|---|---|---|
| one `A` | its page | [x.rs](../src/x.rs) `let a = f(1)` | [t.rs](../src/t.rs) `first`, `second` |

| Other | table |
";

    fn wrong(x: &str, t: &str) -> Vec<String> {
        let read = |name: &str| match name {
            "src/x.rs" => Some(x.to_owned()),
            "src/t.rs" => Some(t.to_owned()),
            _ => None,
        };
        let rows = rows(TABLE);
        assert_eq!(rows.len(), 1);
        rows[0].wrong(&read)
    }

    #[test]
    fn lines_and_tests_have_to_be_there() {
        let tests = "fn first() {}\nfn second() {}";
        assert_eq!(wrong("  let a = f(1);", tests), [""; 0]);
        assert_eq!(wrong("let a = f(2);", tests).len(), 1);
        assert_eq!(wrong("let a = f(1)", "fn first() {}").len(), 1);
        assert_eq!(wrong("", "").len(), 3);
    }

    #[test]
    fn rules_of_metal_are_told_from_others() {
        let source = "
    /// Sizes.
    Sizes,
    /// Metal: order
    /// of passes.
    Ordered,
    /// Metal: with a body
    Body { a: u8 },
";
        assert_eq!(model_rules(source), ["Ordered", "Body { a: u8 }"]);
    }
}
