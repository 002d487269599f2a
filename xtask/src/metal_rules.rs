//! The rules of Metal that docs/metal.md lists: that the lines and tests it names are there, no rule of the model is left
//! out, and each line can be taken away by `cargo xtask mutants`.

mod mutations;

use std::collections::BTreeSet;
use std::path::Path;

use self::mutations::SWITCH;
use crate::error::{Failure, Result};
use crate::paths;

pub(crate) use self::mutations::{MUTATIONS, Mutation};

const PAGE: &str = "docs/metal.md";
/// Where the rules that the model enforces are named, those of Metal's with `Metal:` in their first line.
const RULES: &str = "crates/weldpool/src/device/fake/violation.rs";
/// First cell of the table.
const HEAD: &str = "| Rule |";

/// Where the files of mutations are.
const SOURCES: &str = "crates/weldpool/src/";
/// What is called on a Mac alone.
const ON_A_MAC: &str = "crates/weldpool/src/device/metal/raw/objc";
/// What a row says that only such lines keep.
const NOT_RUN: &str = "type-checked, not run";
/// The list of mutations.
const LIST: &str = "xtask/src/metal_rules/mutations.rs";

/// Checks the page.
pub(crate) fn check(root: &Path) -> Result<()> {
    let read = |name: &str| paths::read(&root.join(name));
    let rows = rows(&read(PAGE)?);
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
    for row in &rows {
        wrong.extend(row.without_mutation(MUTATIONS));
    }
    for mutation in MUTATIONS {
        wrong.extend(without_row(&rows, mutation));
    }
    let names: BTreeSet<&str> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
    if names.len() < MUTATIONS.len() {
        wrong.push("two mutations have one name".into());
    }
    for file in mutated_files() {
        let mutated = read(&file).and_then(|text| mutate(&file, text));
        wrong.extend(mutated.err().map(|failure| failure.to_string()));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{PAGE}: {}", wrong.join("\n  "))))
}

/// The tests that the row of a mutation names: files and functions.
pub(crate) fn tests_of(root: &Path, mutation: &Mutation) -> Result<Vec<(String, String)>> {
    let rows = rows(&paths::read(&root.join(PAGE))?);
    let row = rows.iter().find(|row| row.rule.contains(mutation.rule));
    Ok(row.map(|row| named(&row.caught)).unwrap_or_default())
}

/// The files that mutations change.
pub(crate) fn mutated_files() -> BTreeSet<String> {
    let files = MUTATIONS.iter().map(Mutation::path);
    files.collect()
}

/// A file with all mutations in it, each behind its switch.
pub(crate) fn mutate(file: &str, text: String) -> Result<String> {
    apply(file, text, MUTATIONS)
}

fn apply(file: &str, text: String, mutations: &[Mutation]) -> Result<String> {
    let mut of_file = mutations.iter().filter(|mutation| mutation.path() == file);
    of_file.try_fold(text, |text, mutation| {
        let times = text.matches(mutation.from).count();
        if times != 1 {
            return Err(Failure::new(format!(
                "the mutation {:?} of {LIST} replaces what {file} has {times} times instead of once: {:?}",
                mutation.name, mutation.from
            )));
        }
        let switch = format!("crate::mutation::is({:?})", mutation.name);
        Ok(text.replace(mutation.from, &mutation.to.replace(SWITCH, &switch)))
    })
}

/// What is wrong with the row that a mutation is of.
fn without_row(rows: &[Row], mutation: &Mutation) -> Option<String> {
    let name = mutation.name;
    if !mutation.to.contains(SWITCH) {
        return Some(format!("the mutation {name:?} of {LIST} has no {SWITCH}"));
    }
    let of_rule = rows.iter().filter(|row| row.rule.contains(mutation.rule));
    let of_rule: Vec<&Row> = of_rule.collect();
    match of_rule[..] {
        [row] => {
            let kept = named(&row.kept);
            let takes = kept.iter().any(|(file, text)| mutation.takes(file, text));
            (!takes).then(|| {
                format!(
                    "{:?}: the mutation {name:?} of {LIST} takes away nothing that it is kept by; name such a line, or \
                     remove the mutation",
                    row.rule
                )
            })
        }
        _ => Some(format!(
            "{} rows contain {:?}, the rule of the mutation {name:?} of {LIST}",
            of_rule.len(),
            mutation.rule
        )),
    }
}

impl Mutation {
    /// Its file, from the root of the repository on.
    fn path(&self) -> String {
        format!("{SOURCES}{}", self.file)
    }

    /// Whether it takes away a text of a file.
    fn takes(&self, file: &str, text: &str) -> bool {
        self.path() == file && self.from.contains(text)
    }
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
        let cells = [&self.rule, &self.source, &self.kept, &self.caught];
        if cells.iter().any(|cell| cell.contains('|')) {
            say("a bar ends a cell, also in a code span".into());
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

    /// The lines that no mutation takes away, though they run here.
    fn without_mutation(&self, mutations: &[Mutation]) -> Vec<String> {
        let kept = named(&self.kept);
        let mut runs = kept.iter().filter(|(file, _)| !file.starts_with(ON_A_MAC));
        if runs.clone().next().is_none() && !self.kept.contains(NOT_RUN) {
            return vec![format!(
                "{:?}: what keeps it is never run here, which the row has to say: {NOT_RUN:?}",
                self.rule
            )];
        }
        let own = mutations.iter().filter(|one| self.rule.contains(one.rule));
        let own: Vec<&Mutation> = own.collect();
        let taken = |file: &str, text: &str| own.iter().any(|one| one.takes(file, text));
        let mut wrong = Vec::new();
        for (file, text) in &mut runs {
            if !taken(file, text) {
                wrong.push(format!(
                    "{:?}: nothing takes away {text:?} of {file}, so nobody knows whether a test would notice; add a \
                     mutation of this rule to {LIST}, which replaces a text that contains it",
                    self.rule
                ));
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

    fn mutation(rule: &'static str, from: &'static str, to: &'static str) -> Mutation {
        Mutation {
            name: "one",
            rule,
            file: "x.rs",
            from,
            to,
        }
    }

    fn row(kept: &str) -> Row {
        Row {
            rule: "one `A`".into(),
            source: "its page".into(),
            kept: kept.into(),
            caught: String::new(),
        }
    }

    #[test]
    fn each_line_that_runs_has_a_mutation() {
        let kept = row("[x.rs](../crates/weldpool/src/x.rs) `f(1)` `g()`");
        let both = [mutation("`A`", "f(1);", ""), mutation("`A`", "g()", "")];
        assert_eq!(kept.without_mutation(&both), [""; 0]);
        assert_eq!(kept.without_mutation(&both[..1]).len(), 1);
        let other = [mutation("`B`", "f(1); g()", "")];
        assert_eq!(kept.without_mutation(&other).len(), 2);
        let silent = row("[objc.rs](../crates/weldpool/src/device/metal/raw/objc.rs) `f(1)`");
        assert_eq!(silent.without_mutation(&[]).len(), 1);
        let says = row(&format!("{} (type-checked, not run)", silent.kept));
        assert_eq!(says.without_mutation(&[]), [""; 0]);
    }

    #[test]
    fn each_mutation_takes_away_a_line_of_one_row() {
        let rows = [row("[x.rs](../crates/weldpool/src/x.rs) `f(1)`")];
        let wrong = |mutation| without_row(&rows, &mutation);
        assert_eq!(wrong(mutation("`A`", "f(1)", "if !MUTATED { f(1) }")), None);
        assert!(wrong(mutation("`A`", "f(2)", "MUTATED")).is_some());
        assert!(
            wrong(mutation("`A`", "f(1)", "f(2)")).is_some(),
            "no switch"
        );
        assert!(wrong(mutation("`B`", "f(1)", "MUTATED")).is_some());
    }

    #[test]
    fn what_is_replaced_is_there_once() {
        let path = "crates/weldpool/src/x.rs";
        let two = [
            mutation("", "f();", "if !MUTATED { f(); }"),
            mutation("", "f();", "if MUTATED { g(); } f();"),
        ];
        let is = "crate::mutation::is(\"one\")";
        assert_eq!(
            apply(path, "a f(); b".into(), &two).unwrap(),
            format!("a if !{is} {{ if {is} {{ g(); }} f(); }} b")
        );
        assert!(apply(path, "f(); f();".into(), &two).is_err());
        assert!(apply(path, String::new(), &two).is_err());
        assert_eq!(apply("y.rs", "f();".into(), &two).unwrap(), "f();");
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
