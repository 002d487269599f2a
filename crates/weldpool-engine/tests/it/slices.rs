//! Inputs from borrowed memory and outputs into it.

use weldpool_engine::{
    Arena, DataType, Error, ErrorKind, Input, Instance, Output, Tensor, TensorSlice, TensorSliceMut,
};

use crate::support::{ARENAS, address, allocator, fp32, load, model, ramp, run_all};

/// Memory of a host program's, at an address that is a multiple of 64.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// So many bytes of 0xa5, which no test expects as a result.
    fn new(len: usize) -> Memory {
        let bytes = vec![0xa5; len + 64];
        let start = bytes.as_ptr().align_offset(64);
        Memory { bytes, start, len }
    }

    fn of(content: &[u8]) -> Memory {
        let mut memory = Memory::new(content.len());
        memory.get_mut().copy_from_slice(content);
        memory
    }

    fn floats(values: &[f32]) -> Memory {
        let bytes: Vec<u8> = values.iter().flat_map(|one| one.to_ne_bytes()).collect();
        Memory::of(&bytes)
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn reading<'a>(&'a self, data_type: DataType, shape: &'a [usize]) -> TensorSlice<'a> {
        TensorSlice::new(data_type, shape, self.get()).unwrap()
    }

    fn writing<'a>(&'a mut self, data_type: DataType, shape: &'a [usize]) -> TensorSliceMut<'a> {
        TensorSliceMut::new(data_type, shape, self.get_mut()).unwrap()
    }
}

fn expect(error: &Error, kind: ErrorKind, tensor: &str, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.tensor(), Some(tensor), "{error}");
    for part in parts {
        assert!(error.message().contains(part), "{part:?} in {error}");
    }
}

