//! Tensors in NumPy's .npy files.
//!
//! BF16 has no NumPy type: it is read from and written as `uint16`. BYTES are read from `S` and `U`
//! arrays and written as `S`, which cannot keep zero bytes at the end of an element.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use weldpool::{Allocator, Request};
use weldpool_engine::{DataType, Tensor};

use super::npy_header::Header;

/// Reads a tensor of the type that the model wants; numbers go straight into pool memory.
pub(super) fn read(path: &Path, data_type: DataType, allocator: &Allocator) -> Result<Tensor> {
    let file = File::open(path).context("cannot open the file")?;
    let length = file.metadata().context("cannot read its length")?.len();
    let mut reader = BufReader::new(file);
    let header = Header::read(&mut reader)?;
    ensure!(
        !header.fortran_order || header.shape.len() < 2,
        "it is in Fortran order; save it with numpy.ascontiguousarray"
    );
    let Header {
        order,
        letter,
        size,
        shape,
        ..
    } = header;
    let big = order == '>';
    // The size of `U` counts characters of four bytes.
    let size = if letter == 'U' {
        size.checked_mul(4)
    } else {
        Some(size)
    };
    let count = weldpool_engine::element_count(&shape);
    let bytes = count
        .zip(size)
        .and_then(|(count, size)| count.checked_mul(size));
    let (Some(count), Some(size), Some(bytes)) = (count, size, bytes) else {
        bail!("its shape {shape:?} is too large");
    };
    ensure!(
        bytes as u64 <= length,
        "it is cut short: the header tells of {bytes} bytes of data, the file has {length}"
    );
    if data_type == DataType::Bytes {
        ensure!(
            matches!(letter, 'S' | 'U'),
            "it has elements of type {letter}{size}, but the input is BYTES"
        );
        // Elements of no bytes take no room in the file, so their number has a bound of its own.
        ensure!(
            size > 0 || count as u64 <= length,
            "it has {count} empty elements"
        );
        let mut data = vec![0; bytes];
        reader
            .read_exact(&mut data)
            .context("cannot read its data")?;
        let strings = (0..count)
            .map(|index| text(&data[index * size..][..size], letter == 'U', big))
            .collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::from_strings(allocator, shape, &strings)?);
    }
    let expected = code(data_type);
    ensure!(
        (letter, size) == expected,
        "it has elements of type {letter}{size}, but the input is {data_type} ({}{})",
        expected.0,
        expected.1
    );
    if bytes == 0 {
        return Ok(Tensor::new(data_type, shape, None)?);
    }
    let mut buffer = allocator.allocate_with(&Request::new(bytes).name("npy"))?;
    let mut contents = buffer.write::<u8>()?;
    reader
        .read_exact(&mut contents)
        .context("cannot read its data")?;
    if big {
        contents.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    drop(contents);
    Ok(Tensor::new(data_type, shape, Some(buffer.share()))?)
}

/// Writes a tensor; see the module for types that NumPy lacks.
pub(super) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    let data_type = tensor.data_type();
    let shape = tensor.shape().to_vec();
    let header = |order, letter, size| Header {
        order,
        letter,
        size,
        fortran_order: false,
        shape,
    };
    if data_type == DataType::Bytes {
        let strings = tensor.strings()?;
        let width = strings.iter().map(<[u8]>::len).max().unwrap_or(0).max(1);
        header('|', 'S', width).write(&mut writer)?;
        for string in strings.iter() {
            writer.write_all(string)?;
            writer.write_all(&vec![0; width - string.len()])?;
        }
    } else {
        let (letter, size) = code(data_type);
        let order = if size == 1 { '|' } else { '<' };
        header(order, letter, size).write(&mut writer)?;
        writer.write_all(&tensor.bytes()?)?;
    }
    writer.flush()?;
    Ok(())
}

/// A file name for an output: its name, with everything a file system could object to replaced.
pub(super) fn file_name(output: &str) -> String {
    let safe = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let name: String = output
        .chars()
        .map(|letter| if safe(letter) { letter } else { '_' })
        .collect();
    format!("{}.npy", name.trim_start_matches('.'))
}

/// NumPy's letter and size for a type.
fn code(data_type: DataType) -> (char, usize) {
    let letter = match data_type {
        DataType::Bool => 'b',
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => 'i',
        DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => 'f',
        DataType::Bytes => 'S',
        _ => 'u',
    };
    (letter, data_type.byte_size().unwrap_or(0))
}

/// One element of an `S` or `U` array, without the zeroes that fill it up.
fn text(element: &[u8], unicode: bool, big: bool) -> Result<Vec<u8>> {
    if !unicode {
        let length = element
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        return Ok(element[..length].to_vec());
    }
    let mut string = String::new();
    for bytes in element.as_chunks::<4>().0 {
        let point = if big {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        };
        string.push(char::from_u32(point).context("it has text that is not Unicode")?);
    }
    Ok(string.trim_end_matches('\0').to_owned().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(tensor: &Tensor) -> Tensor {
        let name = format!(
            "weldpool-npy-{}-{:?}",
            std::process::id(),
            tensor.data_type()
        );
        let path = std::env::temp_dir().join(name);
        write(&path, tensor).unwrap();
        let back = read(&path, tensor.data_type(), &Allocator::host().unwrap());
        std::fs::remove_file(&path).unwrap();
        back.unwrap()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let allocator = Allocator::host().unwrap();
        for data_type in [
            DataType::Bool,
            DataType::Uint16,
            DataType::Int64,
            DataType::Fp16,
        ] {
            for shape in [vec![], vec![3], vec![2, 0], vec![2, 3, 4]] {
                let bytes = weldpool_engine::element_count(&shape).unwrap()
                    * data_type.byte_size().unwrap();
                let data: Vec<u8> = (0..bytes).map(|index| (index % 2) as u8).collect();
                let tensor = Tensor::from_bytes(&allocator, data_type, shape, &data).unwrap();
                let back = round_trip(&tensor);
                assert_eq!(back.shape(), tensor.shape());
                assert_eq!(&*back.bytes().unwrap(), &*data);
            }
        }
        let strings = Tensor::from_strings(&allocator, vec![3], &["a", "", "long"]).unwrap();
        let back = round_trip(&strings);
        let back = back.strings().unwrap();
        assert_eq!(back.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"long"]);
    }

    #[test]
    fn wrong_files_are_errors() {
        let allocator = Allocator::host().unwrap();
        let path = std::env::temp_dir().join(format!("weldpool-npy-bad-{}", std::process::id()));
        let header = |size, shape: &[usize]| {
            let shape = shape.to_vec();
            let mut bytes = Vec::new();
            let header = Header {
                order: '<',
                letter: 'f',
                size,
                fortran_order: false,
                shape,
            };
            header.write(&mut bytes).unwrap();
            bytes
        };
        let huge = header(4, &[1 << 40, 1 << 40]);
        let short = header(4, &[100]);
        let other = header(8, &[0]);
        for wrong in [&b""[..], b"\x93NUMPY", b"nonsense", &huge, &short, &other] {
            std::fs::write(&path, wrong).unwrap();
            assert!(read(&path, DataType::Fp32, &allocator).is_err());
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn file_names_stay_in_the_folder() {
        assert_eq!(file_name("a/b:0"), "a_b_0.npy");
        assert_eq!(file_name("../../x"), "_.._x.npy");
    }
}
