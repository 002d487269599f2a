//! Reads the Prometheus text that servers publish.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::error::{Error, Result};
use crate::http::Connection;
use crate::request;

/// One line of the text: a name, its labels and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The metric's name, such as `weldpool_pool_live_bytes`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All metrics of one reading.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics(Vec<Metric>);

impl Metrics {
    /// Reads `/metrics` at `address`.
    ///
    /// # Errors
    /// `Io` when nothing answers there, `Protocol` when the answer is not 200 or not Prometheus text.
    pub fn read(address: SocketAddr) -> Result<Self> {
        let mut connection = Connection::open(address)?;
        let response = connection.exchange(&request::get("/metrics"))?;
        if response.status != 200 {
            return Err(Error::protocol(format!(
                "/metrics answered {}",
                response.status
            )));
        }
        Self::parse(&String::from_utf8_lossy(response.body))
    }

    /// Parses Prometheus text; comments and empty lines are skipped.
    ///
    /// # Errors
    /// `Protocol` naming the first line that is not `name{label="value",..} number`.
    pub fn parse(text: &str) -> Result<Self> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                parse_line(line).ok_or_else(|| Error::protocol(format!("not a metric: {line}")))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The value of the first metric with this name and these labels among its own.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels)
            .next()
            .map(|metric| metric.value)
    }

    /// The sum over all metrics with this name, or `None` when there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut values = self.matching(name, &[]).map(|metric| metric.value);
        let first = values.next()?;
        Some(first + values.sum::<f64>())
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Metric> {
        self.0.iter().filter(move |metric| {
            metric.name == name
                && labels
                    .iter()
                    .all(|(key, value)| metric.labels.get(*key).is_some_and(|own| own == value))
        })
    }
}

fn parse_line(line: &str) -> Option<Metric> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.trim().to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    // A timestamp may follow the value.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Metric {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The text up to the closing quote, its escapes resolved, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_read() {
        let text = concat!(
            "# HELP live bytes\n",
            "live{device=\"host\"} 5\n",
            "live{device=\"gpu\",} 7.5 1700000000\n",
            "over{model=\"a\\\"b,}\",quantile=\"0.5\"} 1e3\n",
            "\nplain NaN\n"
        );
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("live"), Some(12.5));
        assert_eq!(metrics.value("live", &[("device", "gpu")]), Some(7.5));
        assert_eq!(
            metrics.value("over", &[("quantile", "0.5"), ("model", "a\"b,}")]),
            Some(1000.0)
        );
        assert_eq!(metrics.value("over", &[("quantile", "0.9")]), None);
        assert!(metrics.value("plain", &[]).unwrap().is_nan());
        assert_eq!(metrics.sum("absent"), None);
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["live", "live{", "live{a=\"b\"", "live{a=b} 1", "live x"] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }
}
