//! Driver calls that fail.

use std::collections::HashSet;
use std::sync::Arc;

use weldpool::{Allocator, Buffer, Device, ErrorKind, Request, Result, StorageMode};

use super::MakeDevice;
use crate::{Call, FaultyDevice, Pages, block, export, import, offered};

pub fn every_failing_driver_call_is_survived(make: MakeDevice) {
    let mut seen = HashSet::new();
    for kind in [
        ErrorKind::OutOfMemory,
        ErrorKind::System,
        ErrorKind::DeviceLost,
    ] {
        for call in Call::ALL {
            let device = Arc::new(FaultyDevice::new(make()));
            // No driver says that a queue is lost which goes on.
            let false_alarm = kind == ErrorKind::DeviceLost && Call::TIMELINE.contains(&call);
            if false_alarm || !is_made(device.as_ref(), call) {
                continue;
            }
            let allocator = Allocator::builder(device.clone()).build().unwrap();
            let queue = allocator.create_queue().unwrap();
            let other = allocator.create_queue().unwrap();
            let mut kept = allocator.allocate(5000).unwrap();
            kept.write::<u8>().unwrap().fill(1);
            let mut target = allocator.allocate(5000).unwrap();
            device.fail(call, kind, usize::MAX);
            let error = match call {
                Call::Budget => allocator.device().budget().map(drop),
                Call::Reserve => {
                    let fresh = Allocator::builder(device.clone()).build().unwrap();
                    fresh.allocate(8 << 20).map(drop)
                }
                Call::CreateSegment | Call::CreatePhysical | Call::Map | Call::AllowAccess => {
                    allocator.allocate(8 << 20).map(drop)
                }
                Call::ReleaseSegment | Call::Unmap | Call::ReleasePhysical => {
                    drop(allocator.allocate(8 << 20).unwrap());
                    let before = allocator.stats();
                    assert_eq!(allocator.clear(), 0);
                    let after = allocator.stats();
                    assert_eq!(after.reserved.value, before.reserved.value);
                    assert_eq!(after.cached_bytes, before.cached_bytes);
                    drop(allocator.allocate(8 << 20).unwrap());
                    assert_eq!(
                        allocator.stats().growths,
                        before.growths,
                        "the segment is reused"
                    );
                    Ok(())
                }
                Call::CreateQueue => allocator.create_queue().map(drop),
                Call::Copy | Call::Signal => queue.copy(&kept, &mut target).map(drop),
                Call::Fill => queue.fill(&mut target, 2).map(drop),
                Call::HostCall => queue.call(|| ()).map(drop),
                Call::WaitFor => {
                    let (open, _) = block(&other);
                    other.fill(&mut target, 2).unwrap();
                    let result = queue.copy(&kept, &mut target).map(drop);
                    open.send(()).unwrap();
                    result
                }
                Call::Query => queue.fill(&mut target, 2).unwrap().is_complete().map(drop),
                Call::Wait => queue.fill(&mut target, 2).unwrap().wait(None),
                Call::Register => {
                    let failed = allocator.register(Pages::new(1)).unwrap_err();
                    Err(failed.error)
                }
                Call::Unregister => {
                    let memory = allocator.register(Pages::new(1)).unwrap();
                    match memory.into_inner() {
                        // It is as it was, and is given back when the driver lets it.
                        Err(failed) => {
                            device.fail(call, kind, 0);
                            drop(failed.memory);
                            Err(failed.error)
                        }
                        Ok(_) => {
                            assert_eq!(kind, ErrorKind::DeviceLost, "nothing reaches it");
                            Ok(())
                        }
                    }
                }
                Call::CreateExposed => exposed(&allocator, 8 << 20).map(drop),
                Call::Export => {
                    let buffer = exposed(&allocator, 8 << 20).unwrap();
                    export(&buffer).map(drop)
                }
                Call::Import => {
                    let buffer = exposed(&allocator, 8 << 20).unwrap();
                    import(&allocator, &export(&buffer).unwrap()).map(drop)
                }
                Call::Object => kept.object().map(drop),
                other => panic!("{other:?} is not exercised"),
            };
            match error {
                Err(error) => assert_eq!(error.kind(), kind, "{call:?}"),
                Ok(()) => assert!(
                    matches!(
                        call,
                        Call::ReleaseSegment
                            | Call::Unmap
                            | Call::ReleasePhysical
                            | Call::Unregister
                    ),
                    "{call:?} did not fail"
                ),
            }
            device.fail(call, kind, 0);
            // Everything works again, and nothing was lost.
            if Call::EXPOSED.contains(&call) {
                let buffer = exposed(&allocator, 8 << 20).unwrap();
                drop(import(&allocator, &export(&buffer).unwrap()).unwrap());
            }
            drop(allocator.allocate(8 << 20).unwrap());
            queue.copy(&kept, &mut target).unwrap().wait(None).unwrap();
            assert!(
                target.read::<u8>().unwrap().iter().all(|&byte| byte == 1),
                "{call:?}"
            );
            drop((kept, target));
            assert_eq!(allocator.stats().live.value, 0, "{call:?}");
            assert_eq!(allocator.stats().registered.value, 0, "{call:?}");
            let _bytes = allocator.clear();
            let stats = allocator.stats();
            assert_eq!(
                (stats.reserved.value, stats.segments),
                (0, 0),
                "{call:?}: {stats}"
            );
            seen.insert(call);
        }
    }
    let made = |call: &&Call| is_made(make().as_ref(), **call);
    assert_eq!(seen.len(), Call::ALL.iter().filter(made).count());
}

/// A buffer that can be exported.
fn exposed(allocator: &Allocator, bytes: usize) -> Result<Buffer> {
    let (form, storage) = offered(allocator.device().as_ref()).unwrap();
    allocator.allocate_with(&Request::new(bytes).storage(storage).exportable(form))
}

/// Whether buffers of the device have objects of their own.
pub(super) fn has_objects(device: &dyn Device) -> bool {
    let bytes = device.properties().granularity;
    let segment = device.create_segment(bytes, StorageMode::Shared).unwrap();
    let has = segment.object(0, bytes).is_ok();
    device.release_segment(segment).unwrap();
    has
}

/// Whether an allocator of shared storage ever makes this call on the device.
fn is_made(device: &dyn Device, call: Call) -> bool {
    if Call::EXPOSED.contains(&call) {
        return offered(device).is_some();
    }
    if call == Call::Object {
        return has_objects(device);
    }
    match device.virtual_memory(StorageMode::Shared) {
        None => !Call::VIRTUAL_MEMORY.contains(&call),
        Some(memory) => match call {
            Call::CreateSegment | Call::ReleaseSegment => false,
            Call::AllowAccess => memory.properties().needs_access,
            _ => true,
        },
    }
}
