//! A strict reader of the text format, and what the writer makes of hard values.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::stats::Counter;

/// A sample: its labels and its value.
type Sample = (BTreeMap<String, String>, f64);

#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// By the name's suffix.
    samples: Vec<(String, Sample)>,
}

/// Reads the format as its description says, and refuses everything beyond.
fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut helped: Option<String> = None;
    let mut current: Option<String> = None;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    for line in text.lines() {
        let bad = |what: &str| Err(format!("{what}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return bad("help without text");
            };
            if !is_name(name) || help.is_empty() || helped.is_some() {
                return bad("help out of place");
            }
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else {
                return bad("type without kind");
            };
            if helped.take().as_deref() != Some(name) {
                return bad("type without help");
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return bad("unknown kind");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return bad("counters, and they alone, end in _total");
            }
            let family = Family {
                kind: kind.to_owned(),
                samples: Vec::new(),
            };
            if families.insert(name.to_owned(), family).is_some() {
                return bad("a family twice");
            }
            current = Some(name.to_owned());
        } else {
            let (name, labels, value) = parse_sample(line)?;
            let Some(family_name) = &current else {
                return bad("a sample before any family");
            };
            let Some(suffix) = name.strip_prefix(family_name.as_str()) else {
                return bad("a sample of another family");
            };
            let Some(family) = families.get_mut(family_name) else {
                return bad("no such family");
            };
            let allowed: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            if !allowed.contains(&suffix) {
                return bad("a suffix that the kind has not");
            }
            if !seen.insert((name.clone(), labels.clone())) {
                return bad("a sample twice");
            }
            family.samples.push((suffix.to_owned(), (labels, value)));
        }
    }
    for (name, family) in &families {
        if family.kind == "histogram" {
            check_histogram(name, family)?;
        }
        if family.kind == "counter" && family.samples.iter().any(|(_, (_, value))| *value < 0.0) {
            return Err(format!("{name} is a counter below zero"));
        }
    }
    Ok(families)
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn parse_sample(line: &str) -> Result<(String, BTreeMap<String, String>, f64), String> {
    let bad = |what: &str| Err(format!("{what}: {line:?}"));
    let Some((name, mut rest)) = line.split_once('{') else {
        return bad("no labels");
    };
    if !is_name(name) {
        return bad("bad name");
    }
    let mut labels = BTreeMap::new();
    loop {
        let Some((label, after)) = rest.split_once("=\"") else {
            return bad("bad label");
        };
        if !is_name(label) {
            return bad("bad label name");
        }
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next() {
                None => return bad("label without end"),
                Some((at, '"')) => break at,
                Some((_, '\\')) => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, letter @ ('\\' | '"'))) => value.push(letter),
                    _ => return bad("unknown escape"),
                },
                Some((_, letter)) => value.push(letter),
            }
        };
        if labels.insert(label.to_owned(), value).is_some() {
            return bad("a label twice");
        }
        let after = &after[end + 1..];
        if let Some(next) = after.strip_prefix(',') {
            rest = next;
        } else if let Some(value) = after.strip_prefix("} ") {
            let number = match value {
                "+Inf" => f64::INFINITY,
                "NaN" => f64::NAN,
                other if other.contains(char::is_whitespace) => return bad("more than a value"),
                other => other.parse().map_err(|_| format!("no number: {line:?}"))?,
            };
            return Ok((name.to_owned(), labels, number));
        } else {
            return bad("garbage after a label");
        }
    }
}

/// Buckets ascend and hold those before them, the last is `+Inf` and equals the count.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let of = |suffix: &str| {
        let samples = family.samples.iter();
        samples
            .filter(|(one, _)| one == suffix)
            .map(|(_, sample)| sample.clone())
            .collect::<Vec<Sample>>()
    };
    for (labels, count) in of("_count") {
        let mut last = (f64::NEG_INFINITY, 0.0);
        for (bucket, value) in of("_bucket") {
            let mut bucket = bucket.clone();
            let le = bucket.remove("le").ok_or(format!("{name}: no le"))?;
            if bucket != labels {
                continue;
            }
            let le = match le.as_str() {
                "+Inf" => f64::INFINITY,
                le => le.parse().map_err(|_| format!("{name}: le {le:?}"))?,
            };
            if le <= last.0 || value < last.1 {
                return Err(format!("{name}: bucket {le} after {last:?}"));
            }
            last = (le, value);
        }
        if last != (f64::INFINITY, count) {
            return Err(format!("{name}: ends with {last:?} of {count}"));
        }
        if !of("_sum").iter().any(|(sum, _)| *sum == labels) {
            return Err(format!("{name}: no sum"));
        }
    }
    Ok(())
}

fn stats() -> Stats {
    Stats {
        live: Counter {
            value: 1 << 60,
            peak: u64::MAX,
            total: u64::MAX,
        },
        limit: Some(4096),
        pressure: 0.85,
        pressure_level: Level::Warning,
        allocations: 7,
        classes: vec![
            ClassStats {
                bytes: 256,
                allocations: 3,
                frees: 1,
                live_bytes: 500,
                held_bytes: 1024,
                ..ClassStats::default()
            },
            ClassStats {
                bytes: 512,
                ..ClassStats::default()
            },
        ],
        ..Stats::default()
    }
}

