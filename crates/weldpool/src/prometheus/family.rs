//! One metric as lines of text.

use std::fmt::{self, Display, Write};

/// What a metric's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows; its name ends in `_total`, but for those that others gave.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, their sum and count.
    Histogram,
    /// Quantiles, their sum and count.
    Summary,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// A number as it is written: counts exactly, ratios as floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Any number.
    Float(f64),
}

impl Value {
    /// The value as a float, which holds counts up to 2^53 exactly.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "said above")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Count(count) => count as f64,
            Self::Float(float) => float,
        }
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(float: f64) -> Self {
        Self::Float(float)
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Float(float) if float.is_nan() => f.write_str("NaN"),
            Self::Float(float) if float.is_infinite() => {
                f.write_str(if *float > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Float(float) => write!(f, "{float}"),
        }
    }
}

/// A metric under way: its name, kind and help, then a line per sample. For programs that have metrics
/// of their own beside the pools'.
#[derive(Debug)]
pub struct Family<'a, W> {
    out: &'a mut W,
    name: &'a str,
}

impl<'a, W: Write> Family<'a, W> {
    /// Begins a metric. `name` has letters, digits and `_` only, `help` is one line without backslash.
    ///
    /// # Errors
    ///
    /// What `out` says, here and below.
    pub fn begin(
        out: &'a mut W,
        name: &'a str,
        kind: Kind,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        let kind = kind.name();
        write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n")?;
        Ok(Self { out, name })
    }

    /// Adds a sample; `labels` are pairs of name and value, of which the value is escaped.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> fmt::Result {
        self.suffixed("", labels, value)
    }

    /// Adds a sample under the metric's name and a suffix, such as `_sum`.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn suffixed(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl Into<Value>,
    ) -> fmt::Result {
        write!(self.out, "{}{suffix}", self.name)?;
        for (number, (label, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            write!(self.out, "{before}{label}=\"{}\"", Escaped(value))?;
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.out, "{end} {}", value.into())
    }
}

/// A label's value with backslash, quote and newline escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
