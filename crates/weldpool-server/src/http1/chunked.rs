//! The chunked transfer coding of RFC 9112, section 7.1, as a state machine over bytes in any
//! split. It knows no sockets and copies nothing.

use super::error::{Error, ErrorKind, Result};
use super::target::hex_digit;

/// What follows next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This many bytes of data, at least one, before more framing. They are not part of what was
    /// consumed; the caller takes them and says so with [`ChunkedDecoder::taken`].
    Data(u64),
    /// Framing that has not arrived yet.
    More,
    /// Nothing: the body and its trailers are over.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a chunk's size.
    Size,
    /// Behind at least one digit.
    SizeDigits,
    /// In a chunk extension.
    Extension,
    /// Behind the carriage return of the size line.
    SizeLineFeed,
    /// In the data of a chunk.
    Data,
    /// Behind the data, before its carriage return.
    DataReturn,
    /// Behind the carriage return that follows the data.
    DataLineFeed,
    /// At the start of a trailer line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// Behind the carriage return of a trailer line.
    TrailerLineFeed,
    /// Behind the carriage return of the last, empty line.
    LastLineFeed,
    End,
}

/// Finds the data in a chunked body. Extensions and trailers are checked and dropped.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: State,
    /// Bytes of data left in the chunk; while its size is read, the size so far.
    left: u64,
    /// Digits of the size so far.
    digits: u32,
    /// Bytes of extensions and trailers that may still come.
    extra_left: usize,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body whose extensions and trailers hold at most `extra_max`
    /// bytes together.
    pub(crate) fn new(extra_max: usize) -> Self {
        Self {
            state: State::Size,
            left: 0,
            digits: 0,
            extra_left: extra_max,
        }
    }

    /// Reads framing from the front of `input` up to data, the end, or the end of `input`.
    /// Returns how many bytes it consumed and what follows them.
    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<(usize, Next)> {
        let mut consumed = 0;
        loop {
            match self.state {
                State::Data => return Ok((consumed, Next::Data(self.left))),
                State::End => return Ok((consumed, Next::End)),
                _ => {}
            }
            let Some(&byte) = input.get(consumed) else {
                return Ok((consumed, Next::More));
            };
            self.step(byte)?;
            consumed += 1;
        }
    }

    /// Says that `count` bytes of data were taken.
    pub(crate) fn taken(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
        if self.left == 0 && self.state == State::Data {
            self.state = State::DataReturn;
        }
    }

    fn step(&mut self, byte: u8) -> Result<()> {
        self.state = match (self.state, byte) {
            (State::Size | State::SizeDigits, _) if hex_digit(byte).is_some() => {
                self.digits += 1;
                if self.digits > u64::BITS / 4 {
                    let message = "a chunk's size has more than 16 digits";
                    return Err(Error::new(ErrorKind::BodyTooLarge, message));
                }
                self.left = self.left << 4 | u64::from(hex_digit(byte).unwrap_or_default());
                State::SizeDigits
            }
            (State::SizeDigits | State::Extension, b'\r') => State::SizeLineFeed,
            (State::SizeDigits, b';' | b' ' | b'\t') => State::Extension,
            (State::Extension, _) if is_text(byte) => {
                self.spend_extra()?;
                State::Extension
            }
            (State::SizeLineFeed, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLineFeed, b'\n') => State::Data,
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => {
                self.digits = 0;
                State::Size
            }
            (State::TrailerStart, b'\r') => State::LastLineFeed,
            (State::Trailer, b'\r') => State::TrailerLineFeed,
            (State::TrailerStart | State::Trailer, _) if is_text(byte) => {
                self.spend_extra()?;
                State::Trailer
            }
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::LastLineFeed, b'\n') => State::End,
            (State::Size | State::SizeDigits, _) => {
                return Err(Error::malformed(
                    "a chunk's size is not a hexadecimal number",
                ));
            }
            (State::DataReturn | State::DataLineFeed, _) => {
                return Err(Error::malformed("a chunk is longer than its size"));
            }
            _ => return Err(Error::malformed("a line of the chunked body is broken")),
        };
        Ok(())
    }

    fn spend_extra(&mut self) -> Result<()> {
        self.extra_left = self.extra_left.checked_sub(1).ok_or_else(|| {
            Error::new(
                ErrorKind::HeaderTooLarge,
                "the extensions and trailers of the chunked body are over their limit",
            )
        })?;
        Ok(())
    }
}

