//! A pull reader for JSON.
//!
//! Requests carry tensors as JSON arrays of any length, whose element type may follow the elements
//! and whose numbers may be `NaN` or `Infinity`, which Triton's clients write although JSON has no
//! such numbers. The reader therefore hands out one value at a time, as text, and leaves it to the
//! caller to store it; nothing is built in memory. It can skip a value and return to it.
//!
//! Nesting is bounded, so skipping recurses to no more than that depth.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        })
    }
}

/// Why the text cannot be read as JSON, or not as the value asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// Where, in bytes from the start.
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The text is not JSON.
    Syntax(&'static str),
    /// It nests deeper than the limit.
    TooDeep(usize),
    /// It is JSON, but another kind of value was asked for.
    Unexpected { wanted: Kind, found: Kind },
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Syntax(what) => write!(f, "{what}")?,
            Reason::TooDeep(limit) => write!(f, "arrays and objects nest deeper than {limit}")?,
            Reason::Unexpected { wanted, found } => write!(f, "expected {wanted}, found {found}")?,
        }
        write!(f, " at byte {}", self.at)
    }
}

impl std::error::Error for JsonError {}

/// A number as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number<'a>(&'a str);

impl<'a> Number<'a> {
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    /// Whether it is written without fraction and exponent.
    pub(crate) fn is_integer(self) -> bool {
        self.0
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    }

    /// The value as `T`, or `None` if it is not written as an integer or `T` cannot hold it.
    pub(crate) fn integer<T: std::str::FromStr>(self) -> Option<T> {
        if let Ok(value) = self.0.parse() {
            return self.is_integer().then_some(value);
        }
        // Unsigned types do not parse this spelling of zero.
        (self.0 == "-0").then(|| "0".parse().ok()).flatten()
    }

    /// The nearest `f64`, or `None` if the number is finite and beyond the range of `f64`.
    pub(crate) fn float(self) -> Option<f64> {
        match self.0 {
            "NaN" | "-NaN" => Some(f64::NAN),
            "Infinity" | "Inf" => Some(f64::INFINITY),
            "-Infinity" | "-Inf" => Some(f64::NEG_INFINITY),
            text => text.parse().ok().filter(|value: &f64| value.is_finite()),
        }
    }
}

