//! The node of imported memory: it counts where the thread is that imports it, until it goes back.

use weldpool::device::Exposure;
use weldpool::{Allocator, Buffer, Config, ErrorKind, Export, Request, StorageMode};
use weldpool_testkit::{export, import};

use super::{allocator, devices, nodes, on, run_on};

const MIB: usize = 1 << 20;

/// The node that the allocator says an address of the buffer is of.
fn node_of(allocator: &Allocator, buffer: &Buffer) -> Option<u32> {
    let binding = buffer.binding();
    let address = match binding.host {
        Some(host) => host.as_ptr().addr(),
        None => binding.device_address.expect("an address") as usize,
    };
    let found = allocator.find(std::ptr::without_provenance(address));
    found.expect("a live buffer").node
}

/// Bytes held of each node, and in all.
fn reserved(allocator: &Allocator) -> (Vec<usize>, usize) {
    let stats = allocator.stats();
    let nodes = stats.nodes.iter().map(|node| node.reserved.value as usize);
    (nodes.collect(), stats.reserved.value as usize)
}

#[test]
fn it_counts_for_the_node_of_the_thread_that_imports_it() {
    for device in devices(&nodes(2, None)) {
        let [ours, theirs] = [(); 2].map(|()| allocator(&device, Config::default()));
        let exposure = Exposure {
            export: Some(Export::FileDescriptor),
            ..Exposure::default()
        };
        let mut offered = [StorageMode::Shared, StorageMode::Private].into_iter();
        let storage = offered.find(|&storage| device.offers(exposure, storage));
        let storage = storage.expect("both devices export memory");
        // The fake keeps only its pinned memory apart, and that is not exported.
        let apart = device.topology(storage).is_some();
        let of = |node: u32, bytes: usize| match (node, apart) {
            (_, false) => (vec![0, 0], bytes),
            (0, true) => (vec![bytes, 0], bytes),
            (_, true) => (vec![0, bytes], bytes),
        };
        let request = Request::new(2 * MIB).storage(storage);
        let request = request.exportable(Export::FileDescriptor);
        for (exporter, importer) in [(0, 1), (1, 0), (1, 1)] {
            let buffer = on(exporter, || ours.allocate_with(&request).unwrap());
            let exported = export(&buffer).unwrap();
            let imported = on(importer, || import(&theirs, &exported).unwrap());
            assert_eq!(imported.storage_mode(), storage);
            let expected = [exporter, importer].map(|node| apart.then_some(node));
            assert_eq!(node_of(&ours, &buffer), expected[0], "{storage}");
            assert_eq!(node_of(&theirs, &imported), expected[1], "{storage}");
            assert_eq!(reserved(&ours), of(exporter, 2 * MIB), "{storage}");
            assert_eq!(reserved(&theirs), of(importer, 2 * MIB), "{storage}");
            // Whoever frees it.
            on(1 - importer, || drop(imported));
            assert_eq!(reserved(&theirs), of(0, 0), "{storage}");

            // What is refused counts nowhere.
            theirs.set_reserved_bytes_max(Some(MIB as u64)).unwrap();
            let error = on(importer, || import(&theirs, &exported).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
            assert_eq!(reserved(&theirs), of(0, 0), "{storage}");
            theirs.set_reserved_bytes_max(None).unwrap();
            run_on(0);
            drop(buffer);
            assert_eq!(reserved(&ours), of(0, 0), "{storage}");
        }
    }
}