/// Whether `byte` may stand in an extension or a trailer.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `input`, offered in pieces of `piece` bytes, and returns the data and what is left.
    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize)> {
        let mut decoder = ChunkedDecoder::new(64);
        let (mut data, mut position) = (Vec::new(), 0);
        loop {
            let end = input.len().min(position + piece);
            let (consumed, next) = decoder.advance(&input[position..end])?;
            position += consumed;
            match next {
                Next::Data(count) => {
                    let count = (end - position).min(usize::try_from(count).unwrap());
                    if count == 0 && end == input.len() {
                        return Err(Error::disconnected());
                    }
                    data.extend_from_slice(&input[position..position + count]);
                    decoder.taken(count as u64);
                    position += count;
                }
                Next::End => return Ok((data, input.len() - position)),
                Next::More if position == input.len() => {
                    return Err(Error::disconnected());
                }
                Next::More => {}
            }
        }
    }

    #[test]
    fn any_split_gives_the_same_data() {
        let input = b"5\r\nhello\r\n00b;name=\"v\";x\r\n, the world\r\n1 ;a\r\n!\r\n\
                      0\r\nDigest: abc\r\nOther: d\r\n\r\nGET /";
        for piece in 1..input.len() {
            assert_eq!(
                decode(input, piece).unwrap(),
                (b"hello, the world!".to_vec(), 5),
                "{piece}"
            );
        }
        assert_eq!(decode(b"0\r\n\r\n", 1).unwrap(), (vec![], 0));
        assert_eq!(
            decode(b"A\r\n0123456789\r\n0\r\n\r\n", 3).unwrap().0,
            b"0123456789"
        );
    }

    #[test]
    fn broken_framing_is_refused() {
        let cases: [(&[u8], ErrorKind); 15] = [
            (b"\r\n", ErrorKind::Malformed),
            (b"g\r\n", ErrorKind::Malformed),
            (b"-1\r\n", ErrorKind::Malformed),
            (b"0x5\r\n", ErrorKind::Malformed),
            (b" 5\r\n", ErrorKind::Malformed),
            (b"5\nhello", ErrorKind::Malformed),
            (b"5\r\rhello", ErrorKind::Malformed),
            (b"5;a\nb\r\nhello", ErrorKind::Malformed),
            (b"3\r\nhello\r\n", ErrorKind::Malformed),
            (b"3\r\nhel\n0\r\n\r\n", ErrorKind::Malformed),
            (b"3\r\nhel\r0\r\n\r\n", ErrorKind::Malformed),
            (b"0\r\nA: \0\r\n\r\n", ErrorKind::Malformed),
            (b"0\r\nA: b\nC: d\r\n\r\n", ErrorKind::Malformed),
            (b"00000000000000005\r\nhello", ErrorKind::BodyTooLarge),
            (b"5\r\nhel", ErrorKind::Disconnected),
        ];
        for (input, kind) in cases {
            for piece in [1, 64] {
                let error = decode(input, piece).expect_err(&String::from_utf8_lossy(input));
                assert_eq!(error.kind(), kind, "{:?}", String::from_utf8_lossy(input));
            }
        }
    }

    #[test]
    fn extensions_and_trailers_share_one_limit() {
        let long = [
            b"1;".to_vec(),
            vec![b'x'; 65],
            b"\r\na\r\n0\r\n\r\n".to_vec(),
        ]
        .concat();
        assert_eq!(
            decode(&long, 7).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
        let many = [b"1;xxxx\r\na\r\n".repeat(17), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(
            decode(&many, 7).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
        let trailers = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(17), b"\r\n".to_vec()].concat();
        assert_eq!(
            decode(&trailers, 7).unwrap_err().kind(),
            ErrorKind::HeaderTooLarge
        );
    }
}
