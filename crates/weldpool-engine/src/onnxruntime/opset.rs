//! Reads the operator set's version from an ONNX file, without reading the graph in it.
//!
//! The library does not tell it in the versions supported here. A file is a protobuf message; field
//! 8 of it (`opset_import`) is repeated, with the domain as field 1 and the version as field 2.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

const OPSET_IMPORT: u64 = 8;
const DOMAIN: u64 = 1;
const VERSION: u64 = 2;

/// How many top-level fields are looked at.
const FIELDS_MAX: usize = 100_000;

/// The longest `opset_import` that is read, in bytes.
const IMPORT_BYTES_MAX: u64 = 4096;

/// The version of the default domain's operators, if the file says so.
pub(super) fn of_file(path: &Path) -> Option<i64> {
    let file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    read(&mut std::io::BufReader::new(file), end)
}

/// The same for a file's contents.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<i64> {
    read(&mut Cursor::new(bytes), u64::try_from(bytes.len()).ok()?)
}

fn read(source: &mut (impl Read + Seek), end: u64) -> Option<i64> {
    let mut position = 0;
    for _ in 0..FIELDS_MAX {
        if position >= end {
            return None;
        }
        let (field, value) = field(source, &mut position)?;
        let Value::Bytes(length) = value else {
            continue;
        };
        let next = position.checked_add(length).filter(|next| *next <= end)?;
        if field == OPSET_IMPORT && length <= IMPORT_BYTES_MAX {
            let mut import = vec![0; usize::try_from(length).ok()?];
            source.read_exact(&mut import).ok()?;
            if let Some(version) = default_domain(&import) {
                return Some(version);
            }
        } else {
            source.seek(SeekFrom::Start(next)).ok()?;
        }
        position = next;
    }
    None
}

/// The version of one import, if it is for the default domain.
fn default_domain(import: &[u8]) -> Option<i64> {
    let mut source = Cursor::new(import);
    let (mut position, mut version) = (0, None);
    while position < u64::try_from(import.len()).ok()? {
        match field(&mut source, &mut position)? {
            (DOMAIN, Value::Bytes(length)) => {
                let start = usize::try_from(position).ok()?;
                let domain =
                    import.get(start..start.checked_add(usize::try_from(length).ok()?)?)?;
                if !domain.is_empty() && domain != b"ai.onnx" {
                    return None;
                }
                position += length;
                source.set_position(position);
            }
            (_, Value::Bytes(length)) => {
                position = position.checked_add(length)?;
                source.set_position(position);
            }
            (VERSION, Value::Number(number)) => version = i64::try_from(number).ok(),
            (_, Value::Number(_)) => {}
        }
    }
    version
}

enum Value {
    Number(u64),
    /// The length of what follows.
    Bytes(u64),
}

/// Reads a field's number and value, up to the contents of a field with a length.
fn field(source: &mut impl Read, position: &mut u64) -> Option<(u64, Value)> {
    let tag = varint(source, position)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(source, position)?),
        1 => Value::Number(u64::from_le_bytes(fixed(source, position)?)),
        2 => Value::Bytes(varint(source, position)?),
        5 => Value::Number(u64::from(u32::from_le_bytes(fixed(source, position)?))),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(source: &mut impl Read, position: &mut u64) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = fixed(source, position)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn fixed<const N: usize>(source: &mut impl Read, position: &mut u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).ok()?;
    *position = position.checked_add(N as u64)?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_default_domain() {
        // ir_version 8; a graph of 3 bytes; ai.onnx.ml 3; the default domain 17.
        let mut model = vec![0x08, 8, 0x3a, 3, 1, 2, 3];
        model.extend([0x42, 14, 0x0a, 10]);
        model.extend(b"ai.onnx.ml");
        model.extend([0x10, 3]);
        assert_eq!(of_bytes(&model), None);
        model.extend([0x42, 4, 0x0a, 0, 0x10, 17]);
        assert_eq!(of_bytes(&model), Some(17));
    }

    #[test]
    fn no_bytes_harm_it() {
        let mut seed = 1_u32;
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let _ = of_bytes(&bytes);
        }
        assert_eq!(
            of_bytes(&[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            None
        );
        assert_eq!(of_bytes(&[0x42, 2, 0x0a, 0xff]), None);
    }
}
