//! The header of a .npy file (NumPy enhancement proposal 1): magic, version, and a Python dictionary
//! of three members.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// Longest header that is read, in bytes; NumPy itself warns beyond 10,000.
const HEADER_BYTES_MAX: u32 = 64 << 10;
const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `<`, `>`, `=` or `|`.
    pub(super) order: char,
    /// The letter of the type, such as `f`.
    pub(super) letter: char,
    /// Size that follows the letter: bytes, or characters for `U`.
    pub(super) size: usize,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// Reads a header; the reader stands at the first element then.
    pub(super) fn read(reader: &mut impl Read) -> Result<Self> {
        let mut start = [0; 8];
        reader
            .read_exact(&mut start)
            .context("it is too short for a header")?;
        ensure!(start.starts_with(MAGIC), "it is not a .npy file");
        let length = if start[6] == 1 {
            let mut length = [0; 2];
            reader
                .read_exact(&mut length)
                .context("its header is cut short")?;
            u32::from(u16::from_le_bytes(length))
        } else {
            let mut length = [0; 4];
            reader
                .read_exact(&mut length)
                .context("its header is cut short")?;
            u32::from_le_bytes(length)
        };
        ensure!(
            length <= HEADER_BYTES_MAX,
            "its header of {length} bytes is too long"
        );
        let mut text = String::new();
        reader
            .take(length.into())
            .read_to_string(&mut text)
            .context("its header is no text")?;
        Self::parse(&text).with_context(|| format!("its header is {:?}", text.trim()))
    }

    fn parse(text: &str) -> Result<Self> {
        let descr = member(text, "descr")?;
        let quote = descr
            .chars()
            .next()
            .filter(|letter| matches!(letter, '\'' | '"'));
        let quote = quote.context("structured elements are not supported")?;
        let descr = descr[1..].split(quote).next().unwrap_or_default();
        let mut letters = descr.chars();
        let order = letters.next().filter(|letter| "<>=|".contains(*letter));
        let (order, letter) = order.zip(letters.next()).context("descr names no type")?;
        let size = letters.as_str().parse().context("descr has no size")?;
        let fortran_order = match member(text, "fortran_order")? {
            word if word.starts_with("True") => true,
            word if word.starts_with("False") => false,
            _ => bail!("fortran_order is neither True nor False"),
        };
        let shape = member(text, "shape")?;
        let shape = shape
            .strip_prefix('(')
            .and_then(|shape| shape.split_once(')'));
        let (shape, _) = shape.context("shape is no tuple")?;
        let shape = shape
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(|size| {
                size.parse()
                    .with_context(|| format!("shape has the size {size}"))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            order,
            letter,
            size,
            fortran_order,
            shape,
        })
    }

    /// Writes version 1.0 of the header, padded so that the elements start at a multiple of 64 bytes.
    pub(super) fn write(&self, writer: &mut impl Write) -> Result<()> {
        let Self {
            order,
            letter,
            size,
            ..
        } = self;
        let dims: String = self.shape.iter().map(|size| format!("{size}, ")).collect();
        let fortran = if self.fortran_order { "True" } else { "False" };
        let mut text = format!(
            "{{'descr': '{order}{letter}{size}', 'fortran_order': {fortran}, 'shape': ({dims}), }}"
        );
        let padding = (64 - (text.len() + 11) % 64) % 64;
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        writer.write_all(MAGIC)?;
        writer.write_all(&[1, 0])?;
        let length = u16::try_from(text.len()).context("too many dimensions")?;
        writer.write_all(&length.to_le_bytes())?;
        writer.write_all(text.as_bytes())?;
        Ok(())
    }
}

/// What follows a member's name and colon.
fn member<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    [format!("'{name}'"), format!("\"{name}\"")]
        .iter()
        .find_map(|quoted| text.split_once(quoted.as_str()))
        .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
        .map(str::trim_start)
        .with_context(|| format!("there is no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_numpy_writes_is_understood() {
        let parse = |text| Header::parse(text).unwrap();
        let header = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n");
        assert_eq!((header.order, header.letter, header.size), ('<', 'f', 4));
        assert_eq!((header.fortran_order, header.shape), (false, vec![2, 3]));
        assert!(
            parse("{'descr': '|b1', 'fortran_order': True, 'shape': (), }")
                .shape
                .is_empty()
        );
        assert_eq!(
            parse("{'shape': (5,), 'fortran_order': False, 'descr': '>U10'}").size,
            10
        );
    }

    #[test]
    fn anything_else_is_an_error() {
        for wrong in [
            "",
            "{}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
            "{'descr': 'f4', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': 3, }",
            "{'descr': '\u{e9}",
        ] {
            assert!(Header::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_is_written_as_it_is_read() {
        let header = Header {
            order: '<',
            letter: 'i',
            size: 8,
            fortran_order: false,
            shape: vec![7, 1],
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 64, 0);
        assert_eq!(Header::read(&mut bytes.as_slice()).unwrap(), header);
        for length in 0..bytes.len() {
            assert!(
                Header::read(&mut &bytes[..length]).is_err() || length > 60,
                "{length}"
            );
        }
    }
}
