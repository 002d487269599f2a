//! Stopping runs from another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weldpool::Allocator;
use weldpool_engine::{
    Arena, Canceller, DataType, ErrorKind, Input, Instance, Output, Result, Tensor, TensorSliceMut,
};

use crate::support::{ARENAS, allocator, fp32, load, model};

/// Half a minute's work or more, one operator at a time.
const LONG: i64 = 1 << 22;

/// Counts up to `count`; a run that is not stopped writes it to memory lent for the run.
fn count(instance: &mut dyn Instance, allocator: &Allocator, count: i64) -> Result<f32> {
    let start = fp32(allocator, &[1], &[0.0]);
    let count = Tensor::from_values(allocator, DataType::Int64, vec![], &[count])?;
    let mut memory = [0_u8; 8];
    let aligned = memory.as_ptr().align_offset(4);
    let room = &mut memory[aligned..aligned + 4];
    let slice = TensorSliceMut::new(DataType::Fp32, &[1], room)?;
    instance.run_with(
        &[
            Input::tensor("count", &count),
            Input::tensor("start", &start),
        ],
        &mut [Output::into_slice("end", slice)],
    )?;
    Ok(f32::from_ne_bytes([room[0], room[1], room[2], room[3]]))
}

/// Cancels again and again while `run` goes on: which of them meets the run is left to chance.
fn cancelled_meanwhile<T>(canceller: &Canceller, run: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(2));
                canceller.cancel();
            }
        });
        let result = run();
        over.store(true, Ordering::Release);
        result
    })
}

#[test]
fn a_cancelled_run_ends_and_the_instance_goes_on() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("count_up"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let canceller = instance.canceller().unwrap();
        for _ in 0..3 {
            let start = Instant::now();
            let error = cancelled_meanwhile(&canceller, || {
                count(instance.as_mut(), &allocator, LONG).unwrap_err()
            });
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
            assert!(start.elapsed() < Duration::from_secs(20), "{arena:?}");
            let end = count(instance.as_mut(), &allocator, 100).unwrap();
            assert_eq!(end.to_bits(), 100_f32.to_bits());
        }
        drop((instance, model));
        // There is nothing left to stop.
        canceller.cancel();
        assert_eq!(allocator.stats().live.value, 0, "{arena:?}");
    }
}

#[test]
fn what_is_cancelled_is_the_run_under_way() {
    let allocator = allocator();
    let model = load(&model("count_up"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let canceller = instance.canceller().unwrap();
    for _ in 0..3 {
        canceller.cancel();
        canceller.clone().cancel();
        count(instance.as_mut(), &allocator, 1000).unwrap();
    }
    // Nor does it reach another instance of the model.
    let mut other = model.instance().unwrap();
    cancelled_meanwhile(&canceller, || {
        count(other.as_mut(), &allocator, 20_000).unwrap()
    });
}
