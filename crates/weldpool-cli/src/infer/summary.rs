//! One line about a tensor.

use anyhow::Result;
use half::{bf16, f16};
use weldpool_engine::{DataType, Tensor};

/// Characters of a string element that are shown.
const TEXT_MAX: usize = 24;

/// Name, type, shape, and the range and mean of the elements, or the first strings.
pub(super) fn tensor(name: &str, tensor: &Tensor) -> Result<String> {
    let dims: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
    let head = format!("{name} {} [{}]", tensor.data_type(), dims.join(","));
    if tensor.element_count() == 0 {
        return Ok(format!("{head} empty"));
    }
    if tensor.data_type() == DataType::Bytes {
        let strings = tensor.strings()?;
        let first: Vec<String> = strings
            .iter()
            .take(4)
            .map(|text| {
                let text: String = String::from_utf8_lossy(text)
                    .chars()
                    .take(TEXT_MAX)
                    .collect();
                format!("{text:?}")
            })
            .collect();
        let more = if strings.len() > 4 { ", .." } else { "" };
        return Ok(format!("{head} {}{more}", first.join(", ")));
    }
    let (mut low, mut high, mut sum, mut odd) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0_usize);
    for value in numbers(tensor)? {
        if value.is_finite() {
            low = low.min(value);
            high = high.max(value);
            sum += value;
        } else {
            odd += 1;
        }
    }
    let finite = tensor.element_count() - odd;
    let odd = if odd > 0 {
        format!(", {odd} not finite")
    } else {
        String::new()
    };
    if finite == 0 {
        return Ok(format!("{head}{odd}"));
    }
    Ok(format!(
        "{head} min {low} max {high} mean {:.6}{odd}",
        sum / finite as f64
    ))
}

/// The elements as numbers; 64-bit integers are rounded.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let bytes = tensor.bytes()?;
    macro_rules! each {
        ($type:ty) => {
            bytes
                .chunks_exact(size_of::<$type>())
                .map(|element| {
                    let mut bits = [0; size_of::<$type>()];
                    bits.copy_from_slice(element);
                    <$type>::from_le_bytes(bits)
                })
                .map(|value| value as f64)
                .collect()
        };
        (half $type:ty) => {
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|element| <$type>::from_le_bytes(*element).to_f64())
                .collect()
        };
    }
    Ok(match tensor.data_type() {
        DataType::Bool | DataType::Uint8 => each!(u8),
        DataType::Uint16 => each!(u16),
        DataType::Uint32 => each!(u32),
        DataType::Uint64 => each!(u64),
        DataType::Int8 => each!(i8),
        DataType::Int16 => each!(i16),
        DataType::Int32 => each!(i32),
        DataType::Int64 => each!(i64),
        DataType::Fp16 => each!(half f16),
        DataType::Bf16 => each!(half bf16),
        DataType::Fp32 => each!(f32),
        DataType::Fp64 => each!(f64),
        DataType::Bytes => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use weldpool::Allocator;

    use super::*;

    #[test]
    fn a_line_tells_range_and_mean() {
        let allocator = Allocator::host().unwrap();
        let values = [1.0_f32, -2.0, f32::NAN, 4.0];
        let floats = Tensor::from_values(&allocator, DataType::Fp32, vec![2, 2], &values).unwrap();
        let line = tensor("x", &floats).unwrap();
        assert_eq!(
            line,
            "x FP32 [2,2] min -2 max 4 mean 1.000000, 1 not finite"
        );
        let strings = Tensor::from_strings(&allocator, vec![1], &["hi"]).unwrap();
        assert_eq!(tensor("s", &strings).unwrap(), "s BYTES [1] \"hi\"");
        let empty = Tensor::new(DataType::Int8, vec![0], None).unwrap();
        assert_eq!(tensor("e", &empty).unwrap(), "e INT8 [0] empty");
    }
}
