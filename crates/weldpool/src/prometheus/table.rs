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

/// A table: a metric's name behind `weldpool_pool_`, its kind, help and value.
macro_rules! metrics {
    ($($name:literal, $kind:ident, $help:literal, |$all:ident| $value:expr;)*) => {
        &[$(Metric {
            name: concat!("weldpool_pool_", $name),
            kind: Kind::$kind,
            help: $help,
            read: |$all| Value::from($value),
        },)*]
    };
}
