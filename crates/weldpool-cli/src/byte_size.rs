//! Numbers of bytes on the command line.

use std::ops::RangeInclusive;

/// The units that may follow a number, each with its powers of two.
const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// A parser of bytes within a range.
pub(crate) fn within(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let bytes = parse(text)?;
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let (least, most) = (range.start(), range.end());
        Err(format!("{bytes} bytes are not from {least} to {most}"))
    }
}

/// A whole number, and a unit in capitals or not: `KiB`, or `K` or `KB` for the same; or `B`.
fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = shift_of(&text[end.len()..]);
    let number = end.trim_end().parse::<u64>().ok();
    let (Some(number), Some(shift)) = (number, shift) else {
        return Err(
            "write a whole number of bytes, or one with KiB, MiB, GiB or TiB behind it; K and KB, M \
             and MB and so on are the same multiples of 1024, in capitals or not"
                .to_owned(),
        );
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than any memory, at most 16 EiB"))
}

fn shift_of(unit: &str) -> Option<u32> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("B") {
        return Some(0);
    }
    let is_same = |name: &str| {
        let letter = &name[..1];
        [name, letter]
            .iter()
            .any(|one| one.eq_ignore_ascii_case(unit))
            || format!("{letter}B").eq_ignore_ascii_case(unit)
    };
    let found = UNITS.iter().find(|(name, _)| is_same(name));
    found.map(|(_, shift)| *shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("7B", Some(7)),
            ("4K", Some(4096)),
            ("3m", Some(3 << 20)),
            ("2GiB", Some(2 << 30)),
            ("2 gb", Some(2 << 30)),
            ("100MB", Some(100 << 20)),
            ("100Mib", Some(100 << 20)),
            ("100B", Some(100)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("K", None),
            ("1.5G", None),
            ("-1", None),
            ("1X", None),
            ("1KiBB", None),
            ("99999999999G", None),
        ] {
            assert_eq!(parse(text).ok(), bytes, "{text:?}");
        }
    }

    #[test]
    fn mistakes_name_the_units_or_the_range() {
        let error = parse("5Q").unwrap_err();
        assert!(error.contains("KiB, MiB, GiB or TiB"), "{error}");
        assert!(error.contains("KB") && error.contains("1024"), "{error}");
        let error = within(512..=1024)("1M").unwrap_err();
        assert!(error.contains("512 to 1024"), "{error}");
        assert_eq!(within(512..=1024)("1K"), Ok(1024));
    }
}