#[test]
fn every_type_passes_bit_for_bit() {
    let allocator = allocator();
    for arena in ARENAS {
        for data_type in DataType::ALL {
            let Some(size) = data_type.byte_size() else {
                continue;
            };
            let name = format!("identity_{}", data_type.name().to_ascii_lowercase());
            let model = load(&model(&name), &allocator, arena);
            let mut instance = model.instance().unwrap();
            let modulus = if data_type == DataType::Bool { 2 } else { 256 };
            let content: Vec<u8> = (0..4 * 256 * size)
                .map(|index| (index * 37 % modulus) as u8)
                .collect();
            let x = Memory::of(&content);
            for _ in 0..3 {
                let mut y = Memory::new(content.len());
                let outputs = instance
                    .run_with(
                        &[Input::slice("x", x.reading(data_type, &[4, 256]))],
                        &mut [Output::into_slice("y", y.writing(data_type, &[4, 256]))],
                    )
                    .unwrap();
                assert!(matches!(outputs[..], [None]));
                assert!(y.get() == content, "{data_type} {arena:?}");
                assert!(x.get() == content, "{data_type} {arena:?}");
            }
        }
    }
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn byte_strings_are_read_from_anywhere() {
    let allocator = allocator();
    let model = load(&model("string_identity"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    // Odd on purpose.
    let encoded = Memory::of(b"?\x05\0\0\0a\0\xff\xfe!\0\0\0\0\x01\0\0\0b");
    let shape = [3];
    let x = TensorSlice::new(DataType::Bytes, &shape, &encoded.get()[1..]).unwrap();
    let outputs = instance
        .run_with(&[Input::slice("x", x)], &mut [Output::new("y")])
        .unwrap();
    let y = outputs[0].as_ref().unwrap();
    let strings = y.strings().unwrap();
    assert!(strings.iter().eq([&b"a\0\xff\xfe!"[..], b"", b"b"]));
    assert_eq!(y.shape(), [3]);

    // Its length is not known beforehand, whatever type the memory is said to have.
    let mut room = Memory::new(3);
    let error = instance
        .run_with(
            &[Input::slice("x", x)],
            &mut [Output::into_slice("y", room.writing(DataType::Uint8, &[3]))],
        )
        .unwrap_err();
    expect(&error, ErrorKind::InvalidOutput, "y", &["UINT8", "BYTES"]);

    let none = TensorSlice::new(DataType::Bytes, &[0], &[]).unwrap();
    let outputs = instance
        .run_with(&[Input::slice("x", none)], &mut [Output::new("y")])
        .unwrap();
    assert_eq!(outputs[0].as_ref().unwrap().shape(), [0]);
}

#[test]
fn slices_and_tensors_mix() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("add_sub"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let a = Tensor::from_values(&allocator, DataType::Int32, vec![1, 16], &[7; 16]).unwrap();
        let b: Vec<u8> = (0..16_i32).flat_map(i32::to_ne_bytes).collect();
        let b = Memory::of(&b);
        let inputs = [
            Input::slice("b", b.reading(DataType::Int32, &[1, 16])),
            Input::tensor("a", &a),
        ];
        let given = Tensor::zeroed(&allocator, DataType::Int32, vec![1, 16]).unwrap();
        let mut room = Memory::new(64);
        let slice = room.writing(DataType::Int32, &[1, 16]);
        let outputs = instance
            .run_with(
                &inputs,
                &mut [
                    Output::into_slice("difference", slice),
                    Output::into_tensor("sum", &given),
                ],
            )
            .unwrap();
        assert!(outputs[0].is_none());
        assert_eq!(address(outputs[1].as_ref().unwrap()), address(&given));
        let difference: Vec<u8> = (0..16_i32)
            .flat_map(|one| (7 - one).to_ne_bytes())
            .collect();
        assert_eq!(room.get(), difference, "{arena:?}");
        let sum: Vec<i32> = (0..16).map(|one| 7 + one).collect();
        assert_eq!(given.values::<i32>().unwrap()[..], sum, "{arena:?}");

        let outputs = instance
            .run_with(&inputs, &mut [Output::new("sum")])
            .unwrap();
        let made = outputs[0].as_ref().unwrap();
        assert_eq!(made.values::<i32>().unwrap()[..], sum, "{arena:?}");
    }
}

#[test]
fn the_pool_has_no_part_in_a_run_on_slices() {
    let values: Vec<f32> = (0..2_000_000).map(|one| one as f32).collect();
    let x = Memory::floats(&values);
    let mut y = Memory::new(x.len);
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("identity"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        for run in 0..3 {
            let before = allocator.stats();
            y.get_mut().fill(0);
            instance
                .run_with(
                    &[Input::slice(
                        "x",
                        x.reading(DataType::Fp32, &[2, 1_000_000]),
                    )],
                    &mut [Output::into_slice(
                        "y",
                        y.writing(DataType::Fp32, &[2, 1_000_000]),
                    )],
                )
                .unwrap();
            assert!(y.get() == x.get(), "{arena:?} run {run}");
            let after = allocator.stats();
            // With the pool as its arena, a copy that the library makes would show as well.
            assert_eq!(after.allocations, before.allocations, "{arena:?} run {run}");
        }
    }
}

#[test]
fn nothing_and_scalars() {
    for arena in ARENAS {
        let allocator = allocator();
        let model_of_any = load(&model("identity"), &allocator, arena);
        let mut instance = model_of_any.instance().unwrap();
        let mut nothing = Memory::new(0);
        let empty = TensorSlice::new(DataType::Fp32, &[0, 5], &[]).unwrap();
        let outputs = instance
            .run_with(
                &[Input::slice("x", empty)],
                &mut [Output::into_slice(
                    "y",
                    nothing.writing(DataType::Fp32, &[0, 5]),
                )],
            )
            .unwrap();
        assert!(outputs[0].is_none());
        let outputs = instance
            .run_with(&[Input::slice("x", empty)], &mut [Output::new("y")])
            .unwrap();
        assert_eq!(outputs[0].as_ref().unwrap().shape(), [0, 5]);

        let scalar = load(&model("scalar"), &allocator, arena);
        let mut instance = scalar.instance().unwrap();
        let x = Memory::floats(&[2.5]);
        for _ in 0..2 {
            let mut y = Memory::new(4);
            instance
                .run_with(
                    &[Input::slice("x", x.reading(DataType::Fp32, &[]))],
                    &mut [Output::into_slice("y", y.writing(DataType::Fp32, &[]))],
                )
                .unwrap();
            assert_eq!(y.get(), x.get());
        }
        // It might as well be an output of which the file says nothing.
        assert_eq!(scalar.expected_shapes(&[("x", &[])]), [None]);
    }
}

/// Runs `dynamic_batch` on so many rows, with `y` written to a slice of another number of them.
fn run_rows(
    instance: &mut dyn Instance,
    x: &Tensor,
    rows: usize,
) -> weldpool_engine::Result<Vec<u8>> {
    let mut room = Memory::new(rows * 16);
    let shape = [rows, 4];
    let slice = room.writing(DataType::Fp32, &shape);
    let mut outputs = [Output::new("sum"), Output::into_slice("y", slice)];
    instance.run_with(&[Input::tensor("x", x)], &mut outputs)?;
    Ok(room.get().to_vec())
}

#[test]
fn a_slice_of_another_shape_is_refused_and_the_instance_goes_on() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("dynamic_batch"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = ramp(&allocator, &[2, 16]);
        for _ in 0..2 {
            for rows in [0, 1, 3] {
                let error = run_rows(instance.as_mut(), &x, rows).unwrap_err();
                let parts = [&*format!("[{rows},4]"), "[2,4]"];
                expect(&error, ErrorKind::InvalidOutput, "y", &parts);
            }
            let expected = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
            let y = run_rows(instance.as_mut(), &x, 2).unwrap();
            assert!(y == expected[0].bytes().unwrap()[..], "{arena:?}");
        }
        // These need no run to be told.
        let mut room = Memory::new(40);
        let input = [Input::tensor("x", &x)];
        let mut refused = |data_type, shape: &[usize], parts: &[&str]| {
            let slice = room.writing(data_type, shape);
            let mut outputs = [Output::into_slice("y", slice)];
            let error = instance.run_with(&input, &mut outputs).unwrap_err();
            expect(&error, ErrorKind::InvalidOutput, "y", parts);
        };
        refused(DataType::Fp32, &[2, 5], &["[2,5]", "[batch,4]"]);
        refused(DataType::Fp32, &[10], &["[10]", "[batch,4]"]);
        refused(DataType::Int32, &[2, 5], &["INT32", "FP32"]);
    }
}

#[test]
fn inputs_that_do_not_fit() {
    let allocator = allocator();
    let model = load(&model("dynamic_batch"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let memory = Memory::floats(&[0.5; 32]);
    let mut refused = |data_type, shape: &[usize], parts: &[&str]| {
        let input = Input::slice("x", memory.reading(data_type, shape));
        let error = instance
            .run_with(&[input], &mut [Output::new("y")])
            .unwrap_err();
        expect(&error, ErrorKind::InvalidInput, "x", parts);
    };
    refused(DataType::Int32, &[2, 16], &["INT32", "FP32"]);
    refused(DataType::Fp32, &[4, 8], &["[4,8]", "[batch,16]"]);
    let x = Input::slice("x", memory.reading(DataType::Fp32, &[2, 16]));
    let error = instance
        .run_with(&[x, x], &mut [Output::new("y")])
        .unwrap_err();
    expect(&error, ErrorKind::InvalidInput, "x", &["given twice"]);
    instance.run_with(&[x], &mut [Output::new("y")]).unwrap();
}

#[test]
fn an_input_handed_through_is_copied_to_the_slice() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("passthrough"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let memory = Memory::floats(&[1.0, 2.0, 3.0, 4.0]);
        let x = [Input::slice("x", memory.reading(DataType::Fp32, &[1, 4]))];
        let (mut through, mut sum) = (Memory::new(16), Memory::new(16));
        let mut outputs = [
            Output::into_slice("y", sum.writing(DataType::Fp32, &[1, 4])),
            Output::into_slice("x", through.writing(DataType::Fp32, &[1, 4])),
        ];
        assert!(matches!(
            instance.run_with(&x, &mut outputs).unwrap()[..],
            [None, None]
        ));
        assert_eq!(through.get(), memory.get(), "{arena:?}");
        assert_eq!(sum.get(), Memory::floats(&[2.0, 3.0, 4.0, 5.0]).get());

        // One that the engine makes is in the pool, not in the caller's memory.
        let made = instance.run_with(&x, &mut [Output::new("x")]).unwrap();
        let made = made[0].as_ref().unwrap();
        assert!(allocator.find(address(made)).is_some());
        assert_eq!(made.bytes().unwrap()[..], *memory.get());

        let mut twice = Memory::new(32);
        let mut outputs = [Output::into_slice(
            "x",
            twice.writing(DataType::Fp32, &[2, 4]),
        )];
        let error = instance.run_with(&x, &mut outputs).unwrap_err();
        expect(&error, ErrorKind::InvalidOutput, "x", &["[2,4]", "[1,4]"]);
    }
}

#[test]
fn expected_shapes_are_those_of_the_file_and_of_a_run() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("dynamic_batch"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let three: &[usize] = &[3, 16];
        assert_eq!(model.expected_shapes(&[("x", three)]), [None, None]);
        // Told by a run that makes its outputs, and by one that is given memory.
        let x = ramp(&allocator, three);
        run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
        run_rows(instance.as_mut(), &ramp(&allocator, &[2, 16]), 2).unwrap();
        let of = |rows| model.expected_shapes(&[("x", &[rows, 16])]);
        assert_eq!(of(3), [Some(vec![3, 4]), Some(vec![1, 4])], "{arena:?}");
        assert_eq!(of(2)[0], Some(vec![2, 4]), "{arena:?}");
        for inputs in [
            &[][..],
            &[("z", three)],
            &[("x", three), ("x", three)],
            &[("x", &[4, 16])],
        ] {
            assert_eq!(model.expected_shapes(inputs), [None, None], "{inputs:?}");
        }
    }
}

#[test]
fn what_the_file_says_nothing_of_is_not_expected() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("non_zero"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let x = fp32(&allocator, &[3], &[1.0; 3]);
        run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
        assert_eq!(model.expected_shapes(&[("x", &[3])]), [None], "{arena:?}");
    }
}

