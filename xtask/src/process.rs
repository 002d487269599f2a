//! Runs other programs. Every error names the command.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Failure, Result};
use crate::paths;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// For commands that take a moment.
const SHORT_INTERVAL: Duration = Duration::from_millis(5);
const ERROR_LINES_MAX: usize = 60;
const TAIL_BYTES: u64 = 4096;

/// How a command ended that was given so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly,
    /// It was ended when its time was over.
    Killed,
}

/// A command about to run.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command }
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// For cargo: builds with these flags of the compiler, and in a target folder of their own, so that
    /// other builds stay as they are.
    pub(crate) fn compiled_with(self, flags: &str, target: &Path) -> Self {
        self.arg("--target-dir")
            .arg(target)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
    }

    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Runs with this program's terminal, after printing the command.
    pub(crate) fn show(mut self) -> Result<()> {
        eprintln!("$ {self}");
        let status = Guard::spawn(&mut self.command)
            .and_then(|mut child| child.0.wait())
            .map_err(|error| self.not_started(&error))?;
        if status.success() {
            return Ok(());
        }
        // The command was shown, and said what is wrong.
        Err(Failure::new(format!("the command above failed ({status})")))
    }

    /// Runs with its output in the file `log`, and ends it when it takes longer than `limit`.
    pub(crate) fn within(mut self, limit: Duration, log: &Path) -> Result<Ended> {
        self.write_to(log)?;
        let started = Instant::now();
        let mut child =
            Guard::spawn(&mut self.command).map_err(|error| self.not_started(&error))?;
        while started.elapsed() < limit {
            match child.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(Ended::Well),
                Ok(Some(_)) => return Ok(Ended::Badly),
                Ok(None) => std::thread::sleep(SHORT_INTERVAL),
                Err(error) => return Err(self.not_started(&error)),
            }
        }
        Ok(Ended::Killed)
    }

    /// Sends what it says to a file, which is made anew.
    fn write_to(&mut self, log: &Path) -> Result<()> {
        if let Some(directory) = log.parent() {
            paths::create_directory(directory)?;
        }
        let file = File::create(log).map_err(|error| Failure::file("create", log, &error))?;
        let copy = file
            .try_clone()
            .map_err(|error| Failure::file("open", log, &error))?;
        self.command.stdout(file).stderr(copy);
        Ok(())
    }

    /// Runs with its output in the file `log`, and calls `tick` a few times a second with the last line there.
    pub(crate) fn log(mut self, log: &Path, mut tick: impl FnMut(&str)) -> Result<()> {
        self.write_to(log)?;
        let mut child =
            Guard::spawn(&mut self.command).map_err(|error| self.not_started(&error))?;
        let status = loop {
            match child.0.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Err(self.not_started(&error)),
            }
            tick(&last_line(log));
        };
        self.check(status).map_err(|failure| {
            let text = fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(ERROR_LINES_MAX)..];
            failure.hint(format!(
                "the end of {}:\n{}",
                log.display(),
                shown.join("\n")
            ))
        })
    }

    /// Runs and returns what it wrote to standard output; standard error goes into the failure.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self
            .command
            .output()
            .map_err(|error| self.not_started(&error))?;
        self.check(output.status).map_err(|failure| {
            failure.hint(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn not_started(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("cannot run `{self}`: {error}"))
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!("`{self}` failed ({status})")))
    }
}

/// The command as one would type it, environment included.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                write!(f, "{}={} ", name.to_string_lossy(), quoted(value))?;
            }
        }
        f.write_str(&quoted(self.command.get_program()))?;
        self.command
            .get_args()
            .try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// The last line of a file that may be growing, without reading all of it again and again.
fn last_line(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    String::from_utf8_lossy(&tail)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn spawn(command: &mut Command) -> std::io::Result<Self> {
        command.spawn().map(Self)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A child that has been waited for is gone and its id may belong to another; `kill` knows that and does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn log_path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("weldpool-xtask-{name}-{}.log", std::process::id()))
    }

    #[test]
    fn output_is_returned_and_a_failure_names_the_command() {
        assert_eq!(
            Run::new("echo").arg("two words").output().unwrap(),
            "two words\n"
        );
        let failure = Run::new("sh")
            .args(["-c", "echo no such thing >&2; exit 3"])
            .output();
        let text = failure.unwrap_err().to_string();
        assert!(
            text.contains("sh -c") && text.contains("no such thing"),
            "{text}"
        );
    }

    #[test]
    fn a_command_that_was_shown_is_not_repeated() {
        let run = Run::new("sh")
            .args(["-c", "exit 3"])
            .env("LONG", "x".repeat(600));
        let text = run.show().unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.len() < 80, "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let text = Run::new("weldpool-no-such-program")
            .output()
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("cannot run `weldpool-no-such-program`"),
            "{text}"
        );
    }

    #[test]
    fn a_failing_logged_command_shows_the_end_of_its_log() {
        let log = log_path("fails");
        let run = Run::new("sh").args(["-c", "seq 1000; echo the reason >&2; exit 1"]);
        let text = run.log(&log, |_| ()).unwrap_err().to_string();
        assert!(text.ends_with("\n1000\nthe reason"), "{text}");
        assert!(!text.contains("\n900\n"), "{text}");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_logged_command_shows_its_last_line_while_it_runs() {
        let log = log_path("ticks");
        let mut seen = Vec::new();
        let run = Run::new("sh").args(["-c", "echo working; sleep 0.3"]);
        run.log(&log, |line| seen.push(line.to_owned())).unwrap();
        assert!(seen.iter().any(|line| line == "working"), "{seen:?}");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_command_is_ended_when_its_time_is_over() {
        let log = log_path("within");
        let within = |script: &str, limit| {
            let run = Run::new("sh").args(["-c", script]);
            run.within(limit, &log).unwrap()
        };
        let long = Duration::from_secs(60);
        assert_eq!(within("echo said", long), Ended::Well);
        assert_eq!(fs::read_to_string(&log).unwrap(), "said\n");
        assert_eq!(within("exit 3", long), Ended::Badly);
        let started = Instant::now();
        assert_eq!(
            within("exec sleep 50", Duration::from_millis(20)),
            Ended::Killed
        );
        assert!(started.elapsed() < Duration::from_secs(40));
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_guard_ends_its_child() {
        let child = Guard::spawn(Command::new("sleep").arg("1000")).unwrap();
        let id = child.0.id().to_string();
        let alive = || {
            Command::new("kill")
                .args(["-0", &id])
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        };
        assert!(alive());
        drop(child);
        assert!(!alive());
    }

    #[test]
    fn words_are_quoted_when_a_shell_would_split_them() {
        let run = Run::new("cargo")
            .args(["a b", "it's", "", "--plain=1"])
            .env("X", "y z");
        assert_eq!(
            run.to_string(),
            r"X='y z' cargo 'a b' 'it'\''s' '' --plain=1"
        );
    }
}
