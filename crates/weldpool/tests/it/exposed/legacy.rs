//! Legacy handles, by the rules of CUDA's.

use std::sync::Arc;

use weldpool::device::fake::{Call, Costs, FakeDiscrete, Fault, Rule, When};
use weldpool::{Device, Error, ErrorKind, Export, Exported, ExportedHandle};
use weldpool_testkit::{export, import};

use super::{MIB, contents, fill, holds, open, private};

fn bytes_of(exported: &Exported) -> [u8; 64] {
    match exported.handle() {
        ExportedHandle::LegacyIpc(bytes) => *bytes,
        other => panic!("{other:?}"),
    }
}

fn received(handle: [u8; 64], object: usize, bytes: usize) -> Exported {
    Exported::from_parts(ExportedHandle::LegacyIpc(handle), object, 0, bytes).unwrap()
}

#[test]
fn the_bytes_of_a_handle_are_all_that_is_needed() {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let (ours, theirs) = (open(device.clone()), open(device.clone()));
    let request = private(3 * MIB, Export::LegacyIpc);
    let mut buffer = ours.allocate_with(&request).unwrap();
    fill(&ours, &mut buffer, 5);
    let handle = bytes_of(&export(&buffer).unwrap());
    // As much as the tensor needs, of an object of 4 MiB.
    let mut imported = import(&theirs, &received(handle, 2 * MIB, 2 * MIB)).unwrap();
    assert!(holds(&theirs, &imported, 5));
    fill(&theirs, &mut imported, 6);
    let whole = received(handle, 4 * MIB, 3 * MIB);
    // Opened again it would have the same addresses.
    let twice = import(&theirs, &whole).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Busy, "{twice}");
    let other = import(&open(device.clone()), &whole).unwrap();
    drop(imported);
    drop(other);
    let again = import(&theirs, &whole).unwrap();
    for (allocator, buffer) in [(&ours, &buffer), (&theirs, &again)] {
        let seen = contents(allocator, buffer);
        assert!(seen[..2 * MIB].iter().all(|&byte| byte == 6));
        assert!(seen[2 * MIB..].iter().all(|&byte| byte == 5));
    }
    drop(again);
    drop(buffer);
    let stats = theirs.stats();
    assert_eq!(
        (stats.live.value, stats.cached_bytes),
        (0, stats.reserved.value)
    );
    assert_eq!(device.violations(), []);
}

#[test]
fn what_is_no_handle_is_refused() {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let other = open(Arc::new(
        FakeDiscrete::builder().ordinal(1).build().unwrap(),
    ));
    let allocator = open(device.clone());
    let request = private(2 * MIB, Export::LegacyIpc);
    let buffer = allocator.allocate_with(&request).unwrap();
    let exported = export(&buffer).unwrap();
    let handle = bytes_of(&exported);
    let mut of_none = handle;
    of_none[15] = 0x77;
    let mut longer = handle;
    longer[63] = 1;
    let refused = |result: Result<_, Error>| {
        let error = result.map(|_: weldpool::Buffer| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    };
    for wrong in [[0; 64], [0xFF; 64], of_none, longer] {
        refused(import(&allocator, &received(wrong, 2 * MIB, MIB)));
    }
    for object in [2 * MIB + 1, usize::MAX] {
        refused(import(&allocator, &received(handle, object, MIB)));
    }
    refused(import(&other, &exported));
    drop(buffer);
    refused(import(&allocator, &exported));
    assert_eq!(allocator.stats().live.value, 0);
    assert_eq!(device.violations(), []);
    let budget = device.budget().unwrap();
    let _bytes = allocator.clear();
    assert_eq!(budget.available, Some(budget.total));
}

#[test]
fn an_exporter_that_frees_first_breaks_a_rule() {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let allocator = open(device.clone());
    let request = private(2 * MIB, Export::LegacyIpc);
    let buffer = allocator.allocate_with(&request).unwrap();
    let mut imported = import(&allocator, &export(&buffer).unwrap()).unwrap();
    drop(buffer);
    let queue = allocator.create_queue().unwrap();
    let error = queue.fill(&mut imported, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let rules: Vec<_> = device.violations().iter().map(|one| one.rule).collect();
    assert_eq!(rules, [Rule::KeptForImporters, Rule::NotReleased]);
}

#[test]
fn calls_are_charged_and_can_fail() {
    for (call, which) in [
        (Call::CreateExposed, 0),
        (Call::Export, 1),
        (Call::Import, 2),
    ] {
        let fault = Fault {
            call,
            when: When::Nth(2),
            error: ErrorKind::System,
        };
        let device = FakeDiscrete::builder().faults([fault]).build().unwrap();
        let device = Arc::new(device);
        let allocator = open(device.clone());
        let request = private(2 * MIB, Export::LegacyIpc);
        let costs = Costs::h200();
        let charged = || {
            let before = device.charged_ns();
            move |device: &FakeDiscrete| device.charged_ns() - before
        };
        let since = charged();
        let buffer = allocator.allocate_with(&request).unwrap();
        assert_eq!(since(&device), costs.malloc.ns(2 << 20));
        let since = charged();
        let exported = export(&buffer).unwrap();
        assert_eq!(since(&device), costs.export_ns);
        let since = charged();
        let imported = import(&allocator, &exported).unwrap();
        assert_eq!(since(&device), costs.import_ns);
        let failed = match which {
            0 => allocator.allocate_with(&request).map(drop),
            1 => export(&buffer).map(drop),
            _ => import(&allocator, &exported).map(drop),
        };
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::System, "{call:?}");
        assert_eq!(device.control().calls(call), 2);
        drop(imported);
        drop(buffer);
        assert_eq!(device.violations(), []);
        assert_eq!(allocator.stats().reserved.value, 0, "{call:?}");
    }
}
