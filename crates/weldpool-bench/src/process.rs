//! A server under test: started, waited for and stopped as a child process, by its own process id.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, ErrorKind, Result};

/// Longest a stopping server may take to answer what is in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Lines of the log that an error quotes.
const LOG_LINES: usize = 12;

/// A running child process. Dropping it stops it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Where a server says it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// The inference protocol.
    pub http: SocketAddr,
    /// The metrics; the same as `http` for a server without a port of its own for them.
    pub metrics: SocketAddr,
}

impl Process {
    /// Starts `command`, called `name` in errors, with all its output going to the file `log`.
    ///
    /// # Errors
    /// `Process` when it cannot be started, `Io` when the log cannot be made.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = create(log)?;
        let output = file
            .try_clone()
            .map_err(|error| Error::io("opening a log", error))?;
        Self::spawn(name, command.stdout(output).stderr(file), log)
    }

    /// Starts a server that prints `listening http ADDRESS`, perhaps `listening metrics ADDRESS`, and then
    /// `ready`, and waits at most `timeout` for it.
    ///
    /// # Errors
    /// `Process` when it cannot be started, stops, or is not ready in time; the end of its log is quoted.
    pub fn start_listening(
        name: &str,
        command: &mut Command,
        log: &Path,
        timeout: Duration,
    ) -> Result<(Self, Listening)> {
        let file = create(log)?;
        let copy = file
            .try_clone()
            .map_err(|error| Error::io("opening a log", error))?;
        let mut process = Self::spawn(name, command.stdout(Stdio::piped()).stderr(file), log)?;
        let output = process
            .child
            .stdout
            .take()
            .ok_or_else(|| process.failed("has no output"))?;
        let lines = follow(output, copy);
        let listening = process.await_ready(&lines, Instant::now() + timeout)?;
        Ok((process, listening))
    }

    fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        // The pipe stays open as long as the child is ours: a server may take its end as the order to stop.
        let child = command.stdin(Stdio::piped()).spawn().map_err(|error| {
            Error::caused(
                ErrorKind::Process,
                format!("{name} cannot be started"),
                error,
            )
        })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    fn await_ready(&self, lines: &Receiver<String>, deadline: Instant) -> Result<Listening> {
        let (mut http, mut metrics) = (None, None);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Err(self.failed("is not ready in time")),
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed("stopped early")),
            };
            if let Some(address) = line.strip_prefix("listening http ") {
                http = address.trim().parse().ok();
            } else if let Some(address) = line.strip_prefix("listening metrics ") {
                metrics = address.trim().parse().ok();
            } else if line.trim() == "ready" {
                let http = http.ok_or_else(|| self.failed("is ready but named no HTTP address"))?;
                return Ok(Listening {
                    http,
                    metrics: metrics.unwrap_or(http),
                });
            }
        }
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// `Process` when it does not within `timeout`; it is stopped then.
    pub fn finish(mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(None) => return Err(self.failed("did not end in time")),
                Err(error) => return Err(self.caused("cannot be waited for", error)),
            }
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has not ended yet.
    ///
    /// # Errors
    /// `Process` when the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        let state = self.child.try_wait();
        state
            .map(|status| status.is_none())
            .map_err(|error| self.caused("cannot be watched", error))
    }

    /// An error about this process that quotes the end of its log.
    pub fn failed(&self, what: &str) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        Error::new(
            ErrorKind::Process,
            format!("{} {what}; the end of its log:\n{end}", self.name),
        )
    }

    fn caused(&self, what: &str, error: std::io::Error) -> Error {
        Error::caused(ErrorKind::Process, format!("{} {what}", self.name), error)
    }

    /// Asks the process to end (SIGTERM), waits for it and returns how it ended.
    ///
    /// # Errors
    /// `Process` when it does not end within 20 s; it is killed then.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.end()
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Ok(status);
        }
        // Not yet waited for, so the id is still this child's.
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)
                .map_err(|error| self.caused("cannot be told to stop", error.into()))?;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => thread::sleep(POLL),
                Err(error) => return Err(self.caused("cannot be waited for", error)),
            }
        }
        self.child
            .kill()
            .map_err(|error| self.caused("cannot be killed", error))?;
        self.child
            .wait()
            .map_err(|error| self.caused("cannot be waited for", error))?;
        Err(self.failed("did not stop in time and was killed"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; `stop` reports.
        let _ = self.end();
    }
}

fn create(log: &Path) -> Result<File> {
    File::create(log).map_err(|error| Error::io(format!("creating {}", log.display()), error))
}

/// Copies a process's output to its log and hands on its lines, for as long as it runs.
fn follow(output: ChildStdout, mut log: File) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output)
            .lines()
            .map_while(std::result::Result::ok)
        {
            // The log is a help only, and once the server is ready nobody reads its lines.
            let _ = writeln!(log, "{line}");
            let _ = sender.send(line);
        }
    });
    receiver
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_server_is_waited_for_and_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo listening http 127.0.0.1:1; echo listening metrics 127.0.0.1:2; echo ready; exec sleep 60";
        let log = directory.path().join("log");
        let (mut process, listening) =
            Process::start_listening("test", &mut shell(script), &log, SOON).unwrap();
        assert_eq!(listening.http, "127.0.0.1:1".parse().unwrap());
        assert_eq!(listening.metrics, "127.0.0.1:2".parse().unwrap());
        assert!(process.is_running().unwrap());
        let status = process.stop().unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn an_early_end_quotes_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let error = Process::start_listening("test", &mut shell("echo no port >&2"), &log, SOON)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Process);
        assert!(error.to_string().contains("no port"), "{error}");
    }

    #[test]
    fn waiting_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let short = Duration::from_millis(50);
        let error =
            Process::start_listening("test", &mut shell("exec sleep 60"), &log, short).unwrap_err();
        assert!(error.to_string().contains("not ready"), "{error}");
    }
}
