//! The pool in place of onnxruntime's arena: what it shows, what it gives back, what it refuses.

use std::sync::{Arc, Barrier};
use std::thread;

use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Config};
use weldpool_engine::{Arena, Engine, ErrorKind, LoadOptions, ModelSource, OutputRequest, Tensor};

use crate::support::{ARENAS, allocator, engine, load, model, ocr_model, ramp, run_all};

/// Live bytes of the pool that onnxruntime holds.
fn held_by_engine(allocator: &Allocator) -> usize {
    allocator
        .live_report()
        .buffers
        .iter()
        .filter(|one| one.name.as_str() == "onnxruntime")
        .map(|one| one.bytes)
        .sum()
}

#[test]
fn the_pool_shows_the_memory_between_operators() {
    let allocator = allocator();
    let x = ramp(&allocator, &[1, 1, 256, 256]);
    // 64 channels of 256 x 256 between the two convolutions.
    let between = 64 * 256 * 256 * 4;

    let other = load(&model("large_conv"), &allocator, Arena::Engine);
    run_all(&other, other.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
    assert_eq!(held_by_engine(&allocator), 0);
    assert!(
        allocator.stats().live.peak < between,
        "{:?}",
        allocator.stats().live
    );

    let model = load(&model("large_conv"), &allocator, Arena::Pool);
    assert_eq!(model.arena(), Arena::Pool);
    run_all(&model, model.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
    assert!(
        allocator.stats().live.peak >= between,
        "{:?}",
        allocator.stats().live
    );
}

#[test]
fn runs_and_unloading_give_everything_back() {
    for arena in ARENAS {
        let allocator = allocator();
        for (model, shape) in [
            (ocr_model("det"), &[1, 3, 160, 160][..]),
            (ocr_model("rec"), &[1, 3, 48, 160]),
            (model("simple_cnn"), &[4, 3, 32, 32]),
        ] {
            let model = load(&model, &allocator, arena);
            let name = model.inputs()[0].name.clone();
            let loaded = allocator.stats().live.value;
            let mut instance = model.instance().unwrap();
            for run in 0..4 {
                let x = ramp(&allocator, shape);
                let outputs = run_all(&model, instance.as_mut(), &[(&name, &x)]).unwrap();
                drop((x, outputs));
                assert_eq!(allocator.stats().live.value, loaded, "{arena:?} run {run}");
            }
            drop((instance, model));
            assert_eq!(
                allocator.stats().live.value,
                0,
                "{arena:?}: {}",
                allocator.live_report()
            );
        }
    }
}

#[test]
fn the_steady_state_calls_no_driver() {
    let allocator = allocator();
    let model = load(&ocr_model("det"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let x = ramp(&allocator, &[1, 3, 160, 160]);
    for _ in 0..3 {
        run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
    }
    let before = allocator.stats();
    for _ in 0..5 {
        run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
    }
    let after = allocator.stats();
    assert_eq!(after.driver_calls, before.driver_calls);
    assert_eq!(after.misses, before.misses);
    assert_eq!(after.reserved.value, before.reserved.value);
}

#[test]
fn a_shrinking_pool_gives_back_after_each_run() {
    let allocator = allocator();
    let options = LoadOptions::new(allocator.clone())
        .parameter("weldpool.arena", "pool")
        .parameter("memory.enable_memory_arena_shrinkage", "cpu:0");
    let path = model("large_conv");
    let model = engine().load(ModelSource::Path(&path), &options).unwrap();
    let x = ramp(&allocator, &[1, 1, 256, 256]);
    run_all(&model, model.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
    let stats = allocator.stats();
    assert!(
        stats.reserved.peak > 64 * 256 * 256 * 4,
        "{:?}",
        stats.reserved
    );
    assert!(stats.reserved.value < 8 << 20, "{:?}", stats.reserved);
}

#[test]
fn pools_do_not_mix() {
    let (one, other) = (allocator(), allocator());
    let path = ocr_model("cls");
    let start = Barrier::new(4);
    // Loads side by side, two for each pool, take turns where they must.
    thread::scope(|scope| {
        for pool in [&one, &other, &one, &other] {
            let (start, path) = (&start, &path);
            scope.spawn(move || {
                start.wait();
                for _ in 0..3 {
                    let model = load(path, pool, Arena::Pool);
                    let x = ramp(pool, &[1, 3, 48, 192]);
                    let mut instance = model.instance().unwrap();
                    let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
                    for output in &outputs {
                        let address = crate::support::address(output);
                        assert!(pool.find(address).is_some());
                    }
                }
            });
        }
    });
    assert_eq!(one.stats().live.value, 0);
    assert_eq!(other.stats().live.value, 0);

    let model = load(&path, &one, Arena::Pool);
    let before = other.stats().allocations;
    let x = ramp(&one, &[2, 3, 48, 192]);
    run_all(&model, model.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
    assert_eq!(other.stats().allocations, before);
}

#[test]
fn engines_come_and_go() {
    let allocator = allocator();
    let path = model("simple_cnn");
    for round in 0..3 {
        let (first, second) = (engine(), engine());
        let options = LoadOptions::new(allocator.clone()).parameter("weldpool.arena", "pool");
        let one = first.load(ModelSource::Path(&path), &options).unwrap();
        drop(first);
        let two = second.load(ModelSource::Path(&path), &options).unwrap();
        drop(second);
        let x = ramp(&allocator, &[1, 3, 32, 32]);
        for model in [&one, &two] {
            run_all(model, model.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
        }
        drop((one, two, x));
        assert_eq!(allocator.stats().live.value, 0, "round {round}");
    }
}

/// A pool that holds at most so many bytes from the system.
fn limited(bytes: u64) -> Allocator {
    let config = Config {
        reserved_bytes_max: Some(bytes),
        ..Config::default()
    };
    Allocator::builder(Arc::new(HostDevice::new().unwrap()))
        .config(config)
        .build()
        .unwrap()
}

#[test]
fn a_limit_is_an_error_and_nothing_leaks() {
    let allocator = limited(24 << 20);
    let model = load(&model("large_conv"), &allocator, Arena::Pool);
    let loaded = allocator.stats().live.value;
    let mut instance = model.instance().unwrap();
    let small = ramp(&allocator, &[1, 1, 16, 16]);
    let with_small = allocator.stats().live.value;
    for _ in 0..3 {
        // 64 channels of 512 x 512 are 64 MiB.
        let large = ramp(&allocator, &[1, 1, 512, 512]);
        let error = run_all(&model, instance.as_mut(), &[("x", &large)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains("onnxruntime"), "{error}");
        drop(large);
        assert_eq!(allocator.stats().live.value, with_small);
        run_all(&model, instance.as_mut(), &[("x", &small)]).unwrap();
        assert_eq!(allocator.stats().live.value, with_small);
    }
    drop(small);
    assert_eq!(allocator.stats().live.value, loaded);
    drop((instance, model));
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn no_room_for_an_output_is_an_error() {
    let allocator = limited(16 << 20);
    for arena in ARENAS {
        let model = load(&model("identity"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = ramp(&allocator, &[3, 1 << 20]);
        for _ in 0..2 {
            let error = instance
                .run(&[("x", &x)], &[OutputRequest::new("y")])
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{arena:?}: {error}");
        }
        drop((x, instance, model));
        assert_eq!(allocator.stats().live.value, 0, "{arena:?}");
    }
}

#[test]
fn no_room_to_load_is_an_error() {
    let allocator = limited(2 << 20);
    let mut options = LoadOptions::new(allocator.clone());
    options.arena = Some(Arena::Pool);
    let path = ocr_model("rec");
    let error = engine()
        .load(ModelSource::Path(&path), &options)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(allocator.stats().live.value, 0);
    // Loading for another pool is not disturbed.
    let other = crate::support::allocator();
    let model = load(&path, &other, Arena::Pool);
    assert!(!model.inputs().is_empty());
    let x = Tensor::zeroed(&other, weldpool_engine::DataType::Fp32, vec![1, 3, 48, 64]).unwrap();
    run_all(&model, model.instance().unwrap().as_mut(), &[("x", &x)]).unwrap();
}
