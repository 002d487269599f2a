//! The numbers of Triton's enumerations, as far as they are used.

/// A value of one of Triton's C enumerations as it crosses the border: any number may arrive.
pub type Number = std::ffi::c_int;

macro_rules! numbers {
    ($($(#[$documentation:meta])* $name:ident { $($value:ident = $number:literal,)+ })+) => {
        $(
            $(#[$documentation])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            #[allow(missing_docs, reason = "the values are Triton's, by Triton's names")]
            pub enum $name { $($value,)+ }

            impl $name {
                /// All of them, in Triton's order.
                pub const ALL: &'static [$name] = &[$($name::$value,)+];

                /// The number that crosses the border.
                #[must_use]
                pub const fn number(self) -> Number {
                    match self { $($name::$value => $number,)+ }
                }

                /// The value of a number; `None` if it is none of these.
                #[must_use]
                pub const fn of(number: Number) -> Option<$name> {
                    match number { $($number => Some($name::$value),)+ _ => None }
                }
            }
        )+
    };
}

numbers! {
    /// `TRITONSERVER_Error_Code`.
    ErrorCode {
        Unknown = 0,
        Internal = 1,
        NotFound = 2,
        InvalidArgument = 3,
        Unavailable = 4,
        Unsupported = 5,
        AlreadyExists = 6,
        Cancelled = 7,
    }
    /// `TRITONSERVER_DataType`, without `TRITONSERVER_TYPE_INVALID`.
    DataType {
        Bool = 1,
        Uint8 = 2,
        Uint16 = 3,
        Uint32 = 4,
        Uint64 = 5,
        Int8 = 6,
        Int16 = 7,
        Int32 = 8,
        Int64 = 9,
        Fp16 = 10,
        Fp32 = 11,
        Fp64 = 12,
        Bytes = 13,
        Bf16 = 14,
    }
    /// `TRITONSERVER_MemoryType`. There is none for Metal: memory that it shares is the host's.
    MemoryType {
        Cpu = 0,
        CpuPinned = 1,
        Gpu = 2,
    }
    /// `TRITONSERVER_InstanceGroupKind`; the numbers in `model_config.proto` are others.
    InstanceGroupKind {
        Auto = 0,
        Cpu = 1,
        Gpu = 2,
        Model = 3,
    }
    /// `TRITONSERVER_LogLevel`.
    LogLevel {
        Info = 0,
        Warning = 1,
        Error = 2,
        Verbose = 3,
    }
    /// `TRITONSERVER_MetricKind`, without histograms.
    MetricKind {
        Counter = 0,
        Gauge = 1,
    }
    /// `TRITONSERVER_ParameterType`.
    ParameterType {
        String = 0,
        Int = 1,
        Bool = 2,
        Bytes = 3,
        Double = 4,
    }
}

/// `TRITONBACKEND_ARTIFACT_FILESYSTEM`, the one kind of place that a model can be at.
pub const ARTIFACT_FILESYSTEM: Number = 0;

/// `TRITONSERVER_RESPONSE_COMPLETE_FINAL`: no further answer to the request follows.
pub const RESPONSE_COMPLETE_FINAL: u32 = 1;

/// `TRITONSERVER_REQUEST_RELEASE_ALL`: the request is given back for good.
pub const REQUEST_RELEASE_ALL: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_number_of_its_own_and_comes_back_from_it() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::of(code.number()), Some(*code));
        }
        for data_type in DataType::ALL {
            assert_eq!(DataType::of(data_type.number()), Some(*data_type));
        }
        assert_eq!(DataType::of(0), None);
        assert_eq!(MemoryType::of(-1), None);
        assert_eq!(InstanceGroupKind::of(Number::MAX), None);
    }
}