/// Reads one JSON text from front to back.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    depth_max: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which may begin with a byte order mark.
    ///
    /// # Errors
    /// A syntax error if the bytes are not UTF-8.
    pub(crate) fn new(bytes: &'a [u8], depth_max: usize) -> Result<Reader<'a>, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|error| JsonError {
            at: error.valid_up_to(),
            reason: Reason::Syntax("bytes are not UTF-8"),
        })?;
        let at = if text.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Ok(Reader {
            text,
            at,
            depth: 0,
            depth_max,
        })
    }

    /// A reader of a part of the same text, such as one that [`skip`](Self::skip) returned.
    pub(crate) fn part(&self, range: Range<usize>) -> Reader<'a> {
        Reader {
            text: self.text.get(..range.end).unwrap_or_default(),
            at: range.start,
            depth: self.depth,
            depth_max: self.depth_max,
        }
    }

    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// The kind of the next value.
    pub(crate) fn kind(&mut self) -> Result<Kind, JsonError> {
        match self.next_byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.syntax("expected a value")),
            None => Err(self.syntax("expected a value, but the text ends")),
        }
    }

    /// Checks that the next value is of the kind wanted.
    pub(crate) fn expect(&mut self, wanted: Kind) -> Result<(), JsonError> {
        let found = self.kind()?;
        if found == wanted {
            return Ok(());
        }
        // A broken value is a broken text before it is a value of another kind.
        let at = self.at;
        self.skip()?;
        Err(JsonError {
            at,
            reason: Reason::Unexpected { wanted, found },
        })
    }

    /// Reads an object: calls `member` with the name of each member, which must read its value.
    pub(crate) fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Object)?;
        self.descend()?;
        let mut first = true;
        loop {
            match self.next_byte() {
                Some(b'}') if first => break,
                Some(b'"') => {}
                _ => return Err(self.syntax("expected the name of a member").into()),
            }
            let name = self.string()?;
            if self.next_byte() != Some(b':') {
                return Err(self
                    .syntax("expected a colon after the name of a member")
                    .into());
            }
            self.at += 1;
            member(self, name)?;
            first = false;
            match self.next_byte() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => {
                    return Err(self
                        .syntax("expected a comma or a brace after a member")
                        .into());
                }
            }
        }
        self.ascend();
        Ok(())
    }

    /// Reads an array: calls `element` for each element, which must read it.
    pub(crate) fn array<E: From<JsonError>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(Kind::Array)?;
        self.descend()?;
        if self.next_byte() != Some(b']') {
            loop {
                element(self)?;
                match self.next_byte() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => {
                        return Err(self
                            .syntax("expected a comma or a bracket after an element")
                            .into());
                    }
                }
            }
        }
        self.ascend();
        Ok(())
    }

    /// Reads a string; borrowed from the text unless it has escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.expect(Kind::String)?;
        self.at += 1;
        let plain = self.plain_characters()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut string = plain.to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(string));
                }
                Some(b'\\') => {
                    self.at += 1;
                    string.push(self.escape()?);
                }
                _ => string.push_str(self.plain_characters()?),
            }
        }
    }

    /// Reads a number.
    pub(crate) fn number(&mut self) -> Result<Number<'a>, JsonError> {
        self.expect(Kind::Number)?;
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(b'N' | b'I') => {
                let word = ["NaN", "Infinity", "Inf"]
                    .into_iter()
                    .find(|word| self.rest().starts_with(word));
                let word = word.ok_or_else(|| self.syntax("expected a number"))?;
                self.at += word.len();
                return Ok(Number(&self.text[start..self.at]));
            }
            _ => return Err(self.syntax("expected a digit in a number")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("expected a digit after the point of a number")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits("expected a digit in the exponent of a number")?;
        }
        Ok(Number(&self.text[start..self.at]))
    }

    /// Reads `true` or `false`.
    pub(crate) fn bool(&mut self) -> Result<bool, JsonError> {
        self.expect(Kind::Bool)?;
        if self.rest().starts_with("true") {
            self.at += 4;
            Ok(true)
        } else if self.rest().starts_with("false") {
            self.at += 5;
            Ok(false)
        } else {
            Err(self.syntax("expected a value"))
        }
    }

    /// Reads a value of any kind, checks that it is JSON, and returns where it stands.
    pub(crate) fn skip(&mut self) -> Result<Range<usize>, JsonError> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => self.object(|reader, _| reader.skip().map(drop))?,
            Kind::Array => self.array(|reader| reader.skip().map(drop))?,
            Kind::String => drop(self.string()?),
            Kind::Number => drop(self.number()?),
            Kind::Bool => drop(self.bool()?),
            Kind::Null if self.rest().starts_with("null") => self.at += 4,
            Kind::Null => return Err(self.syntax("expected a value")),
        }
        Ok(start..self.at)
    }

    /// Checks that nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        match self.next_byte() {
            None => Ok(()),
            Some(_) => Err(self.syntax("expected the end of the text")),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space, which is not consumed.
    fn next_byte(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn descend(&mut self) -> Result<(), JsonError> {
        if self.depth >= self.depth_max {
            return Err(JsonError {
                at: self.at,
                reason: Reason::TooDeep(self.depth_max),
            });
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn ascend(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, otherwise: &'static str) -> Result<(), JsonError> {
        let start = self.at;
        self.digits();
        if self.at == start {
            Err(self.syntax(otherwise))
        } else {
            Ok(())
        }
    }

    /// Consumes a string's characters up to its end or the next escape.
    fn plain_characters(&mut self) -> Result<&'a str, JsonError> {
        let rest = self.rest();
        let end = rest
            .bytes()
            .position(|byte| byte == b'"' || byte == b'\\' || byte < b' ');
        self.at += end.unwrap_or(rest.len());
        match self.peek() {
            // The end stands before an ASCII byte, so it is a boundary between characters.
            Some(b'"' | b'\\') => Ok(&rest[..end.unwrap_or(rest.len())]),
            Some(_) => Err(self.syntax("unexpected control character in a string")),
            None => Err(self.syntax("the text ends within a string")),
        }
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.syntax("unknown escape in a string")),
        };
        self.at += 1;
        Ok(character)
    }

    /// Reads what follows `\u`, and the second half of a surrogate pair.
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        const ALONE: &str = "half a surrogate pair in a string";
        let mut code = self.four_hex_digits()?;
        if (0xd800..0xdc00).contains(&code) {
            if !self.rest().starts_with("\\u") {
                return Err(self.syntax(ALONE));
            }
            self.at += 2;
            let low = self.four_hex_digits()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(self.syntax(ALONE));
            }
            code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or_else(|| self.syntax(ALONE))
    }

    fn four_hex_digits(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16
                + digit.ok_or_else(|| self.syntax("expected four hexadecimal digits after \\u"))?;
            self.at += 1;
        }
        Ok(code)
    }

    fn syntax(&self, what: &'static str) -> JsonError {
        JsonError {
            at: self.at,
            reason: Reason::Syntax(what),
        }
    }
}

#[cfg(test)]
mod tests;
