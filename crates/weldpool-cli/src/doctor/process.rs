//! Runs a step in a process of its own, within its time, until somebody wants it to stop.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::event::Event;
use super::step::Step;
use crate::signals::StopSignals;

/// Bytes of a step's standard output that are read.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the end of its standard error that are kept.
const ERROR_BYTES_MAX: usize = 2 << 10;
/// How long a process that was killed may take to end; one that a driver holds is left behind.
const END_MAX: Duration = Duration::from_secs(2);

/// How a step came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// It told all that it had to.
    Done,
    /// Its process ended before that; how, and the end of what it wrote to standard error.
    Died(String),
    /// It was not over in time.
    TimedOut,
    /// A signal asked for the end.
    Interrupted,
}

/// What a step told, and how it ended.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) events: Vec<Event>,
    pub(super) ended: Ended,
    pub(super) elapsed: Duration,
}

/// Runs a step on a device.
pub(super) async fn run(
    step: Step,
    device: &str,
    quick: bool,
    limit: Duration,
    stop: &mut StopSignals,
) -> Result<Ran> {
    let start = Instant::now();
    let mut child = start_child(step, device, quick)?;
    // Closed with this process, upon which the other one ends.
    let held = child.stdin.take();
    let output = child.stdout.take().context("no standard output")?;
    let errors = child.stderr.take().context("no standard error")?;
    let errors = tokio::spawn(tail(errors));
    let mut events = Vec::new();
    let reading = async {
        let mut lines = BufReader::new(output.take(OUTPUT_BYTES_MAX)).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            events.extend(Event::read(&line));
        }
        child.wait().await
    };
    let ended = tokio::select! {
        biased;
        () = stop.next() => Ended::Interrupted,
        status = reading => match status {
            Ok(status) => died(status, errors).await,
            Err(error) => Ended::Died(error.to_string()),
        },
        () = sleep(limit) => Ended::TimedOut,
    };
    drop(held);
    if matches!(ended, Ended::TimedOut | Ended::Interrupted) {
        end(&mut child).await;
    }
    let ended = match ended {
        Ended::Died(how) if how.is_empty() => match events.last() {
            Some(Event::Done) => Ended::Done,
            _ => Ended::Died("its process ended before its time, without a word".to_owned()),
        },
        other => other,
    };
    Ok(Ran {
        events,
        ended,
        elapsed: start.elapsed(),
    })
}

fn start_child(step: Step, device: &str, quick: bool) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg("doctor")
        .arg(format!("--step={step}"))
        .arg(format!("--device={device}"));
    if quick {
        command.arg("--quick");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What is typed on the terminal is for this process.
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().context("cannot start a process for a step")
}

/// How a process died; empty if it did not.
async fn died(status: ExitStatus, errors: JoinHandle<String>) -> Ended {
    if status.success() {
        return Ended::Died(String::new());
    }
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("its process was ended by signal {signal}"),
        (None, Some(code)) => format!("its process ended with exit status {code}"),
        (None, None) => "its process ended".to_owned(),
    };
    let said = timeout(END_MAX, errors).await;
    let said = said.ok().and_then(Result::ok).unwrap_or_default();
    let said = said.trim();
    Ended::Died(if said.is_empty() {
        how
    } else {
        format!("{how}: {said}")
    })
}

async fn end(child: &mut Child) {
    let _gone = child.start_kill();
    let _late = timeout(END_MAX, child.wait()).await;
}

/// The end of what there is to read.
async fn tail(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut part).await {
        kept.extend_from_slice(&part[..read]);
        let beyond = kept.len().saturating_sub(ERROR_BYTES_MAX);
        kept.drain(..beyond);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