#[test]
fn a_file_that_was_wrong_is_not_believed_again() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("misnamed"), &allocator, arena);
        let mut instance = model.instance().unwrap();
        let three = fp32(&allocator, &[3], &[1.0; 3]);
        run_all(&model, instance.as_mut(), &[("x", &three)]).unwrap();
        let expected = model.expected_shapes(&[("x", &[3])]);
        let guess = expected[0].as_deref().unwrap();
        assert_eq!(guess, [1, 3]);

        let two = fp32(&allocator, &[3], &[0.0, 1.0, 2.0]);
        let inputs = [Input::tensor("x", &two)];
        let mut room = Memory::new(24);
        let mut outputs = [Output::into_slice(
            "positions",
            room.writing(DataType::Int64, guess),
        )];
        let error = instance.run_with(&inputs, &mut outputs).unwrap_err();
        let parts = ["[1,3]", "[1,2]"];
        expect(&error, ErrorKind::InvalidOutput, "positions", &parts);

        assert_eq!(model.expected_shapes(&[("x", &[3])]), [None], "{arena:?}");
        let mut outputs = [Output::new("positions")];
        let made = instance.run_with(&inputs, &mut outputs).unwrap();
        let made = made[0].as_ref().unwrap();
        assert_eq!(made.values::<i64>().unwrap()[..], [1, 2]);
        assert_eq!(model.expected_shapes(&[("x", &[3])]), [None], "{arena:?}");
    }
}

