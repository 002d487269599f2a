//! Numbers, bars and lines for people, within a width.

#![forbid(unsafe_code)]

use std::fmt::Write;

/// Bytes in the largest unit that keeps at least one digit before the point.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// A duration in nanoseconds.
pub(crate) fn time(ns: f64) -> String {
    if ns < 10e3 {
        format!("{ns:.0} ns")
    } else if ns < 10e6 {
        format!("{:.0} us", ns / 1e3)
    } else if ns < 10e9 {
        format!("{:.0} ms", ns / 1e6)
    } else {
        format!("{:.0} s", ns / 1e9)
    }
}

/// A share of 1 as percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Counts with a letter for thousands, millions and so on, from 100,000 up.
pub(crate) fn count(count: u64) -> String {
    let units = [("T", 12), ("G", 9), ("M", 6), ("k", 3)];
    match units.iter().find(|(_, power)| count >= 10_u64.pow(*power)) {
        Some((unit, power)) if count >= 100_000 => {
            format!("{:.1}{unit}", count as f64 / 10_f64.powi(*power as i32))
        }
        _ => count.to_string(),
    }
}

/// A number of samples.
pub(crate) fn samples(taken: u64) -> String {
    let plural = if taken == 1 { "" } else { "s" };
    format!("{} sample{plural}", count(taken))
}

/// A bar of `width` characters of which `share` is full.
pub(crate) fn bar(share: f64, width: usize, unicode: bool) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let mut bar = String::new();
    if unicode {
        let eighths = (share * width as f64 * 8.0).round() as usize;
        bar.extend(std::iter::repeat_n('█', eighths / 8));
        if !eighths.is_multiple_of(8) {
            bar.push(EIGHTHS[eighths % 8]);
        }
        let rest = width - eighths.div_ceil(8);
        bar.extend(std::iter::repeat_n('·', rest));
    } else {
        let full = (share * width as f64).round() as usize;
        bar.extend(std::iter::repeat_n('#', full));
        bar.extend(std::iter::repeat_n('.', width - full));
    }
    bar
}

/// Text from outside on one line: without control characters, cut to `width` characters.
pub(crate) fn clean(text: &str, width: usize, unicode: bool) -> String {
    let mut cleaned = String::new();
    for letter in text.chars() {
        if letter.is_control() || (!unicode && !letter.is_ascii()) {
            cleaned.extend(letter.escape_default());
        } else {
            cleaned.push(letter);
        }
        if cleaned.len() > width.saturating_mul(8) {
            break;
        }
    }
    cut(&cleaned, width)
}

/// The first `width` characters; the last ones show that something was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let dots = width.min(2);
    let mut short: String = text.chars().take(width - dots).collect();
    short.extend(std::iter::repeat_n('.', dots));
    short
}

/// Adds a line, cut to `width`, without spaces at its end.
pub(crate) fn line(text: &mut String, width: usize, line: &str) {
    text.push_str(cut(line.trim_end(), width).trim_end());
    text.push('\n');
}

/// Adds text in lines of `width` characters, broken between words; further lines are indented.
pub(crate) fn paragraph(text: &mut String, width: usize, indent: usize, words: &str) {
    let mut current = String::new();
    for word in words.split_whitespace() {
        let full = current.chars().count() + 1 + word.chars().count() > width;
        if !current.trim().is_empty() && full {
            line(text, width, &current);
            current = " ".repeat(indent);
        }
        if !current.is_empty() && !current.ends_with(' ') {
            current.push(' ');
        }
        let _infallible = current.write_str(word);
    }
    if !current.trim().is_empty() {
        line(text, width, &current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_their_width() {
        for width in [0, 1, 7, 40] {
            for share in [-1.0, 0.0, 0.01, 0.33, 0.999, 1.0, 7.0, f64::NAN] {
                for unicode in [false, true] {
                    let bar = bar(share, width, unicode);
                    assert_eq!(bar.chars().count(), width, "{share} {width} {unicode}");
                    assert!(unicode || bar.is_ascii());
                }
            }
        }
        assert_eq!(bar(0.5, 4, false), "##..");
        assert_eq!(bar(0.5, 3, true), "█▌·");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.00 TiB");
        assert_eq!(time(999.0), "999 ns");
        assert_eq!(time(1.5e7), "15 ms");
        assert_eq!(count(99_999), "99999");
        assert_eq!(count(1_500_000), "1.5M");
        assert_eq!(percent(0.905), "90.5 %");
    }

    #[test]
    fn lines_stay_inside_the_width_and_hold_no_controls() {
        assert_eq!(clean("a\n\u{1b}[31m", 40, true), "a\\n\\u{1b}[31m");
        assert_eq!(clean("größe", 40, false), "gr\\u{f6}\\u{df}e");
        assert_eq!(clean(&"x".repeat(1000), 5, true), "xxx..");
        assert_eq!(cut("abc", 1), ".");
        assert_eq!(cut("abc", 0), "");
        let mut text = String::new();
        paragraph(&mut text, 12, 2, "one two three four five");
        assert_eq!(text, "one two\n  three four\n  five\n");
    }
}
