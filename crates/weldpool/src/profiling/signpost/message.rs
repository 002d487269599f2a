//! How the number of a signpost's message is handed to the system.
//!
//! The compiler's built-in function `__builtin_os_log_format` makes this of a format with one number of 8 bytes; the
//! layout is in clang's `OSLog.h` and `CGBuiltin.cpp`: a byte of flags about all items, their count, then for each the
//! kind and flags, its length, and the bytes as they lie in memory. No item is private or of a length of its own.

#![forbid(unsafe_code)]

/// The format that the message goes with; Instruments shows the number as a size.
pub(crate) const FORMAT: &str = "%{xcode:size-in-bytes}llu";

/// A message, aligned as the compiler aligns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Message([u8; 12]);

impl Message {
    pub(crate) const fn of(bytes: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes.to_ne_bytes();
        Self([0, 1, 0, 8, a, b, c, d, e, f, g, h])
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_clang_makes() {
        // Printed by a program that clang 20 compiled, with `__builtin_os_log_format(buffer, FORMAT, number)`.
        let clang = [
            0x00, 0x01, 0x00, 0x08, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        let message = Message::of(u64::from_le(0x1122_3344_5566_7788));
        assert_eq!(message.as_bytes(), &clang);
        assert_eq!(align_of::<Message>(), 16);
        assert_eq!(FORMAT.matches('%').count(), 1, "one number");
    }
}
