//! What the driver answers, and which of our errors that is.

#![forbid(unsafe_code)]

use std::ffi::c_uint;
use std::num::NonZeroU32;

use super::raw::Driver;
use crate::error::{Error, ErrorKind};

/// A result of the driver's that is not success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(NonZeroU32);

/// Results after which a context answers every further call with an error: "the process must be terminated and
/// relaunched", or the context is gone (cuda.h). A result that does not mean it must not be among them: what a
/// lost context was doing counts as over.
const STICKY: [u32; 14] = [
    4,   // DEINITIALIZED
    214, // ECC_UNCORRECTABLE
    220, // NVLINK_UNCORRECTABLE
    226, // CONTAINED
    700, // ILLEGAL_ADDRESS
    702, // LAUNCH_TIMEOUT
    709, // CONTEXT_IS_DESTROYED
    710, // ASSERT
    714, // HARDWARE_STACK_ERROR
    715, // ILLEGAL_INSTRUCTION
    716, // MISALIGNED_ADDRESS
    717, // INVALID_ADDRESS_SPACE
    718, // INVALID_PC
    719, // LAUNCH_FAILED
];

impl Status {
    /// `CUDA_ERROR_NOT_READY`.
    pub(super) const NOT_READY: Self = Self::of(600);

    /// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
    pub(super) const PEER_ACCESS_ALREADY_ENABLED: Self = Self::of(704);

    const fn of(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU32::MAX),
        }
    }

    pub(super) fn check(number: c_uint) -> Result<(), Self> {
        NonZeroU32::new(number).map_or(Ok(()), |number| Err(Self(number)))
    }

    /// Whether the context is lost with it.
    pub(super) fn is_sticky(self) -> bool {
        STICKY.contains(&self.0.get())
    }

    /// What to do about it when the driver does not start, where that is known.
    pub(super) fn hint(self) -> &'static str {
        match self.0.get() {
            // NO_DEVICE
            100 => {
                "; it shows no GPU to this process (CUDA_VISIBLE_DEVICES, or a container without one)"
            }
            // SYSTEM_DRIVER_MISMATCH
            803 => {
                "; the library is of another version than the kernel's driver: load that one's, or restart after an \
                    update"
            }
            // COMPAT_NOT_SUPPORTED_ON_DEVICE
            804 => {
                "; the library is one for forward compatibility, which this GPU does not have: take the folder \
                    compat out of LD_LIBRARY_PATH"
            }
            _ => "",
        }
    }

    pub(super) fn kind(self) -> ErrorKind {
        match self.0.get() {
            _ if self.is_sticky() => ErrorKind::DeviceLost,
            // OUT_OF_MEMORY
            2 => ErrorKind::OutOfMemory,
            // INVALID_VALUE, INVALID_DEVICE, INVALID_HANDLE, HOST_MEMORY_ALREADY_REGISTERED and NOT_REGISTERED
            1 | 101 | 400 | 712 | 713 => ErrorKind::InvalidRequest,
            // NOT_PERMITTED, NOT_SUPPORTED, PEER_ACCESS_UNSUPPORTED
            800 | 801 | 217 => ErrorKind::Unsupported,
            // STREAM_CAPTURE_UNSUPPORTED to STREAM_CAPTURE_WRONG_THREAD
            900..=908 => ErrorKind::Busy,
            _ => ErrorKind::System,
        }
    }

    /// The error of a call that got this answer.
    pub(super) fn error(self, driver: &Driver, call: &str) -> Error {
        let number = self.0.get();
        let name = driver
            .error_name(number)
            .unwrap_or("a result unknown to it");
        let message = format!("{call} failed: the driver said {name} ({number})");
        Error::with_message(self.kind(), message)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CUDA result {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_apart() {
        for (number, kind, sticky) in [
            (1, ErrorKind::InvalidRequest, false),
            (2, ErrorKind::OutOfMemory, false),
            (712, ErrorKind::InvalidRequest, false),
            (700, ErrorKind::DeviceLost, true),
            (719, ErrorKind::DeviceLost, true),
            // COOPERATIVE_LAUNCH_TOO_LARGE, UNKNOWN
            (720, ErrorKind::System, false),
            (999, ErrorKind::System, false),
            (801, ErrorKind::Unsupported, false),
            (900, ErrorKind::Busy, false),
            (304, ErrorKind::System, false),
            (u32::MAX, ErrorKind::System, false),
        ] {
            let status = Status::check(number).unwrap_err();
            assert_eq!(
                (status.kind(), status.is_sticky()),
                (kind, sticky),
                "{number}"
            );
        }
        assert_eq!(Status::check(0), Ok(()));
        for (number, word) in [(803, "kernel"), (804, "compat"), (999, "")] {
            let hint = Status::check(number).unwrap_err().hint();
            assert!(hint.contains(word) && hint.is_empty() == word.is_empty());
        }
    }
}
