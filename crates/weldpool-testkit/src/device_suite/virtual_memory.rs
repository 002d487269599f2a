//! Physical memory, mapped at addresses.

use weldpool::{Device, ErrorKind, StorageMode};

use super::MakeDevice;
use super::probe::{Probe, map, release, unmap};
use crate::{Call, FaultyDevice};

/// Physical memory shows the same contents wherever it is mapped, and keeps them while it is nowhere.
pub fn mapped_memory_is_what_was_obtained(make: MakeDevice) {
    let device = make();
    for &storage in &device.properties().storage_modes {
        let Some(memory) = device.virtual_memory(storage) else {
            continue;
        };
        let properties = memory.properties();
        let granule = properties.granularity;
        assert!(granule.is_power_of_two());
        assert!(properties.address_bytes_max >= 1 << 30);
        let probe = Probe::new(
            device.as_ref(),
            2 * device.properties().granularity.max(granule),
        );
        let range = memory.reserve(8 * granule).unwrap();
        assert_eq!(range.bytes(), 8 * granule);
        assert!(range.host_address().is_some() || storage == StorageMode::Private);
        let both = memory.create(2 * granule, storage).unwrap();
        let one = memory.create(granule, storage).unwrap();
        map(range.as_ref(), 0, both, 2 * granule).unwrap();
        map(range.as_ref(), 4 * granule, both, 2 * granule).unwrap();
        map(range.as_ref(), 2 * granule, one, granule).unwrap();
        range.allow_access(0, 3 * granule).unwrap();
        range.allow_access(4 * granule, 2 * granule).unwrap();
        probe.fill(range.as_ref(), 0, 2 * granule, 0x5A);
        probe.fill(range.as_ref(), 2 * granule, granule, 0x11);
        assert!(probe.holds(range.as_ref(), 4 * granule, 2 * granule, 0x5A));
        // Work may cross from one mapping to the next.
        probe.fill(range.as_ref(), 2 * granule - 100, 200, 0x77);
        assert!(probe.holds(range.as_ref(), 6 * granule - 100, 100, 0x77));
        assert!(probe.holds(range.as_ref(), 2 * granule, 100, 0x77));
        assert!(probe.holds(range.as_ref(), 2 * granule + 100, granule - 100, 0x11));
        unmap(range.as_ref(), 0, 3 * granule).unwrap();
        unmap(range.as_ref(), 4 * granule, 2 * granule).unwrap();
        map(range.as_ref(), granule, both, 2 * granule).unwrap();
        range.allow_access(granule, 2 * granule).unwrap();
        assert!(probe.holds(range.as_ref(), granule, 2 * granule - 100, 0x5A));
        if properties.divisible {
            map(range.as_ref(), 6 * granule, both.offset(granule), granule).unwrap();
            range.allow_access(6 * granule, granule).unwrap();
            assert!(probe.holds(range.as_ref(), 7 * granule - 100, 100, 0x77));
        }
        // The end of a range unmaps what is in it.
        drop(range);
        release(memory, both, 2 * granule).unwrap();
        release(memory, one, granule).unwrap();
    }
}

/// A call that fails leaves address space, handles, mappings and contents as they were.
pub fn every_failing_virtual_memory_call_changes_nothing(make: MakeDevice) {
    let device = FaultyDevice::new(make());
    for storage in StorageMode::ALL {
        let Some(memory) = device.virtual_memory(storage) else {
            continue;
        };
        let granule = memory.properties().granularity;
        let probe = Probe::new(&device, device.properties().granularity.max(granule));
        let range = memory.reserve(2 * granule).unwrap();
        let physical = memory.create(granule, storage).unwrap();
        map(range.as_ref(), 0, physical, granule).unwrap();
        range.allow_access(0, granule).unwrap();
        probe.fill(range.as_ref(), 0, granule, 0x42);
        for kind in [
            ErrorKind::OutOfMemory,
            ErrorKind::System,
            ErrorKind::DeviceLost,
        ] {
            for call in Call::VIRTUAL_MEMORY {
                device.fail(call, kind, 1);
                let error = match call {
                    Call::Reserve => memory.reserve(granule).map(drop),
                    Call::CreatePhysical => memory.create(granule, storage).map(drop),
                    Call::ReleasePhysical => release(memory, physical, granule),
                    Call::Map => map(range.as_ref(), granule, physical, granule),
                    Call::AllowAccess => range.allow_access(0, granule),
                    Call::Unmap => unmap(range.as_ref(), 0, granule),
                    other => panic!("{other:?} is not exercised"),
                };
                assert_eq!(error.unwrap_err().kind(), kind, "{call:?}");
                assert!(probe.holds(range.as_ref(), 0, granule, 0x42), "{call:?}");
            }
        }
        map(range.as_ref(), granule, physical, granule).unwrap();
        unmap(range.as_ref(), 0, 2 * granule).unwrap();
        release(memory, physical, granule).unwrap();
    }
}
