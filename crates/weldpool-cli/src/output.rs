//! Standard output and standard error, neither of which can make the program panic.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

/// Standard output took no more.
#[derive(Debug)]
pub(crate) struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader has gone away, having read what it wanted.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

impl Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// Writes a line to standard output.
pub(crate) fn line(line: impl Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard error; where that fails, there is nobody to tell.
pub(crate) fn note(line: impl Display) {
    let _lost = writeln!(io::stderr(), "{line}");
}
