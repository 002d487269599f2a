//! Element types of tensors, by the names of the KServe protocol and of Triton's configuration.

use std::fmt;
use std::str::FromStr;

use crate::{Error, ErrorKind};

/// The type of a tensor's elements: all that Triton knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataType {
    /// One byte per element, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE 754 half precision, handled as its 16-bit pattern.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Byte strings of any length; ONNX's `string`.
    Bytes,
    /// bfloat16, handled as its 16-bit pattern.
    Bf16,
}

impl DataType {
    /// Every element type, in the order of Triton's configuration schema.
    pub const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
        DataType::Bf16,
    ];

    /// The name in the KServe protocol, such as `FP32`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::Uint8 => "UINT8",
            DataType::Uint16 => "UINT16",
            DataType::Uint32 => "UINT32",
            DataType::Uint64 => "UINT64",
            DataType::Int8 => "INT8",
            DataType::Int16 => "INT16",
            DataType::Int32 => "INT32",
            DataType::Int64 => "INT64",
            DataType::Fp16 => "FP16",
            DataType::Fp32 => "FP32",
            DataType::Fp64 => "FP64",
            DataType::Bytes => "BYTES",
            DataType::Bf16 => "BF16",
        }
    }

    /// The name in a model's configuration, such as `TYPE_FP32`; byte strings are `TYPE_STRING`.
    #[must_use]
    pub const fn config_name(self) -> &'static str {
        match self {
            DataType::Bool => "TYPE_BOOL",
            DataType::Uint8 => "TYPE_UINT8",
            DataType::Uint16 => "TYPE_UINT16",
            DataType::Uint32 => "TYPE_UINT32",
            DataType::Uint64 => "TYPE_UINT64",
            DataType::Int8 => "TYPE_INT8",
            DataType::Int16 => "TYPE_INT16",
            DataType::Int32 => "TYPE_INT32",
            DataType::Int64 => "TYPE_INT64",
            DataType::Fp16 => "TYPE_FP16",
            DataType::Fp32 => "TYPE_FP32",
            DataType::Fp64 => "TYPE_FP64",
            DataType::Bytes => "TYPE_STRING",
            DataType::Bf16 => "TYPE_BF16",
        }
    }

    /// The type of a KServe protocol name, such as `FP32`. Names are upper case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<DataType> {
        Self::ALL
            .into_iter()
            .find(|data_type| data_type.name() == name)
    }

    /// The type of a configuration name, such as `TYPE_FP32`.
    #[must_use]
    pub fn from_config_name(name: &str) -> Option<DataType> {
        Self::ALL
            .into_iter()
            .find(|data_type| data_type.config_name() == name)
    }

    /// Bytes per element, or `None` for byte strings, whose elements differ in length.
    #[must_use]
    pub const fn byte_size(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => Some(2),
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => Some(4),
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => Some(8),
            DataType::Bytes => None,
        }
    }

    /// Whether elements of this type can be read and written where these bytes lie: their address
    /// is a multiple of the element's size. Byte strings, and no bytes at all, may lie anywhere.
    #[must_use]
    pub fn is_aligned(self, bytes: &[u8]) -> bool {
        bytes.is_empty()
            || bytes
                .as_ptr()
                .addr()
                .is_multiple_of(self.byte_size().unwrap_or(1))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DataType {
    type Err = Error;

    fn from_str(name: &str) -> Result<DataType, Error> {
        DataType::from_name(name).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("'{}' is not an element type", name.escape_default()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_types() {
        for data_type in DataType::ALL {
            assert_eq!(DataType::from_name(data_type.name()), Some(data_type));
            assert_eq!(
                DataType::from_config_name(data_type.config_name()),
                Some(data_type)
            );
            assert_eq!(data_type.name().parse::<DataType>().unwrap(), data_type);
        }
        assert_eq!(DataType::from_name("fp32"), None);
        assert_eq!(DataType::from_config_name("TYPE_BYTES"), None);
        let error = "FP8".parse::<DataType>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("FP8"));
    }

    #[test]
    fn alignment_is_that_of_the_element() {
        let memory = [0_u8; 24];
        let bytes = &memory[memory.as_ptr().align_offset(8)..];
        for data_type in DataType::ALL {
            let size = data_type.byte_size().unwrap_or(1);
            for offset in 0..8 {
                assert_eq!(
                    data_type.is_aligned(&bytes[offset..]),
                    offset % size == 0,
                    "{data_type} at {offset}"
                );
                assert!(data_type.is_aligned(&bytes[offset..offset]));
            }
        }
    }

    #[test]
    fn only_byte_strings_have_no_size() {
        for data_type in DataType::ALL {
            assert_eq!(
                data_type.byte_size().is_none(),
                data_type == DataType::Bytes
            );
        }
    }
}
