//! Where inputs are read and outputs written, of every type and shape.

use std::sync::Arc;
use std::thread;

use weldpool_engine::{Arena, DataType, Model, OutputRequest, Tensor};

use crate::support::{ARENAS, address, allocator, fp32, load, model, ocr_model, ramp, run_all};

#[test]
fn given_outputs_are_written_in_place() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("dynamic_batch"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = ramp(&allocator, &[3, 16]);
        let expected = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();

        let y = Tensor::zeroed(&allocator, DataType::Fp32, vec![3, 4]).unwrap();
        // In the order asked for, given and made outputs mixed.
        let outputs = instance
            .run(
                &[("x", &x)],
                &[
                    OutputRequest::new("sum"),
                    OutputRequest::into_tensor("y", &y),
                ],
            )
            .unwrap();
        assert_eq!(address(&outputs[1]), address(&y));
        assert_eq!(y.bytes().unwrap()[..], expected[0].bytes().unwrap()[..]);
        assert_eq!(
            outputs[0].bytes().unwrap()[..],
            expected[1].bytes().unwrap()[..]
        );
    }
}

#[test]
fn every_type_passes_bit_for_bit() {
    let allocator = allocator();
    for data_type in DataType::ALL {
        let name = format!("identity_{}", data_type.name().to_ascii_lowercase());
        let model = load(&model(&name), &allocator, Arena::Pool);
        let mut instance = model.instance().unwrap();
        let input = match data_type.byte_size() {
            None => Tensor::from_strings(&allocator, vec![2, 1], &["a", ""]).unwrap(),
            Some(size) => {
                // Every bit pattern, NaNs and denormals included; booleans are 0 and 1.
                let modulus = if data_type == DataType::Bool { 2 } else { 256 };
                let bytes: Vec<u8> = (0..4 * 256 * size)
                    .map(|index| (index * 37 % modulus) as u8)
                    .collect();
                Tensor::from_bytes(&allocator, data_type, vec![4, 256], &bytes).unwrap()
            }
        };
        let outputs = run_all(&model, instance.as_mut(), &[("x", &input)]).unwrap();
        assert_eq!(outputs[0].data_type(), data_type);
        assert_eq!(outputs[0].shape(), input.shape());
        assert!(
            outputs[0].bytes().unwrap()[..] == input.bytes().unwrap()[..],
            "{data_type}"
        );
    }
}

