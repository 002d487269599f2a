//! A strict reader of the text format, and what the writer makes of hard values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::Allocator;
use crate::pinned::PinnedStats;
use crate::stats::Counter;
use crate::transfer::{CopyStats, PathStats};

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

/// The value of a sample with exactly these labels.
fn value_of(families: &BTreeMap<String, Family>, family: &str, wanted: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
        .collect();
    let mut samples = families[family].samples.iter();
    let found = samples.find(|(_, (labels, _))| *labels == wanted);
    found.map(|(_, (_, value))| *value).unwrap()
}

#[test]
fn pinned_pools_and_copiers_go_into_the_same_text() {
    let counter = |value, peak, total| Counter { value, peak, total };
    let pinned = PinnedStats {
        live: counter(3, 9, 40),
        live_bytes: counter(300, 900, 4000),
        pageable: counter(1, 2, 10),
        pageable_bytes: counter(100, 200, 1000),
        refused: 5,
        waits: 7,
        wait_time: Duration::from_millis(1500),
        wait_longest: Duration::from_millis(250),
        growths: 11,
        growth_bytes: 12 << 20,
        growth_time: Duration::from_millis(750),
        growth_longest: Duration::from_millis(125),
        growth_failures: 13,
        growing_bytes: 14,
    };
    let path = |copies| PathStats {
        copies,
        bytes: copies << 20,
        ns: copies * 500_000_000,
    };
    let copies = CopyStats {
        host: path(1),
        direct: path(2),
        peer: path(3),
        pageable: path(4),
        staged: path(5),
        cancelled: 6,
        failed: 7,
        threads: 8,
    };
    let (stats, none) = (stats(), CopyStats::default());
    let pools = [Pool {
        name: "gpu",
        stats: &stats,
        samples: None,
        classes: true,
    }];
    let mut all = text(&pools);
    all.push_str(&super::pinned(&[("gpu", &pinned), ("other", &pinned)]));
    all.push_str(&super::copies(&[("runtime", &copies), ("own", &none)]));
    let families = parse(&all).unwrap();
    for (name, value) in [
        ("allocations", 3.0),
        ("peak_allocations", 9.0),
        ("allocations_total", 40.0),
        ("bytes", 300.0),
        ("peak_bytes", 900.0),
        ("allocated_bytes_total", 4000.0),
        ("pageable_allocations", 1.0),
        ("pageable_allocations_total", 10.0),
        ("pageable_bytes", 100.0),
        ("pageable_bytes_total", 1000.0),
        ("pinned_ratio", 0.75),
        ("refused_total", 5.0),
        ("waits_total", 7.0),
        ("wait_seconds_total", 1.5),
        ("wait_longest_seconds", 0.25),
        ("growths_total", 11.0),
        ("growth_bytes_total", f64::from(12 << 20)),
        ("growth_seconds_total", 0.75),
        ("growth_longest_seconds", 0.125),
        ("growth_failures_total", 13.0),
        ("growing_bytes", 14.0),
    ] {
        let family = format!("weldpool_pinned_{name}");
        for pool in ["gpu", "other"] {
            let found = value_of(&families, &family, &[("pool", pool)]);
            assert!((found - value).abs() < 1e-9, "{family}: {found}");
        }
    }
    let of_path = |name: &str, path: &str| {
        let labels = [("copier", "runtime"), ("path", path)];
        value_of(&families, &format!("weldpool_copier_{name}_total"), &labels)
    };
    for (number, path) in ["host", "direct", "peer", "pageable", "staged"]
        .iter()
        .enumerate()
    {
        let copies = number as f64 + 1.0;
        let values = [copies, copies * f64::from(1 << 20), copies * 0.5];
        let found = ["copies", "bytes", "seconds"].map(|name| of_path(name, path));
        assert_eq!(found, values, "{path}");
    }
    for (name, value) in [
        ("cancelled_total", 6.0),
        ("failed_total", 7.0),
        ("threads", 8.0),
    ] {
        let family = format!("weldpool_copier_{name}");
        let found =
            ["runtime", "own"].map(|name| value_of(&families, &family, &[("copier", name)]));
        assert_eq!(found, [value, 0.0], "{family}");
    }
}

#[test]
fn nothing_makes_families_without_samples() {
    let all = [text(&[]), pinned(&[]), copies(&[])].concat();
    let families = parse(&all).unwrap();
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

#[test]
fn figures_are_those_of_the_text() {
    let allocator = Allocator::host().unwrap();
    let _kept = allocator.allocate(5000).unwrap();
    let stats = allocator.stats();
    let pool = Pool {
        name: "p",
        stats: &stats,
        samples: None,
        classes: false,
    };
    let text = text(&[pool]);
    let mut count = 0;
    for figure in figures(&stats) {
        count += 1;
        let line = format!("{}{{pool=\"p\"}} {}\n", figure.name, figure.value);
        let unset = figure.name == "weldpool_pool_limit_bytes" && stats.limit.is_none();
        assert!(unset || text.contains(&line), "{line}");
    }
    assert!(count > 30);
    let live = figures(&stats).find(|figure| figure.name == "weldpool_pool_live_bytes");
    assert_eq!(live.map(|live| live.value.as_f64()), Some(5000.0));
}
