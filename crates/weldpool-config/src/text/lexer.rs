//! Tokens of the protobuf text format.

use std::fmt;

/// One token, where it starts, and where the one before it ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    /// Byte offset in the text.
    pub(super) start: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    /// A name: of a field, of an enumeration value, or `true`, `inf` and their like.
    Identifier(&'a str),
    /// A number as written, without a sign.
    Number(&'a str),
    /// A string, its escapes resolved; not necessarily UTF-8.
    String(Vec<u8>),
    /// Any other character that has a meaning.
    Symbol(char),
    /// The end of the text.
    End,
}

impl fmt::Display for TokenKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenKind::Identifier(text) | TokenKind::Number(text) => write!(f, "'{text}'"),
            TokenKind::String(bytes) => {
                write!(f, "the string \"{}\"", bytes.escape_ascii())
            }
            TokenKind::Symbol(symbol) => write!(f, "'{symbol}'"),
            TokenKind::End => f.write_str("the end of the text"),
        }
    }
}

/// Something that is not a token, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) message: String,
    /// Byte offset in the text.
    pub(super) at: usize,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, at: usize) -> Wrong {
        Wrong {
            message: message.into(),
            at,
        }
    }
}

/// Splits a text into tokens.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// The next token; after the last one, [`TokenKind::End`] for ever.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Wrong> {
        self.skip_blanks();
        let start = self.at;
        let Some(first) = self.peek() else {
            return Ok(Token {
                kind: TokenKind::End,
                start,
            });
        };
        let kind = match first {
            'a'..='z' | 'A'..='Z' | '_' => TokenKind::Identifier(self.take_while(is_word)),
            '0'..='9' => self.number(),
            '.' if self.text[start + 1..].starts_with(|next: char| next.is_ascii_digit()) => {
                self.number()
            }
            '"' | '\'' => self.string(first)?,
            '{' | '}' | '<' | '>' | '[' | ']' | ':' | ',' | ';' | '-' => {
                self.at += 1;
                TokenKind::Symbol(first)
            }
            '\u{feff}' => {
                return Err(Wrong::new("a byte order mark is not allowed", start));
            }
            other => {
                return Err(Wrong::new(
                    format!("unexpected character '{}'", other.escape_debug()),
                    start,
                ));
            }
        };
        Ok(Token { kind, start })
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.find(|next| !accept(next)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(|next| matches!(next, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}'));
            if self.peek() != Some('#') {
                return;
            }
            self.take_while(|next| next != '\n');
        }
    }

    /// Takes whatever looks like one number; whether it is one is seen where it is used.
    fn number(&mut self) -> TokenKind<'a> {
        let start = self.at;
        let is_hexadecimal =
            self.text[start..].starts_with("0x") || self.text[start..].starts_with("0X");
        loop {
            self.take_while(|next| is_word(next) || next == '.');
            let so_far = &self.text[start..self.at];
            let after_exponent = !is_hexadecimal && so_far.ends_with(['e', 'E']);
            if after_exponent && matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            } else {
                return TokenKind::Number(so_far);
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<TokenKind<'a>, Wrong> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(
                self.take_while(|next| !matches!(next, '\\' | '\n' | '\0') && next != quote)
                    .as_bytes(),
            );
            match self.peek() {
                Some('\\') => self.escape(&mut bytes)?,
                Some(end) if end == quote => {
                    self.at += 1;
                    return Ok(TokenKind::String(bytes));
                }
                Some('\0') => {
                    return Err(Wrong::new(
                        "a string cannot contain a NUL character",
                        self.at,
                    ));
                }
                _ => return Err(Wrong::new("the string is not closed on its line", start)),
            }
        }
    }

    /// Reads one escape sequence, its backslash included.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Wrong> {
        let start = self.at;
        let wrong = || Wrong::new("invalid escape sequence in the string", start);
        self.at += 1;
        let letter = self.peek().ok_or_else(wrong)?;
        let simple = match letter {
            'a' => Some(0x07),
            'b' => Some(0x08),
            'f' => Some(0x0c),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(0x0b),
            '\\' => Some(b'\\'),
            '\'' => Some(b'\''),
            '"' => Some(b'"'),
            '?' => Some(b'?'),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += 1;
            bytes.push(byte);
            return Ok(());
        }
        if letter.is_digit(8) {
            let value = self.digits(8, 1, 3).ok_or_else(wrong)?;
            bytes.push(u8::try_from(value).map_err(|_| wrong())?);
            return Ok(());
        }
        self.at += letter.len_utf8();
        match letter {
            'x' | 'X' => {
                let value = self.digits(16, 1, 2).ok_or_else(wrong)?;
                bytes.push(u8::try_from(value).map_err(|_| wrong())?);
            }
            'u' | 'U' => {
                let count = if letter == 'u' { 4 } else { 8 };
                let value = self.digits(16, count, count).ok_or_else(wrong)?;
                let character = char::from_u32(value).ok_or_else(wrong)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Reads between `least` and `most` digits.
    fn digits(&mut self, radix: u32, least: usize, most: usize) -> Option<u32> {
        let rest = &self.text[self.at..];
        let length = rest
            .chars()
            .take(most)
            .take_while(|next| next.is_digit(radix))
            .count();
        if length < least {
            return None;
        }
        self.at += length;
        u32::from_str_radix(&rest[..length], radix).ok()
    }
}

fn is_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || next == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<TokenKind<'_>>, Wrong> {
        let mut lexer = Lexer::new(text);
        let mut kinds = Vec::new();
        loop {
            let token = lexer.next()?;
            if token.kind == TokenKind::End {
                return Ok(kinds);
            }
            kinds.push(token.kind);
        }
    }

    #[test]
    fn texts_are_split_into_tokens() {
        use TokenKind::{Identifier, Number, String, Symbol};
        assert_eq!(
            kinds("a_1:-0x1F # {\n[.5e-3,4abc]'q\"'").unwrap(),
            [
                Identifier("a_1"),
                Symbol(':'),
                Symbol('-'),
                Number("0x1F"),
                Symbol('['),
                Number(".5e-3"),
                Symbol(','),
                Number("4abc"),
                Symbol(']'),
                String(b"q\"".to_vec()),
            ]
        );
        assert_eq!(kinds("0xe-1").unwrap().len(), 3);
        assert_eq!(kinds(" #\n\t# x").unwrap(), []);
    }

    #[test]
    fn escapes_are_resolved() {
        let text = r#""\a\b\f\n\r\t\v\\\'\"\? \7\101\x41\xe9 \u00e9\U0001F600""#;
        let expected = [
            b"\x07\x08\x0c\n\r\t\x0b\\'\"? \x07AA\xe9 ".as_slice(),
            "é😀".as_bytes(),
        ];
        assert_eq!(kinds(text).unwrap(), [TokenKind::String(expected.concat())]);
    }

    #[test]
    fn what_is_no_token_is_named() {
        for (text, message, at) in [
            ("a é", "unexpected character 'é'", 2),
            ("\u{feff}a", "a byte order mark is not allowed", 0),
            (" 'a", "the string is not closed on its line", 1),
            ("'a\nb'", "the string is not closed on its line", 0),
            ("'a\0'", "a string cannot contain a NUL character", 2),
            (r"'ab\q'", "invalid escape sequence in the string", 3),
            (r"'\u12'", "invalid escape sequence in the string", 1),
            (r"'\777'", "invalid escape sequence in the string", 1),
            (r"'\ud800'", "invalid escape sequence in the string", 1),
            (r"'\", "invalid escape sequence in the string", 1),
            ("/", "unexpected character '/'", 0),
        ] {
            assert_eq!(kinds(text), Err(Wrong::new(message, at)), "{text}");
        }
    }
}
