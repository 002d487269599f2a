//! What can be wrong with a configuration, or with a request measured against one.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not a configuration: malformed, an unknown field, a value of another type.
    Syntax,
    /// The configuration can be read, but says something that cannot hold.
    Invalid,
    /// The configuration contradicts the model.
    Mismatch,
    /// The configuration asks for something that is not done here.
    Unsupported,
    /// The configuration is larger than a limit allows.
    LimitExceeded,
    /// A request does not fit the configuration.
    Request,
}

/// A place in a text, for people: both numbers start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// The place of a byte offset; an offset past the end, or within a character, is moved back.
    pub(super) fn of_offset(text: &str, offset: usize) -> Position {
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something wrong with a configuration, or with a request measured against one.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    tensor: Option<String>,
    file: Option<PathBuf>,
    position: Option<Position>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            tensor: None,
            file: None,
            position: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    pub(super) fn about_tensor(mut self, name: &str) -> Error {
        self.tensor = Some(name.to_owned());
        self
    }

    pub(super) fn at(mut self, position: Position) -> Error {
        self.position = Some(position);
        self
    }

    pub(super) fn without_position(mut self) -> Error {
        self.position = None;
        self
    }

    /// The same error, with the file it is in.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Error {
        self.file = Some(file.into());
        self
    }

    /// What kind of thing is wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The input or output that is meant, if it is about one.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// The file, if it is about a text that came from one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The place in the text, if it is about one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some(position) = self.position {
            write!(f, "{position}:")?;
        }
        if self.file.is_some() || self.position.is_some() {
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Writes a shape the way Triton does: `[-1,3]`.
pub(super) struct ShapeText<'a>(pub(super) &'a [i64]);

impl fmt::Display for ShapeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, size) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{size}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a\nüb\n";
        let cases = [
            (0, (1, 1)),
            (1, (1, 2)),
            (2, (2, 1)),
            (3, (2, 1)),
            (4, (2, 2)),
            (6, (3, 1)),
            (99, (3, 1)),
        ];
        for (offset, (line, column)) in cases {
            let position = Position::of_offset(text, offset);
            assert_eq!((position.line, position.column), (line, column), "{offset}");
        }
    }

    #[test]
    fn the_place_comes_first() {
        let error = Error::new(ErrorKind::Syntax, "wrong")
            .at(Position { line: 3, column: 7 })
            .in_file("m/config.pbtxt");
        assert_eq!(error.to_string(), "m/config.pbtxt:3:7: wrong");
        assert_eq!(Error::invalid("wrong").to_string(), "wrong");
        assert_eq!(Error::invalid("wrong").in_file("f").to_string(), "f: wrong");
    }
}
