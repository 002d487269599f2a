//! Tables of metrics.

#![forbid(unsafe_code)]

use super::{Kind, Value};

/// A metric of a `T`, and where its value comes from.
pub(super) struct Metric<T> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) read: fn(&T) -> Value,
}

/// A table: what all names begin with, then of each metric the rest of its name, its kind, help and value.
macro_rules! metrics {
    ($prefix:literal: $($name:literal, $kind:ident, $help:literal, |$all:ident| $value:expr;)*) => {
        &[$(Metric {
            name: concat!($prefix, $name),
            kind: Kind::$kind,
            help: $help,
            read: |$all| Value::from($value),
        },)*]
    };
}
