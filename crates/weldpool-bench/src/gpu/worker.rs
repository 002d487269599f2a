//! One contender in all cases: what a child process does, and how it is asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::cases::Case;
use super::contender::Contender;
use super::ours::Ours;
use super::peer::Peer;
use super::{Options, traces};
use crate::alloc::heap::SharedHeap;
use crate::alloc::heaps::reference::Reference;
use crate::alloc::workloads::{self, Use};
use crate::alloc::{BATCH, Effort, MIX};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::Machine;
use crate::statistics::median;

/// What a line with a result starts with.
const MARK: &str = "figure ";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Figure(String, f64),
    Failed(String),
    Version(String),
}

/// What a worker said.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) values: BTreeMap<String, f64>,
    pub(super) failed: Vec<String>,
    pub(super) version: Option<String>,
}

/// Times that each trace is replayed; the median counts.
const REPLAYS: usize = 3;

/// Measures a contender in a process of its own. Each replay of a trace is done in one more, so that what a peer
/// still holds of another does not count.
pub(super) fn run(
    contender: Contender,
    library: Option<&Path>,
    options: &Options,
    effort: Effort,
) -> Result<Answers> {
    let mut answers = Answers::default();
    let cases: Vec<_> = Case::all(Machine::this().cores)
        .into_iter()
        .filter(|case| options.wants(&case.to_string()))
        .collect();
    if contender != Contender::Frugal {
        ask(contender, library, None, options, effort, &mut answers)?;
    }
    let traces = cases
        .iter()
        .filter(|case| matches!(case, Case::Trace(_)) && takes_traces(contender));
    for trace in traces {
        let name = trace.to_string();
        let replays = if options.quick { 1 } else { REPLAYS };
        let mut figures = BTreeMap::<String, Vec<f64>>::new();
        for _ in 0..replays {
            let values = std::mem::take(&mut answers.values);
            ask(
                contender,
                library,
                Some(&name),
                options,
                effort,
                &mut answers,
            )?;
            for (case, value) in std::mem::replace(&mut answers.values, values) {
                figures.entry(case).or_default().push(value);
            }
        }
        let medians = figures
            .iter()
            .filter_map(|(case, all)| Some((case.clone(), median(all)?)));
        answers.values.extend(medians);
    }
    // What fails in one replay of a trace fails in all.
    answers.failed.dedup();
    Ok(answers)
}

fn takes_traces(contender: Contender) -> bool {
    !matches!(contender, Contender::Adopted | Contender::Reference)
}

fn ask(
    contender: Contender,
    library: Option<&Path>,
    only: Option<&str>,
    options: &Options,
    effort: Effort,
    answers: &mut Answers,
) -> Result<()> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
    let mut command = Command::new(program);
    command.args(["gpu-worker", "--contender", contender.name()]);
    command.args(["--filter", only.unwrap_or(&options.filter)]);
    command.args(["--warm-up", &effort.warm_up.as_secs_f64().to_string()]);
    command.args(["--samples", &effort.samples.as_secs_f64().to_string()]);
    if only.is_some() {
        command.arg("--traces");
    }
    if let Some(library) = library {
        command.arg("--library").arg(library);
    }
    contender.set_up(&mut command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Error::caused(ErrorKind::Process, "starting a worker", error))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line = line
            .strip_prefix(MARK)
            .and_then(|line| serde_json::from_str(line).ok());
        match line {
            Some(Line::Figure(case, value)) => drop(answers.values.insert(case, value)),
            Some(Line::Failed(what)) => answers.failed.push(what),
            Some(Line::Version(version)) => answers.version = Some(version),
            None => {}
        }
    }
    if !output.status.success() {
        let at = only.unwrap_or("the cases");
        answers
            .failed
            .push(format!("the worker for {at} ended with {}", output.status));
    }
    Ok(())
}

fn say(line: &Line) {
    if let Ok(line) = serde_json::to_string(line) {
        println!("{MARK}{line}");
    }
}

/// What a worker is told.
#[derive(Debug)]
pub struct Work<'a> {
    /// Who is measured.
    pub contender: &'a str,
    /// Its library, for a peer.
    pub library: Option<&'a Path>,
    /// Only cases whose name contains this.
    pub filter: &'a str,
    /// Only traces, otherwise all but traces.
    pub traces: bool,
    /// Time of one measurement.
    pub effort: Effort,
}

/// Measures one contender and prints what it finds.
///
/// # Errors
/// `Environment` when the contender is unknown or cannot be opened.
pub fn work(work: &Work<'_>) -> Result<()> {
    let contender = Contender::named(work.contender).ok_or_else(|| {
        let message = format!("there is no contender {:?}", work.contender);
        Error::new(ErrorKind::Environment, message)
    })?;
    match (contender, work.library) {
        (Contender::Reference, _) => measure(work, Reference::default(), traces::ours),
        (Contender::Ours, _) => measure(work, Ours::new()?, traces::ours),
        (Contender::Frugal, _) => measure(work, Ours::new()?, traces::frugal),
        (Contender::Adopted, _) => measure(work, Ours::adopting()?, traces::ours),
        (_, Some(library)) => {
            let peer = Peer::open(library, contender.setting())?;
            say(&Line::Version(peer.version()));
            measure(work, peer.clone(), |name, case| {
                traces::peer(&peer, contender, name, case)
            });
        }
        (_, None) => {
            return Err(Error::new(
                ErrorKind::Environment,
                "a peer needs its --library",
            ));
        }
    }
    Ok(())
}

fn measure<H: SharedHeap>(
    work: &Work<'_>,
    mut heap: H,
    replay: impl Fn(&str, &str) -> Result<traces::Figures>,
) {
    // The reference has no memory whose ranges could be apart.
    let checked = work.contender != Contender::Reference.name();
    for case in Case::all(Machine::this().cores) {
        let name = case.to_string();
        if !name.contains(work.filter) || work.traces != matches!(case, Case::Trace(_)) {
            continue;
        }
        let figures = match &case {
            Case::Trace(trace) => replay(trace, &name),
            _ => {
                one(&mut heap, &case, checked, work.effort).map(|value| vec![(name.clone(), value)])
            }
        };
        match figures {
            Ok(figures) => figures
                .into_iter()
                .for_each(|(case, value)| say(&Line::Figure(case, value))),
            Err(error) => say(&Line::Failed(format!("{name}: {error}"))),
        }
    }
}

fn one<H: SharedHeap>(heap: &mut H, case: &Case, checked: bool, effort: Effort) -> Result<f64> {
    let verify = |heap: &mut H, sizes: &[usize]| match checked {
        true => workloads::verify(heap, sizes),
        false => Ok(()),
    };
    match *case {
        Case::Pair(bytes) => {
            verify(heap, &[bytes; 2])?;
            let sample = workloads::pair(heap, bytes, Use::Nothing, effort)?;
            Ok(sample.nanoseconds / sample.operations)
        }
        Case::Batch(bytes) => {
            verify(heap, &[bytes; BATCH])?;
            let sample = workloads::batch(heap, bytes, Use::Nothing, effort)?;
            Ok(sample.nanoseconds / sample.operations)
        }
        Case::Mixed(threads) => {
            verify(heap, &MIX.repeat(threads))?;
            let sample = workloads::mixed(heap, threads, effort)?;
            Ok(1e3 * threads as f64 / sample.nanoseconds)
        }
        Case::Trace(_) => Err(Error::new(ErrorKind::Environment, "a trace is no workload")),
    }
}
