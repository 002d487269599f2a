//! The rules of Metal that docs/metal.md lists, and the tests that notice when the line that keeps one is taken away.

use super::build::{Built, Outcome, Program};
use crate::error::{Failure, Result};
use crate::metal_rules::{self, MUTATIONS, Mutation};
use crate::paths::Paths;
use crate::progress::Steps;

/// Runs the tests that the page names without any mutation, then those of each mutation's rule until one notices.
pub(super) fn check(paths: &Paths, built: &Built, steps: &mut Steps) -> Result<()> {
    metal_rules::check(paths.root())?;
    let mut cases = Vec::new();
    for mutation in MUTATIONS {
        let mut tests = Vec::new();
        for (file, function) in metal_rules::tests_of(paths.root(), mutation)? {
            tests.extend(built.find(&file, &function)?);
        }
        cases.push((mutation, tests));
    }
    steps.work("run the tests that docs/metal.md names", || {
        for program in [Program::Lib, Program::It] {
            let tests = cases.iter().flat_map(|(_, tests)| tests);
            let tests = tests.filter(|test| test.0 == program);
            let tests: Vec<String> = tests.map(|test| test.1.clone()).collect();
            built.all_pass(program, &tests)?;
        }
        Ok(())
    })?;
    steps.work("take away what keeps each rule of Metal", || {
        let unseen = cases.iter().map(|(mutation, tests)| {
            let noticed = notice(built, mutation, tests)?;
            Ok((!noticed).then(|| unnoticed(mutation, tests)))
        });
        let unseen = unseen.collect::<Result<Vec<Option<String>>>>()?;
        let unseen: Vec<String> = unseen.into_iter().flatten().collect();
        if unseen.is_empty() {
            return Ok(());
        }
        Err(Failure::new(unseen.join("\n")).hint(
            "name a test in the row that fails then, or write one; the mutations are in \
             xtask/src/metal_rules/mutations.rs",
        ))
    })
}

/// Whether one of the tests notices; says which.
fn notice(built: &Built, mutation: &Mutation, tests: &[(Program, String)]) -> Result<bool> {
    for (program, test) in tests {
        let outcome = built.run(*program, test, mutation.name)?;
        if outcome != Outcome::Passed {
            eprintln!("  {}: {}: {test} {outcome}", mutation.rule, mutation.name);
            return Ok(true);
        }
    }
    Ok(false)
}

fn unnoticed(mutation: &Mutation, tests: &[(Program, String)]) -> String {
    let tests: Vec<&str> = tests.iter().map(|test| test.1.as_str()).collect();
    format!(
        "{}: {}, and no test that docs/metal.md names fails: {}",
        mutation.rule,
        mutation.name,
        tests.join(", ")
    )
}