#[test]
fn strings_may_be_any_bytes() {
    let allocator = allocator();
    let model = load(&model("string_identity"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let long = vec![0xfe_u8; 100_000];
    let strings: [&[u8]; 6] = [
        b"",
        b"plain",
        b"with\0zero\0",
        &[0xff, 0xfe, 0x80],
        "日本語".as_bytes(),
        &long,
    ];
    let input = Tensor::from_strings(&allocator, vec![6], &strings).unwrap();
    let outputs = run_all(&model, instance.as_mut(), &[("x", &input)]).unwrap();
    let back = outputs[0].strings().unwrap();
    assert_eq!(back.len(), 6);
    assert!(back.iter().eq(strings));

    let none = Tensor::from_strings::<&[u8]>(&allocator, vec![0], &[]).unwrap();
    let outputs = run_all(&model, instance.as_mut(), &[("x", &none)]).unwrap();
    assert_eq!(outputs[0].shape(), [0]);
    assert!(outputs[0].strings().unwrap().is_empty());
    drop((back, outputs, input));
}

#[test]
fn no_run_copies_its_inputs() {
    // One input of 8 MB: a copy of it anywhere in the pool would show.
    const BYTES: u64 = 4 * 2000 * 1000;
    let allocator = allocator();
    for arena in ARENAS {
        let model = load(&model("identity"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = ramp(&allocator, &[2000, 1000]);
        let y = Tensor::zeroed(&allocator, DataType::Fp32, vec![2000, 1000]).unwrap();
        let request = [OutputRequest::into_tensor("y", &y)];
        instance.run(&[("x", &x)], &request).unwrap();
        let before = allocator.stats();
        instance.run(&[("x", &x)], &request).unwrap();
        let after = allocator.stats();
        let taken = after.live.total - before.live.total;
        assert!(
            taken < BYTES,
            "{arena:?}: {taken} bytes taken from the pool"
        );
        assert_eq!(after.live.value, before.live.value);
        assert!(y.bytes().unwrap()[..] == x.bytes().unwrap()[..]);
    }
}

#[test]
fn made_outputs_cost_one_block_each() {
    let allocator = allocator();
    for arena in [Arena::Engine, Arena::System] {
        let model = load(&model("identity"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = ramp(&allocator, &[100, 100]);
        for run in 0..3 {
            let before = allocator.stats();
            let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
            let after = allocator.stats();
            assert_eq!(
                after.allocations - before.allocations,
                1,
                "{arena:?} run {run}"
            );
            assert_eq!(
                after.live.value - before.live.value,
                40_000,
                "{arena:?} run {run}"
            );
            drop(outputs);
        }
    }
}

#[test]
fn shapes_may_change_from_run_to_run() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("large_conv"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        for (batch, height, width) in [(1, 8, 8), (2, 31, 17), (1, 8, 8), (3, 1, 1), (2, 31, 17)] {
            let x = ramp(&allocator, &[batch, 1, height, width]);
            let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
            assert_eq!(outputs[0].shape(), [batch, 1, height, width]);
        }
    }
}

#[test]
fn shapes_may_depend_on_values() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("non_zero"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        // The same input shape each time, which must not be taken to mean the same output shape.
        for values in [
            [0.0, 1.0, 2.0],
            [0.0, 0.0, 3.0],
            [1.0, 1.0, 1.0],
            [0.0; 3],
            [0.0, 1.0, 2.0],
        ] {
            let x = fp32(&allocator, &[3], &values);
            let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
            let expected: Vec<i64> = (0..3)
                .filter(|index| values[*index as usize] != 0.0)
                .collect();
            assert_eq!(
                outputs[0].shape(),
                [1, expected.len()],
                "{arena:?} {values:?}"
            );
            assert_eq!(outputs[0].values::<i64>().unwrap()[..], expected[..]);
        }
    }
}

#[test]
fn outputs_outlive_their_model() {
    let allocator = allocator();
    let model = load(&model("identity"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let x = ramp(&allocator, &[1, 1000]);
    let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
    // An output can be the next run's input.
    let again = run_all(&model, instance.as_mut(), &[("x", &outputs[0])]).unwrap();
    drop((instance, model, outputs));
    assert!(again[0].bytes().unwrap()[..] == x.bytes().unwrap()[..]);
    drop((x, again));
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn an_input_handed_through_stays_the_callers() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("passthrough"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        // The second run's input is memory that the library allocated in the first.
        let mut x = ramp(&allocator, &[2, 4]);
        for run in 0..3 {
            let outputs = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
            assert_eq!(
                outputs[0].values::<f32>().unwrap()[..],
                x.values::<f32>().unwrap()[..],
                "{arena:?} run {run}"
            );
            assert_ne!(address(&outputs[0]), address(&x));
            let sum = outputs[1].values::<f32>().unwrap();
            assert!(
                sum.iter()
                    .zip(x.values::<f32>().unwrap().iter())
                    .all(|(y, x)| *y == x + 1.0),
                "{arena:?}"
            );
            drop(sum);

            let given = Tensor::zeroed(&allocator, DataType::Fp32, vec![2, 4]).unwrap();
            let request = [OutputRequest::into_tensor("x", &given)];
            let copied = instance.run(&[("x", &x)], &request).unwrap();
            assert_eq!(address(&copied[0]), address(&given));
            assert!(given.bytes().unwrap()[..] == x.bytes().unwrap()[..]);
            x = outputs[1].clone();
        }
        drop((instance, model, x));
        assert_eq!(allocator.stats().live.value, 0, "{arena:?}");
    }
}

#[test]
fn two_threads_run_two_instances() {
    let allocator = allocator();
    for arena in [Arena::Pool, Arena::Engine] {
        let model = load(&ocr_model("cls"), &allocator, arena);
        let x = ramp(&allocator, &[1, 3, 48, 192]);
        let name = model.inputs()[0].name.clone();
        let mut instance = model.instance().unwrap();
        let expected = run_all(&model, instance.as_mut(), &[(&name, &x)]).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| many_runs(&model, &name, &x, &expected[0]));
            }
        });
    }
    assert_eq!(allocator.stats().live.value, 0);
}

fn many_runs(model: &Arc<dyn Model>, name: &str, x: &Tensor, expected: &Tensor) {
    let mut instance = model.instance().unwrap();
    for _ in 0..50 {
        let outputs = run_all(model, instance.as_mut(), &[(name, x)]).unwrap();
        assert!(outputs[0].bytes().unwrap()[..] == expected.bytes().unwrap()[..]);
    }
}
