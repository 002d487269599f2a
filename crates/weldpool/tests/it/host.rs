//! Facts of the host device that the operating system confirms.

#[cfg(target_os = "linux")]
use weldpool::Allocator;
use weldpool::Runtime;

/// Resident bytes of a mapping that contains `address`, by /proc/self/smaps.
#[cfg(target_os = "linux")]
fn resident(address: usize) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut inside = false;
    for line in text.lines() {
        if let Some((range, _)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) = (
                usize::from_str_radix(start, 16),
                usize::from_str_radix(end, 16),
            )
        {
            inside = (start..end).contains(&address);
        }
        if inside && let Some(rest) = line.strip_prefix("Rss:") {
            let kibibytes: usize = rest
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number");
            return Some(kibibytes * 1024);
        }
    }
    None
}

#[cfg(target_os = "linux")]
#[test]
fn pages_are_committed_when_touched_and_returned_on_release() {
    let allocator = Allocator::host().unwrap();
    let mut buffer = allocator.allocate(64 << 20).unwrap();
    let address = buffer.binding().host.unwrap().as_ptr().addr();
    assert_eq!(resident(address), Some(0), "nothing was touched");
    buffer.write::<u8>().unwrap()[..16 << 20].fill(1);
    assert_eq!(resident(address), Some(16 << 20));
    drop(buffer);
    assert!(allocator.clear() >= 64 << 20);
    assert_eq!(resident(address).unwrap_or(0), 0, "the pages are gone");
}

#[test]
fn the_runtime_lists_the_host_first() {
    let runtime = Runtime::open().unwrap();
    let properties = runtime.devices()[0].properties();
    assert_eq!(properties.kind.name(), "host");
    assert!(!properties.numa_nodes.is_empty());
}
