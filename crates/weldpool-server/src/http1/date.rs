//! The `Date` header, formatted once per second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The current date as HTTP writes it, remembered for the second in which it was formatted.
#[derive(Debug)]
pub(crate) struct DateCache {
    /// When the second of the text ends.
    valid_until: Option<Instant>,
    text: [u8; 29],
}

impl DateCache {
    pub(crate) fn new() -> Self {
        Self {
            valid_until: None,
            text: format(0),
        }
    }

    /// The date at `now`, such as `Sun, 06 Nov 1994 08:49:37 GMT`. The system's calendar clock is
    /// read once per second.
    pub(crate) fn at(&mut self, now: Instant) -> &[u8; 29] {
        if self.valid_until.is_none_or(|until| now >= until) {
            let time = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO);
            let rest = Duration::from_secs(1) - Duration::from_nanos(time.subsec_nanos().into());
            self.valid_until = Some(now + rest);
            self.text = format(time.as_secs());
        }
        &self.text
    }
}

/// The date `second` seconds after the start of 1970, as RFC 9110 section 5.6.7 prefers it.
fn format(second: u64) -> [u8; 29] {
    const WEEKDAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"MarAprMayJunJulAugSepOctNovDecJanFeb";
    // The year has four digits, so the text stops moving where they do.
    let second = second.min(253_402_300_799);
    let (day, of_day) = (second / 86_400, second % 86_400);

    // Days are counted from 1 March 0000, so that the leap day is the last day of a year. Then 400
    // years have 146,097 days, and five months from March on have 153.
    let days = day + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);

    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (day % 7) as usize * 3;
    text[..3].copy_from_slice(&WEEKDAYS[weekday..weekday + 3]);
    let month = month as usize * 3;
    text[8..11].copy_from_slice(&MONTHS[month..month + 3]);
    let numbers = [
        (5, day_of_month),
        (12, year / 100),
        (14, year % 100),
        (17, of_day / 3600),
        (20, of_day / 60 % 60),
        (23, of_day % 60),
    ];
    for (position, number) in numbers {
        text[position] = b'0' + (number / 10) as u8;
        text[position + 1] = b'0' + (number % 10) as u8;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ];
        for (second, expected) in cases {
            assert_eq!(std::str::from_utf8(&format(second)).unwrap(), expected);
        }
    }

    #[test]
    fn the_cache_follows_the_clock() {
        let second = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let mut cache = DateCache::new();
        let mut now = Instant::now();
        for _ in 0..3 {
            let before = second();
            let text = *cache.at(now);
            assert!((before..=second()).any(|second| format(second) == text));
            assert_eq!(*cache.at(now), text);
            assert!(cache.valid_until.unwrap() > now);
            now += Duration::from_secs(1);
        }
    }
}
