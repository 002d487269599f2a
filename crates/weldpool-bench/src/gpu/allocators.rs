//! The allocators in all cases, each in processes of its own.

use std::collections::BTreeMap;

use super::cases::Case;
use super::contender::Contender;
use super::{Options, build, worker};
use crate::alloc::Effort;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::report::{Report, Row, Verdict};

/// Measures every contender in the cases that are wanted, if there are any.
pub(super) fn measure(options: &Options, effort: Effort, report: &mut Report) -> Result<()> {
    let cases = Case::all(Machine::this().cores);
    if !cases.iter().any(|case| options.wants(&case.to_string())) {
        return Ok(());
    }
    let folder = tempfile::tempdir().map_err(|error| Error::io("making a directory", error))?;
    let mut values: BTreeMap<Contender, BTreeMap<String, f64>> = BTreeMap::new();
    for contender in Contender::ALL {
        eprintln!("{}", contender.name());
        let library = match contender.library() {
            None => None,
            Some(library) => {
                match build::library(library, folder.path(), options.wheels.as_deref()) {
                    Ok(path) => Some(path),
                    Err(error) => {
                        let missing = format!("{}: {error}", contender.name());
                        report.missing.push(missing);
                        continue;
                    }
                }
            }
        };
        match worker::run(contender, library.as_deref(), options, effort) {
            Ok(answers) => {
                let failed = answers.failed.iter();
                let failed = failed.map(|failed| format!("{}: {failed}", contender.name()));
                report.missing.extend(failed);
                if let Some(version) = answers.version {
                    report.versions.insert(contender.name().to_owned(), version);
                }
                values.insert(contender, answers.values);
            }
            Err(error) if contender == Contender::Ours => return Err(error),
            Err(error) => report
                .missing
                .push(format!("{}: {error}", contender.name())),
        }
    }
    let (rows, bars) = rows(&values, options);
    report.rows.extend(rows);
    report.bars.extend(bars);
    Ok(())
}

/// The rows in the order of the cases, and the bars that they are held against.
fn rows(
    values: &BTreeMap<Contender, BTreeMap<String, f64>>,
    options: &Options,
) -> (Vec<Row>, Vec<Verdict>) {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for case in Case::all(Machine::this().cores) {
        let name = case.to_string();
        if !options.wants(&name) {
            continue;
        }
        for figure in case.figures() {
            let key = figure.key(&name);
            let of = |contender: &Contender| values.get(contender)?.get(&key).copied();
            let peers = values
                .keys()
                .filter(|contender| contender.is_peer())
                .filter_map(|contender| Some((contender.name().to_owned(), of(contender)?)))
                .collect::<BTreeMap<_, _>>();
            let ours = of(&Contender::Ours);
            let row = Row::new(key.clone(), figure.unit, figure.better, ours, peers.clone());
            bars.extend(case.verdict(figure, &row, values));
            rows.push(row);
            for (contender, name) in [
                (Contender::Adopted, "adopted stream"),
                (Contender::Frugal, "frugal"),
            ] {
                if let Some(value) = of(&contender) {
                    let name = format!("{name}: {key}");
                    let peers = peers.clone();
                    rows.push(Row::new(
                        name,
                        figure.unit,
                        figure.better,
                        Some(value),
                        peers,
                    ));
                }
            }
        }
    }
    (rows, bars)
}
