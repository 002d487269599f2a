//! Inputs for a run: read from files or made up.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use weldpool::Allocator;
use weldpool_engine::{DataType, Dim, Tensor, TensorSpec, element_count};

use super::{Options, npy};

/// Most bytes that a made-up input may have; a mistyped shape should not fill the memory.
const MADE_BYTES_MAX: usize = 16 << 30;

/// `NAME=FILE.npy|random|zeros`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputSource {
    name: String,
    from: From,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    File(PathBuf),
    Random,
    Zeros,
}

impl FromStr for InputSource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // Names may hold an equals sign, files and keywords rarely do.
        let (name, from) = text
            .rsplit_once('=')
            .ok_or("there is no '=' between name and source")?;
        if name.is_empty() || from.is_empty() {
            return Err("name or source is empty".into());
        }
        let from = match from {
            "random" => From::Random,
            "zeros" => From::Zeros,
            file => From::File(file.into()),
        };
        Ok(Self {
            name: name.into(),
            from,
        })
    }
}

/// `NAME:1,3,224,224`; nothing after the colon is a scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShapeOverride {
    name: String,
    shape: Vec<usize>,
}

impl FromStr for ShapeOverride {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, dims) = text
            .rsplit_once(':')
            .ok_or("there is no ':' between name and shape")?;
        let shape = dims
            .split(',')
            .filter(|dim| !dims.is_empty() || !dim.is_empty())
            .map(|dim| {
                dim.trim()
                    .parse()
                    .map_err(|_| format!("{dim:?} is not a dimension"))
            })
            .collect::<std::result::Result<_, String>>()?;
        Ok(Self {
            name: name.into(),
            shape,
        })
    }
}

/// A tensor for every input of the model.
pub(super) fn make(
    specs: &[TensorSpec],
    options: &Options,
    allocator: &Allocator,
) -> Result<Vec<(String, Tensor)>> {
    let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let given = options.inputs.iter().map(|input| ("--input", &input.name));
    for (option, name) in given.chain(options.shapes.iter().map(|shape| ("--shape", &shape.name))) {
        ensure!(
            known.contains(&name.as_str()),
            "{option} {name}: the model's inputs are {}",
            known.join(", ")
        );
    }
    let mut random = Random::new(options.seed);
    specs
        .iter()
        .map(|spec| {
            let from = options
                .inputs
                .iter()
                .rev()
                .find(|input| input.name == spec.name);
            let shape = options
                .shapes
                .iter()
                .rev()
                .find(|shape| shape.name == spec.name);
            let tensor = match from.map_or(&From::Random, |input| &input.from) {
                From::File(path) => {
                    ensure!(
                        shape.is_none(),
                        "--shape {}: the file gives the shape",
                        spec.name
                    );
                    npy::read(path, spec.data_type, allocator)
                        .with_context(|| format!("input {} from {}", spec.name, path.display()))?
                }
                From::Zeros => made(spec, shape, allocator, None)?,
                From::Random => made(spec, shape, allocator, Some(&mut random))?,
            };
            Ok((spec.name.clone(), tensor))
        })
        .collect()
}

fn made(
    spec: &TensorSpec,
    shape: Option<&ShapeOverride>,
    allocator: &Allocator,
    random: Option<&mut Random>,
) -> Result<Tensor> {
    let shape = match shape {
        Some(given) => given.shape.clone(),
        None => spec
            .dims
            .iter()
            .map(|dim| Dim::known(dim).unwrap_or(1))
            .collect(),
    };
    let bytes = element_count(&shape)
        .and_then(|count| count.checked_mul(spec.data_type.byte_size().unwrap_or(4)));
    match bytes {
        Some(bytes) if bytes <= MADE_BYTES_MAX => {}
        _ => bail!(
            "input {}: shape {shape:?} is larger than {MADE_BYTES_MAX} bytes",
            spec.name
        ),
    }
    let Some(random) = random else {
        return Ok(Tensor::zeroed(allocator, spec.data_type, shape)?);
    };
    let count = element_count(&shape).unwrap_or(0);
    let data_type = spec.data_type;
    if data_type == DataType::Bytes {
        let strings: Vec<String> = (0..count)
            .map(|_| format!("{:08x}", random.next()))
            .collect();
        return Ok(Tensor::from_strings(allocator, shape, &strings)?);
    }
    let mut bytes = Vec::new();
    for _ in 0..count {
        random.push(data_type, &mut bytes);
    }
    Ok(Tensor::from_bytes(allocator, data_type, shape, &bytes)?)
}

/// A small generator (xorshift64*), so that a seed gives the same input on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// One element: floats from [0, 1), integers from 0 to 9, so that indices stay in range.
    fn push(&mut self, data_type: DataType, bytes: &mut Vec<u8>) {
        let bits = self.next() >> 11;
        let unit = bits as f64 / (1_u64 << 53) as f64;
        let digit = (bits % 10) as u8;
        match data_type {
            DataType::Bool => bytes.push(digit % 2),
            DataType::Fp16 => bytes.extend(f16::from_f64(unit).to_le_bytes()),
            DataType::Bf16 => bytes.extend(bf16::from_f64(unit).to_le_bytes()),
            DataType::Fp32 => bytes.extend((unit as f32).to_le_bytes()),
            DataType::Fp64 => bytes.extend(unit.to_le_bytes()),
            _ => {
                bytes.push(digit);
                let size = data_type.byte_size().unwrap_or(1);
                bytes.extend(std::iter::repeat_n(0, size - 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed() {
        let source = |text: &str| text.parse::<InputSource>();
        assert_eq!(source("x=zeros").unwrap().from, From::Zeros);
        assert_eq!(source("a=b=random").unwrap().name, "a=b");
        assert_eq!(source("x=a.npy").unwrap().from, From::File("a.npy".into()));
        for wrong in ["x", "=random", "x="] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
        let shape = |text: &str| text.parse::<ShapeOverride>();
        assert_eq!(shape("x:1,3,4").unwrap().shape, [1, 3, 4]);
        assert_eq!(shape("a:b:2").unwrap().name, "a:b");
        assert!(shape("x:").unwrap().shape.is_empty());
        for wrong in ["x", "x:-1", "x:1,,2", "x:a"] {
            assert!(shape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_input() {
        let elements = |seed| {
            let mut bytes = Vec::new();
            let mut random = Random::new(seed);
            for _ in 0..100 {
                random.push(DataType::Fp32, &mut bytes);
            }
            bytes
        };
        assert_eq!(elements(1), elements(1));
        assert_ne!(elements(1), elements(2));
    }
}
