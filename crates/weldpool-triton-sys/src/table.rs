//! Tables of functions that are found by name.
#![allow(unsafe_code)]

use std::fmt;

/// Functions of Triton's API that are not where they were looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    names: Vec<&'static str>,
}

impl Missing {
    pub(crate) fn new(names: Vec<&'static str>) -> Missing {
        Missing { names }
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.names.first().copied().unwrap_or_default();
        match self.names.len() {
            0 | 1 => write!(f, "{first} is not in this process")?,
            count => write!(f, "{first} and {} more are not in this process", count - 1)?,
        }
        f.write_str(": no Triton Inference Server is loaded, or an older one than is needed")
    }
}

impl std::error::Error for Missing {}

/// Makes a table: a struct with a pointer for each function, and a constructor that finds them all.
macro_rules! table {
    (
        $(#[$documentation:meta])*
        $name:ident, $prefix:literal;
        $(
            $(#[$about:meta])*
            $field:ident = $symbol:literal ($($argument:ident: $of:ty),* $(,)?) $(-> $returns:ty)?;
        )+
    ) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "each field is the function of Triton's of that name")]
        pub struct $name {
            $(
                $(#[$about])*
                pub $field: unsafe extern "C" fn($($argument: $of),*) $(-> $returns)?,
            )+
        }

        impl $name {
            /// The names of the functions.
            pub const NAMES: &'static [&'static str] = &[$(concat!($prefix, $symbol),)+];

            /// Finds every function of the table.
            ///
            /// # Errors
            /// Names those that are not in the library.
            pub fn find(
                library: $crate::Library,
            ) -> std::result::Result<$name, $crate::Missing> {
                let mut missing = Vec::new();
                $(
                    let $field = library.symbol(
                        $crate::table::name(concat!($prefix, $symbol, "\0")),
                    );
                    if $field.is_none() {
                        missing.push(concat!($prefix, $symbol));
                    }
                )+
                match ($($field,)+) {
                    ($(Some($field),)+) => Ok($name {
                        $(
                            // SAFETY: Triton exports a function of this signature under this name.
                            $field: unsafe {
                                std::mem::transmute::<
                                    std::ptr::NonNull<std::ffi::c_void>,
                                    unsafe extern "C" fn($($argument: $of),*) $(-> $returns)?,
                                >($field)
                            },
                        )+
                    }),
                    _ => Err($crate::Missing::new(missing)),
                }
            }
        }
    };
}

pub(crate) use table;

/// The name of a function as C writes it; the macro ends each with a zero.
pub(crate) fn name(text: &'static str) -> &'static std::ffi::CStr {
    std::ffi::CStr::from_bytes_with_nul(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_and_named() {
        let one = Missing::new(vec!["TRITONSERVER_ErrorNew"]);
        assert!(one.to_string().starts_with("TRITONSERVER_ErrorNew is not"));
        let two = Missing::new(vec!["A", "B"]);
        assert!(two.to_string().starts_with("A and 1 more are not"));
    }
}
