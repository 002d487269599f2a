//! Tables of metrics.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::{Family, Kind, Value};

/// A metric of a `T`, and where its value comes from.
pub(super) struct Metric<T> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) read: fn(&T) -> Value,
}

/// Writes a table of things that have a name, the value of `label`.
pub(super) fn write_named<T>(
    out: &mut impl Write,
    table: &[Metric<T>],
    label: &str,
    named: &[(&str, &T)],
) -> fmt::Result {
    for metric in table {
        let mut family = Family::begin(out, metric.name, metric.kind, metric.help)?;
        for (name, stats) in named {
            family.sample(&[(label, name)], (metric.read)(stats))?;
        }
    }
    Ok(())
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
