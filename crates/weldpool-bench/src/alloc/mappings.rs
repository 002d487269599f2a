//! How many mappings this process has. The system refuses further ones beyond a limit, and an allocator then
//! fails with memory left.

use std::fs;

/// Mappings of this process now; none where the system does not tell.
pub(super) fn now() -> Option<u64> {
    let maps = fs::read("/proc/self/maps").ok()?;
    Some(maps.iter().filter(|byte| **byte == b'\n').count() as u64)
}

/// Mappings that a process may have; none where the system does not tell.
pub(super) fn limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    text.trim().parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_and_may_have_more() {
        let (now, limit) = (now().unwrap(), limit().unwrap());
        assert!(10 < now && now < limit, "{now} of {limit}");
    }
}
