//! What a result was measured on, and when.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Name of the processor.
    pub processor: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Memory in bytes; 0 where it is not known.
    pub memory_bytes: u64,
}

impl Machine {
    /// Describes this machine; what the system does not tell is "unknown".
    pub fn this() -> Self {
        let unknown = || "unknown".to_owned();
        let read = |path| fs::read_to_string(path).ok();
        let memory = read("/proc/meminfo").and_then(|text| {
            let value = after(&text, "MemTotal")?;
            value.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        Self {
            system: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            // What follows the version names a build, which may name a place.
            kernel: read("/proc/sys/kernel/osrelease")
                .and_then(|text| text.trim().split('-').next().map(str::to_owned))
                .unwrap_or_else(unknown),
            processor: read("/proc/cpuinfo")
                .and_then(|text| after(&text, "model name").map(str::to_owned))
                .unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.unwrap_or_default() << 10,
        }
    }
}

/// The rest of the first line that starts with `key` and a colon.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// The current time as `YYYY-MM-DDThh:mm:ssZ`.
pub fn now() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date(seconds)
}

/// Seconds since 1970 as a date in the Gregorian calendar, by counting 400-year eras that start in March.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(date(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn the_machine_has_cores() {
        assert!(Machine::this().cores >= 1);
    }
}
