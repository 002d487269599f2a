//! The form in which every suite writes its results, and the table a person reads.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::machine::Machine;

/// Which direction of a value is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times and costs.
    Lower,
    /// Rates.
    Higher,
}

/// One figure of ours beside the peers' for the same case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// The unit of all values.
    pub unit: &'static str,
    /// The good direction.
    pub better: Better,
    /// Our value; none when only the peers were measured.
    pub ours: Option<f64>,
    /// The peers' values.
    pub peers: BTreeMap<String, f64>,
    /// Ours against the best peer, above 1 when we lead.
    pub ratio: Option<f64>,
}

impl Row {
    /// A row with its ratio worked out.
    pub fn new(
        case: impl Into<String>,
        unit: &'static str,
        better: Better,
        ours: Option<f64>,
        peers: BTreeMap<String, f64>,
    ) -> Self {
        let mut row = Self {
            case: case.into(),
            unit,
            better,
            ours,
            peers,
            ratio: None,
        };
        let ratio = ours.zip(row.best()).map(|(ours, (_, best))| match better {
            Better::Lower => best / ours,
            Better::Higher => ours / best,
        });
        row.ratio = ratio.filter(|r| r.is_finite());
        row
    }

    /// The best peer and its value.
    pub fn best(&self) -> Option<(&str, f64)> {
        let peers = self
            .peers
            .iter()
            .map(|(name, value)| (name.as_str(), *value));
        peers.reduce(|best, other| {
            let better = match self.better {
                Better::Lower => other.1 < best.1,
                Better::Higher => other.1 > best.1,
            };
            if better { other } else { best }
        })
    }
}

/// A bar of the design held against what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The bar's number.
    pub bar: &'static str,
    /// What the bar is about.
    pub case: String,
    /// Unit of `value` and `limit`.
    pub unit: &'static str,
    /// The good direction: the limit is a maximum for [`Better::Lower`].
    pub better: Better,
    /// The value the bar asks for.
    pub limit: f64,
    /// The value measured.
    pub value: f64,
    /// Whether the bar holds.
    pub met: bool,
    /// What the least that a server can do reaches here, where that was measured: a bar beyond it is out of
    /// anybody's reach on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
}

impl Verdict {
    /// Holds `value` against `limit`, which itself still passes.
    pub fn new(
        bar: &'static str,
        case: impl Into<String>,
        unit: &'static str,
        better: Better,
        value: f64,
        limit: f64,
    ) -> Self {
        let met = match better {
            Better::Lower => value <= limit,
            Better::Higher => value >= limit,
        };
        Self {
            bar,
            case: case.into(),
            unit,
            better,
            limit,
            value,
            met,
            ceiling: None,
        }
    }

    /// The same with what the ceiling reaches.
    #[must_use]
    pub fn beside_ceiling(self, ceiling: Option<f64>) -> Self {
        Self { ceiling, ..self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.better {
            Better::Lower => "<=",
            Better::Higher => ">=",
        };
        let (value, limit) = (number(self.value), number(self.limit));
        let met = if self.met { "met" } else { "NOT MET" };
        let (bar, case, unit) = (self.bar, &self.case, self.unit);
        write!(
            f,
            "{bar} {case}: {value} {unit} (bar {relation} {limit}): {met}"
        )?;
        match self.ceiling {
            Some(ceiling) => write!(f, "; the bare echo reaches {}", number(ceiling)),
            None => Ok(()),
        }
    }
}

/// The result of one suite.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the suite.
    pub suite: &'static str,
    /// The command that made it.
    pub command: String,
    /// When it was made.
    pub date: String,
    /// Where it was made.
    pub machine: Machine,
    /// Versions of ours and of every peer.
    pub versions: BTreeMap<String, String>,
    /// All settings that shape the result.
    pub config: Value,
    /// The figures.
    pub rows: Vec<Row>,
    /// The design's bars that the figures answer.
    pub bars: Vec<Verdict>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
    /// Every single measurement that the figures are medians of.
    pub samples: Value,
}

impl Report {
    /// Writes the report as JSON to `path`.
    ///
    /// # Errors
    /// `Io` when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::caused(ErrorKind::Io, "writing the report", error))?;
        text.push('\n');
        fs::write(path, text)
            .map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }

    /// The rows as a table, the bars, what is missing and the configuration that all rows are of, for a terminal.
    pub fn table(&self) -> String {
        let mut lines = vec![["case", "unit", "ours", "best peer", "", "ratio"].map(str::to_owned)];
        for row in &self.rows {
            let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
            let (peer, best) = match row.best() {
                Some((name, value)) => (name.to_owned(), number(value)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let ratio = row
                .ratio
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            lines.push([
                row.case.clone(),
                row.unit.into(),
                value(row.ours),
                best,
                peer,
                ratio,
            ]);
        }
        let mut text = columns(&lines);
        // Writing to a string cannot fail.
        for bar in &self.bars {
            let _ = writeln!(text, "{bar}");
        }
        for missing in &self.missing {
            let _ = writeln!(text, "not measured: {missing}");
        }
        if let Some(config) = self.config["weldpool"].as_str() {
            let _ = writeln!(text, "all rows of ours with {config}");
        }
        text
    }
}

/// Lays out lines of cells: the first column and the names to the left, figures to the right.
fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut rendered = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 | 1 | 4 => write!(rendered, "{cell:<width$}  "),
                _ => write!(rendered, "{cell:>width$}  "),
            };
        }
        text.push_str(rendered.trim_end());
        text.push('\n');
    }
    text
}

/// A value with about four significant digits.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        magnitude if magnitude >= 1000.0 => 0,
        magnitude if magnitude >= 100.0 => 1,
        magnitude if magnitude >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn the_ratio_is_against_the_best_peer() {
        let both = peers(&[("a", 10.0), ("b", 20.0)]);
        let rate = Row::new("x", "1/s", Better::Higher, Some(40.0), both.clone());
        assert_eq!(rate.ratio, Some(2.0));
        let time = Row::new("x", "us", Better::Lower, Some(5.0), both.clone());
        assert_eq!(time.ratio, Some(2.0));
        assert_eq!(
            (rate.best(), time.best()),
            (Some(("b", 20.0)), Some(("a", 10.0)))
        );
        assert_eq!(Row::new("x", "us", Better::Lower, None, both).ratio, None);
        assert_eq!(
            Row::new("x", "us", Better::Lower, Some(5.0), peers(&[])).ratio,
            None
        );
    }

    #[test]
    fn a_bar_passes_at_its_limit() {
        assert!(Verdict::new("P9", "x", "us", Better::Lower, 60.0, 60.0).met);
        assert!(!Verdict::new("P9", "x", "us", Better::Lower, 60.1, 60.0).met);
        let short = Verdict::new("P8", "throughput", "x", Better::Higher, 0.9, 0.93);
        assert_eq!(
            short.to_string(),
            "P8 throughput: 0.900 x (bar >= 0.930): NOT MET"
        );
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let row = Row::new("x", "us", Better::Lower, Some(5.0), peers(&[("a", 10.0)]));
        let json = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!({
            "case": "x", "unit": "us", "better": "lower", "ours": 5.0, "peers": {"a": 10.0}, "ratio": 2.0
        });
        assert_eq!(json, expected);
    }
}
