//! One process in a control group, from its start to whatever ends it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

use super::limit::{Counted, Group};
use super::line::{Line, Outcome};
use super::{Case, Options, Pace};

/// Bytes of output of one process that are read: some thousand lines.
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
/// A process that is slowed down beyond use is given up after so long.
const TIME_MAX: Duration = Duration::from_secs(120);

/// What ended a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// It came to its end.
    Itself,
    /// The kernel, for want of memory.
    Killed,
    /// We, because it hardly moved any more.
    GivenUp,
}

/// What one process did.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Trial {
    pub(super) case: Case,
    pub(super) monitor: bool,
    pub(super) end: End,
    /// What it counted, if it came to its end.
    pub(super) outcome: Option<Outcome>,
    /// What the kernel counted.
    pub(super) counted: Counted,
    /// Phases and changes of level.
    pub(super) lines: Vec<Line>,
}

/// Runs a process in a group of its own.
pub(super) fn attempt(options: &Options, case: Case, monitor: bool) -> Result<Trial> {
    let group = Group::create(&options.group, case.limits(options.limit_bytes))?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .arg("pressure-child")
        .args(["--pace", pace(case.pace)])
        .arg("--group")
        .arg(group.directory());
    if monitor {
        command.arg("--monitor");
    }
    if options.quick {
        command.arg("--quick");
    }
    let with = if monitor { "on" } else { "off" };
    println!("# {}, monitor {with}", case.name());
    let mut process = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = process.stdout.take();
    let process = Mutex::new(process);
    let (over, ended) = channel();
    let (lines, given_up) = std::thread::scope(|scope| {
        let watchdog = scope.spawn(|| give_up(&process, ended));
        let lines = output.map_or_else(|| Ok(Vec::new()), read);
        drop(over);
        (lines, watchdog.join().unwrap_or(false))
    });
    let lines = lines?;
    let status = process
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .wait()
        .map_err(failed)?;
    let counted = Counted::read(group.directory())?;
    let outcome = lines.iter().find_map(|line| match line {
        Line::End(end) => Some(end.clone()),
        _ => None,
    });
    let end = end(status, given_up, counted, outcome.is_some())?;
    println!("# {end:?}, {counted:?}");
    let is_kept = |line: &Line| !matches!(line, Line::Sample { .. } | Line::End(_));
    Ok(Trial {
        case,
        monitor,
        end,
        outcome,
        counted,
        lines: lines.into_iter().filter(is_kept).collect(),
    })
}

fn pace(pace: Pace) -> &'static str {
    match pace {
        Pace::Slow => "slow",
        Pace::Fast => "fast",
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Process, "the filling process", error)
}

/// Kills the process unless its output ends in time; says whether it did.
fn give_up(process: &Mutex<Process>, ended: Receiver<()>) -> bool {
    let in_time = ended.recv_timeout(TIME_MAX) != Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    // One that ended at this moment cannot be killed, which is as well.
    !in_time
        && process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kill()
            .is_ok()
}

/// Reads lines until their end, and shows them.
fn read(output: impl Read) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for text in BufReader::new(output.take(OUTPUT_BYTES_MAX)).lines() {
        let text = text.map_err(failed)?;
        // What is killed may leave half a line.
        if let Ok(line) = serde_json::from_str::<Line>(&text) {
            println!("{line}");
            lines.push(line);
        }
    }
    Ok(lines)
}

fn end(status: ExitStatus, given_up: bool, counted: Counted, whole: bool) -> Result<End> {
    if status.success() && whole {
        Ok(End::Itself)
    } else if counted.oom_kill > 0 {
        Ok(End::Killed)
    } else if given_up {
        Ok(End::GivenUp)
    } else {
        Err(Error::new(
            ErrorKind::Process,
            format!("the filling process ended early: {status}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_ended_a_process_is_told_apart() {
        let none = Counted {
            high: 0,
            max: 0,
            oom_kill: 0,
            peak_bytes: 0,
        };
        let one = Counted {
            oom_kill: 1,
            ..none
        };
        let (fine, killed) = (ExitStatus::from_raw(0), ExitStatus::from_raw(9));
        assert_eq!(end(fine, false, none, true).unwrap(), End::Itself);
        assert_eq!(end(killed, false, one, false).unwrap(), End::Killed);
        assert_eq!(end(killed, true, none, false).unwrap(), End::GivenUp);
        let error = end(ExitStatus::from_raw(256), false, none, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Process);
    }

    #[test]
    fn half_a_line_is_no_line() {
        let text = "{\"line\":\"phase\",\"s\":0.5,\"name\":\"fill\"}\n{\"line\":\"ph";
        assert_eq!(read(text.as_bytes()).unwrap().len(), 1);
    }
}
