//! Tensors in NumPy's .npy files.
//!
//! BF16 has no NumPy type: it is read from and written as `uint16`. BYTES are read from `S` and `U`
//! arrays and written as `S`, which cannot keep zero bytes at the end of an element.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use weldpool::{Allocator, Request};
use weldpool_engine::{DataType, Tensor};

/// Reads a tensor of the type that the model wants; numbers go straight into pool memory.
pub(super) fn read(path: &Path, data_type: DataType, allocator: &Allocator) -> Result<Tensor> {
    let file = File::open(path).context("cannot open the file")?;
    let length = file.metadata().context("cannot read its length")?.len();
    let mut reader = BufReader::new(file);
    let header = NpyHeader::from_reader(&mut reader).context("it is not a .npy file")?;
    let DType::Plain(element) = header.dtype() else {
        bail!("it has structured elements; plain ones are needed");
    };
    let shape = header
        .shape()
        .iter()
        .map(|&size| usize::try_from(size).context("a dimension is too large"))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        header.order() == Order::C || shape.len() < 2,
        "it is in Fortran order; save it with numpy.ascontiguousarray"
    );
    let size = element.num_bytes().context("its elements have no size")?;
    let count = weldpool_engine::element_count(&shape).context("its shape is too large")?;
    let bytes = count.checked_mul(size).context("its shape is too large")?;
    ensure!(
        bytes as u64 <= length,
        "it is cut short: the header tells of {bytes} bytes of data, the file has {length}"
    );
    let kind = element.type_char();
    if data_type == DataType::Bytes {
        ensure!(
            matches!(kind, TypeChar::ByteStr | TypeChar::UnicodeStr),
            "it has elements of type {element}, but the input is BYTES"
        );
        let mut data = vec![0; bytes];
        reader.read_exact(&mut data).context("cannot read its data")?;
        let big = element.endianness() == Endianness::Big;
        let strings = (0..count)
            .map(|index| text(&data[index * size..][..size], kind, big))
            .collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::from_strings(allocator, shape, &strings)?);
    }
    let expected = code(data_type);
    let found = (type_letter(kind), size);
    ensure!(
        found == expected,
        "it has elements of type {element}, but the input is {data_type} ({}{})",
        expected.0,
        expected.1
    );
    if bytes == 0 {
        return Ok(Tensor::new(data_type, shape, None)?);
    }
    let mut buffer = allocator.allocate_with(&Request::new(bytes).name("npy"))?;
    let mut contents = buffer.write::<u8>()?;
    reader.read_exact(&mut contents).context("cannot read its data")?;
    if element.endianness() == Endianness::Big {
        contents.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    drop(contents);
    Ok(Tensor::new(data_type, shape, Some(buffer.share()))?)
}

/// Writes a tensor; see the module for types that NumPy lacks.
pub(super) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    let data_type = tensor.data_type();
    if data_type == DataType::Bytes {
        let strings = tensor.strings()?;
        let width = strings.iter().map(<[u8]>::len).max().unwrap_or(0).max(1);
        write_header(&mut writer, &format!("|S{width}"), tensor.shape())?;
        for string in strings.iter() {
            writer.write_all(string)?;
            writer.write_all(&vec![0; width - string.len()])?;
        }
    } else {
        let (letter, size) = code(data_type);
        let order = if size == 1 { '|' } else { '<' };
        write_header(&mut writer, &format!("{order}{letter}{size}"), tensor.shape())?;
        writer.write_all(&tensor.bytes()?)?;
    }
    writer.flush()?;
    Ok(())
}

/// A file name for an output: its name, with everything a file system could object to replaced.
pub(super) fn file_name(output: &str) -> String {
    let safe = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let name: String =
        output.chars().map(|letter| if safe(letter) { letter } else { '_' }).collect();
    format!("{}.npy", name.trim_start_matches('.'))
}

/// Version 1.0 of the format: magic, header length, header padded to 64 bytes.
fn write_header(writer: &mut impl Write, descr: &str, shape: &[usize]) -> Result<()> {
    let dims: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let padding = (64 - (header.len() + 11) % 64) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    writer.write_all(b"\x93NUMPY\x01\x00")?;
    writer.write_all(&u16::try_from(header.len()).context("too many dimensions")?.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    Ok(())
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

fn type_letter(kind: TypeChar) -> char {
    kind.to_str().chars().next().unwrap_or('?')
}

/// One element of an `S` or `U` array, without the zeroes that fill it up.
fn text(element: &[u8], kind: TypeChar, big: bool) -> Result<Vec<u8>> {
    if kind == TypeChar::ByteStr {
        let length = element.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        return Ok(element[..length].to_vec());
    }
    let mut string = String::new();
    for bytes in element.as_chunks::<4>().0 {
        let point = if big { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) };
        string.push(char::from_u32(point).context("it has text that is not Unicode")?);
    }
    Ok(string.trim_end_matches('\0').to_owned().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(tensor: &Tensor) -> Tensor {
        let name = format!("weldpool-npy-{}-{:?}", std::process::id(), tensor.data_type());
        let path = std::env::temp_dir().join(name);
        write(&path, tensor).unwrap();
        let back = read(&path, tensor.data_type(), &Allocator::host().unwrap());
        std::fs::remove_file(&path).unwrap();
        back.unwrap()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let allocator = Allocator::host().unwrap();
        for data_type in [DataType::Bool, DataType::Uint16, DataType::Int64, DataType::Fp16] {
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
        let mut huge = Vec::new();
        write_header(&mut huge, "<f4", &[1 << 40, 1 << 40]).unwrap();
        let mut short = Vec::new();
        write_header(&mut short, "<f4", &[100]).unwrap();
        let mut other = Vec::new();
        write_header(&mut other, "<f8", &[0]).unwrap();
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