#[test]
fn an_input_that_the_model_has_a_value_for_may_be_left_out() {
    for arena in ARENAS {
        let allocator = allocator();
        let model = load(&model("scaled"), &allocator, arena);
        assert_eq!(model.inputs().len(), 1);
        assert_eq!(model.optional_inputs()[0].name, "scale");
        let mut instance = model.instance().unwrap();
        let x = fp32(&allocator, &[3], &[1.0, 2.0, 3.0]);
        let scale = fp32(&allocator, &[1], &[10.0]);
        // In turns: what is remembered of shapes must not mix them up.
        for (given, expected) in [
            (None, [2.0, 4.0, 6.0]),
            (Some(&scale), [10.0, 20.0, 30.0]),
            (None, [2.0, 4.0, 6.0]),
        ] {
            let mut inputs = vec![Input::tensor("x", &x)];
            inputs.extend(given.map(|scale| Input::tensor("scale", scale)));
            let made = instance.run_with(&inputs, &mut [Output::new("y")]).unwrap();
            let made = made[0].as_ref().unwrap();
            assert_eq!(&made.values::<f32>().unwrap()[..], expected);
        }
        let shapes = model.expected_shapes(&[("x", &[3]), ("scale", &[1])]);
        assert_eq!(shapes, [Some(vec![3])]);
        let error = instance
            .run_with(&[Input::tensor("scale", &scale)], &mut [Output::new("y")])
            .unwrap_err();
        expect(&error, ErrorKind::InvalidInput, "x", &["missing"]);
    }
}