#[test]
fn the_text_follows_the_format() {
    let (stats, none) = (stats(), Stats::default());
    let mut samples = Samples {
        interval_bytes: 512 << 10,
        ..Samples::default()
    };
    for value in [0, 1, 256, 257, 1 << 20, u64::MAX] {
        samples.size.record(value, 2048.3);
        samples.latency_ns.record(value, 1.4);
    }
    let name = "a\\b\"c\nd\u{e9},le=\"1\"}";
    let pools = [
        Pool {
            name,
            stats: &stats,
            samples: Some(&samples),
            classes: true,
        },
        Pool {
            name: "",
            stats: &none,
            samples: None,
            classes: false,
        },
    ];
    let families = parse(&text(&pools)).unwrap();
    let value = |family: &str, suffix: &str, wanted: &[(&str, &str)]| {
        let samples = families[family].samples.iter();
        let matches = |labels: &BTreeMap<String, String>| {
            wanted
                .iter()
                .all(|(label, value)| labels.get(*label).is_some_and(|one| one == value))
        };
        let mut found = samples.filter(|(one, (labels, _))| one == suffix && matches(labels));
        found.next().map(|(_, (_, value))| *value)
    };
    let pool = ("pool", name);
    assert_eq!(
        value("weldpool_pool_live_bytes", "", &[pool]),
        Some((1_u64 << 60) as f64)
    );
    assert_eq!(
        value("weldpool_pool_limit_bytes", "", &[pool]),
        Some(4096.0)
    );
    assert_eq!(
        value("weldpool_pool_limit_bytes", "", &[("pool", "")]),
        None
    );
    let class = "weldpool_pool_class_allocations_total";
    assert_eq!(value(class, "", &[pool, ("class", "256")]), Some(3.0));
    assert_eq!(value(class, "", &[pool, ("class", "512")]), None);
    let held = [("internal", 12.0), ("external", 512.0)];
    for (waste, bytes) in held {
        let name = format!("weldpool_pool_class_{waste}_waste_bytes");
        assert_eq!(value(&name, "", &[pool, ("class", "256")]), Some(bytes));
    }
    let size = "weldpool_pool_allocation_size_bytes";
    // 0, 1 and 256.
    assert_eq!(value(size, "_bucket", &[pool, ("le", "256")]), Some(6145.0));
    assert_eq!(
        value(size, "_bucket", &[pool, ("le", "+Inf")]),
        Some(12290.0)
    );
    assert_eq!(value(size, "_count", &[pool]), Some(12290.0));
    assert_eq!(value(size, "_count", &[("pool", "")]), None);
    let level = "weldpool_pool_pressure_level";
    assert_eq!(value(level, "", &[pool, ("level", "warning")]), Some(1.0));
    assert_eq!(value(level, "", &[pool, ("level", "normal")]), Some(0.0));
    let health = "weldpool_pool_health";
    assert_eq!(
        value(health, "", &[("pool", ""), ("status", "healthy")]),
        Some(1.0)
    );
}

#[test]
fn nothing_makes_families_without_samples() {
    let families = parse(&text(&[])).unwrap();
    assert!(families.values().all(|family| family.samples.is_empty()));
}

#[test]
fn the_reader_is_strict() {
    let head = "# HELP a_total Help\n# TYPE a_total counter\n";
    for line in [
        "a_total 1\n",
        "a_total{} 1\n",
        "a_total{x=\"1\"} one\n",
        "a_total{x=\"1\"}  1\n",
        "a_total{x=\"\\t\"} 1\n",
        "a_total{x=\"1\",x=\"2\"} 1\n",
        "a_total{x=\"1\"} -1\n",
        "a_total{x=\"1\"} 1\na_total{x=\"1\"} 2\n",
        "b_total{x=\"1\"} 1\n",
        "a_total{x=\"1\"} 1",
    ] {
        assert!(parse(&format!("{head}{line}")).is_err(), "{line:?}");
    }
    assert!(parse(&format!("{head}a_total{{x=\"1\"}} 1\n")).is_ok());
    assert!(parse("# TYPE a_total counter\n").is_err());
}

#[test]
fn a_family_of_another_program_has_the_same_form() {
    let mut text = String::new();
    let mut family = super::Family::begin(&mut text, "m", Kind::Gauge, "Help").unwrap();
    family
        .sample(&[("a", "x\"y\\z\n"), ("b", "")], 1_u64)
        .unwrap();
    family.sample(&[], f64::INFINITY).unwrap();
    family.suffixed("_sum", &[("a", "")], 0.5).unwrap();
    assert_eq!(
        text,
        "# HELP m Help\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1\nm +Inf\nm_sum{a=\"\"} 0.5\n"
    );
}
