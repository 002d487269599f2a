//! Everything that can be wrong has its kind, and names what is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{
    Arena, DataType, Engine, Error, ErrorKind, LoadOptions, ModelSource, OutputRequest, Tensor,
};

use crate::support::{allocator, engine, fp32, load, model, run_all};

type Inputs<'a> = &'a [(&'a str, &'a Tensor)];

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("errors");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn expect(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "{text:?} says nothing of {part:?}");
    }
}

fn load_error(source: ModelSource<'_>, options: &LoadOptions) -> Error {
    engine().load(source, options).map(|_| ()).unwrap_err()
}

#[test]
fn models_that_cannot_be_loaded() {
    let options = LoadOptions::new(allocator());
    let file = |name: &str, bytes: &[u8]| {
        let path = folder().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let path_error = |path: &Path| load_error(ModelSource::Path(path), &options);

    let missing = folder().join("missing.onnx");
    expect(
        &path_error(&missing),
        ErrorKind::ModelNotFound,
        &["missing.onnx", "No such file"],
    );
    expect(
        &path_error(&folder()),
        ErrorKind::ModelNotFound,
        &["folder"],
    );
    let empty = file("empty.onnx", b"");
    expect(
        &path_error(&empty),
        ErrorKind::ModelInvalid,
        &["empty.onnx", "empty"],
    );
    let garbage = file("garbage.onnx", b"this is no model");
    expect(
        &path_error(&garbage),
        ErrorKind::ModelInvalid,
        &["garbage.onnx"],
    );
    let whole = fs::read(model("simple_cnn")).unwrap();
    for length in [1, whole.len() / 3, whole.len() - 1] {
        let error = load_error(ModelSource::Bytes(&whole[..length]), &options);
        expect(&error, ErrorKind::ModelInvalid, &["in memory"]);
    }
    expect(
        &load_error(ModelSource::Bytes(&[]), &options),
        ErrorKind::ModelInvalid,
        &["empty"],
    );

    let error = path_error(&model("sequence"));
    expect(&error, ErrorKind::Unsupported, &["'y'", "sequence"]);
    assert_eq!(error.tensor(), Some("y"));
    assert_eq!(options.allocator.stats().live.value, 0);
}

#[test]
fn options_that_mean_nothing() {
    let path = model("add_sub");
    for (name, value) in [
        ("intra_op_thread_count", "-1"),
        ("intra_op_thread_count", "many"),
        ("intra_op_thread_count", "100000"),
        ("inter_op_thread_count", ""),
        ("execution_mode", "2"),
        ("optimization.graph.level", "3"),
        ("enable_mem_arena", "maybe"),
        ("enable_mem_pattern", "2"),
        ("memory.enable_memory_arena_shrinkage", "cpu"),
        ("session.use_device_allocator_for_initializers", "-"),
        ("weldpool.arena", "swap"),
    ] {
        let options = LoadOptions::new(allocator()).parameter(name, value);
        let error = load_error(ModelSource::Path(&path), &options);
        expect(
            &error,
            ErrorKind::InvalidOption,
            &[name, &format!("'{value}'")],
        );
    }
    let mut options = LoadOptions::new(allocator());
    options.intra_op_threads = Some(1 << 20);
    let error = load_error(ModelSource::Path(&path), &options);
    expect(&error, ErrorKind::InvalidOption, &["intra_op_threads"]);
}

#[test]
fn options_that_are_understood() {
    let allocator = allocator();
    let path = model("simple_cnn");
    let input = crate::support::ramp(&allocator, &[2, 3, 32, 32]);
    let mut results: Vec<Vec<u8>> = Vec::new();
    for parameters in [
        &[][..],
        &[
            ("intra_op_thread_count", "1"),
            ("inter_op_thread_count", "2"),
            ("execution_mode", "1"),
        ],
        &[("optimization.graph.level", "-1")],
        &[
            ("optimization.graph.level", "1"),
            ("enable_mem_pattern", "0"),
        ],
        &[("optimization.graph.level", "2")],
        &[("enable_mem_arena", "0")],
        &[("enable_mem_arena", "true"), ("weldpool.arena", "engine")],
        &[
            ("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:0"),
            ("weldpool.arena", "engine"),
        ],
        &[
            ("memory.enable_memory_arena_shrinkage", "cpu:0"),
            ("weldpool.arena", "pool"),
        ],
        &[
            ("session.use_device_allocator_for_initializers", "1"),
            ("weldpool.arena", "pool"),
        ],
        &[("cudnn_conv_algo_search", "1")],
    ] {
        let mut options = LoadOptions::new(allocator.clone());
        for (name, value) in parameters {
            assert!(
                *name == "cudnn_conv_algo_search" || engine().parameters().contains(name),
                "{name}"
            );
            options = options.parameter(*name, *value);
        }
        let model = engine().load(ModelSource::Path(&path), &options).unwrap();
        let mut instance = model.instance().unwrap();
        for _ in 0..2 {
            let outputs = run_all(&model, instance.as_mut(), &[("x", &input)]).unwrap();
            results.push(outputs[0].bytes().unwrap().to_vec());
        }
    }
    // Fusions may change the last bits, never more.
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes
            .chunks(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    };
    let first = floats(&results[0]);
    for result in &results {
        for (one, other) in floats(result).iter().zip(&first) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
    }
}

#[test]
fn an_arena_by_parameter_outranks_the_field() {
    let path = model("add_sub");
    let mut options = LoadOptions::new(allocator());
    options.arena = Some(Arena::Pool);
    let arena = |options: &LoadOptions| {
        engine()
            .load(ModelSource::Path(&path), options)
            .unwrap()
            .arena()
    };
    assert_eq!(arena(&options), Arena::Pool);
    let options = options.parameter("enable_mem_arena", "0");
    assert_eq!(arena(&options), Arena::System);
    let options = options.parameter("weldpool.arena", "engine");
    assert_eq!(arena(&options), Arena::Engine);
}

#[test]
fn inputs_that_do_not_fit() {
    let allocator = allocator();
    let model = load(&model("add_sub"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let good = Tensor::zeroed(&allocator, DataType::Int32, vec![1, 16]).unwrap();
    let float = Tensor::zeroed(&allocator, DataType::Fp32, vec![1, 16]).unwrap();
    let short = Tensor::zeroed(&allocator, DataType::Int32, vec![1, 15]).unwrap();
    let flat = good.reshaped(vec![16]).unwrap();
    let cases: [(Inputs<'_>, &str, &[&str]); 6] = [
        (&[("a", &good)], "b", &["'b' is missing"]),
        (
            &[("a", &good), ("b", &float)],
            "b",
            &["'b' is FP32", "INT32"],
        ),
        (
            &[("a", &short), ("b", &good)],
            "a",
            &["'a'", "[1,15]", "[1,16]"],
        ),
        (&[("a", &good), ("b", &flat)], "b", &["'b'", "[16]"]),
        (
            &[("a", &good), ("c", &good)],
            "c",
            &["no input 'c'", "a, b"],
        ),
        (
            &[("a", &good), ("a", &good), ("b", &good)],
            "a",
            &["'a' is given twice"],
        ),
    ];
    let live = allocator.stats().live.value;
    for (inputs, tensor, parts) in cases {
        let error = run_all(&model, instance.as_mut(), inputs).unwrap_err();
        expect(&error, ErrorKind::InvalidInput, parts);
        assert_eq!(error.tensor(), Some(tensor));
    }
    assert_eq!(allocator.stats().live.value, live);
    // The instance is good after all of that.
    run_all(&model, instance.as_mut(), &[("b", &good), ("a", &good)]).unwrap();
}

#[test]
fn outputs_that_do_not_fit() {
    let allocator = allocator();
    let model = load(&model("dynamic_batch"), &allocator, Arena::Engine);
    let mut instance = model.instance().unwrap();
    let x = fp32(&allocator, &[2, 16], &[0.5; 32]);
    let run = |instance: &mut dyn weldpool_engine::Instance, outputs: &[OutputRequest<'_>]| {
        instance.run(&[("x", &x)], outputs).map(|_| ()).unwrap_err()
    };
    let wrong_type = Tensor::zeroed(&allocator, DataType::Fp64, vec![2, 4]).unwrap();
    let wrong_shape = Tensor::zeroed(&allocator, DataType::Fp32, vec![2, 5]).unwrap();
    let wrong_batch = Tensor::zeroed(&allocator, DataType::Fp32, vec![3, 4]).unwrap();
    let cases: [(&[OutputRequest<'_>], &[&str]); 5] = [
        (&[], &["no output"]),
        (&[OutputRequest::new("z")], &["no output 'z'", "y, sum"]),
        (
            &[OutputRequest::new("y"), OutputRequest::new("y")],
            &["'y' is requested twice"],
        ),
        (
            &[OutputRequest::into_tensor("y", &wrong_type)],
            &["'y'", "FP64", "FP32"],
        ),
        (
            &[OutputRequest::into_tensor("y", &wrong_shape)],
            &["'y'", "[2,5]", "[batch,4]"],
        ),
    ];
    for (outputs, parts) in cases {
        expect(
            &run(instance.as_mut(), outputs),
            ErrorKind::InvalidOutput,
            parts,
        );
    }
    // Only the run can tell this one.
    let error = run(
        instance.as_mut(),
        &[OutputRequest::into_tensor("y", &wrong_batch)],
    );
    expect(&error, ErrorKind::InvalidOutput, &["'y'", "[3,4]"]);

    let strings = load(
        &crate::support::model("string_identity"),
        &allocator,
        Arena::Engine,
    );
    let text = Tensor::from_strings(&allocator, vec![1], &["a"]).unwrap();
    let error = strings
        .instance()
        .unwrap()
        .run(&[("x", &text)], &[OutputRequest::into_tensor("y", &text)])
        .unwrap_err();
    expect(&error, ErrorKind::Unsupported, &["'y'", "in place"]);
}

#[test]
fn memory_in_use_is_busy() {
    let allocator = allocator();
    let model = load(&model("identity"), &allocator, Arena::Pool);
    let mut instance = model.instance().unwrap();
    let x = fp32(&allocator, &[1, 4], &[1.0; 4]);
    {
        let _guard = x.data().unwrap().write::<u8>().unwrap();
        let error = run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap_err();
        expect(&error, ErrorKind::Busy, &["'x'"]);
    }
    // A tensor cannot be the input and the output of one run.
    let error = instance
        .run(&[("x", &x)], &[OutputRequest::into_tensor("y", &x)])
        .unwrap_err();
    expect(&error, ErrorKind::Busy, &["'y'"]);
    run_all(&model, instance.as_mut(), &[("x", &x)]).unwrap();
}

#[test]
fn tensors_that_are_wrong() {
    let allocator = allocator();
    let view = |bytes: usize| Some(allocator.allocate(bytes).unwrap().share());
    let invalid = |data_type, shape: Vec<usize>, data, parts: &[&str]| {
        let error = Tensor::new(data_type, shape, data).map(|_| ()).unwrap_err();
        expect(&error, ErrorKind::InvalidInput, parts);
    };
    invalid(DataType::Fp32, vec![2, 2], view(15), &["16 bytes", "15"]);
    invalid(DataType::Fp32, vec![2, 2], None, &["16 bytes", "0"]);
    invalid(DataType::Fp32, vec![0, 2], view(4), &["0 bytes", "4"]);
    invalid(
        DataType::Fp32,
        vec![usize::MAX, 2],
        None,
        &["cannot be counted"],
    );
    invalid(
        DataType::Fp64,
        vec![usize::MAX / 4],
        None,
        &["cannot be counted"],
    );
    invalid(
        DataType::Fp32,
        vec![usize::MAX, 2, 0],
        None,
        &["cannot be counted"],
    );
    invalid(DataType::Bool, vec![1; 33], view(1), &["dimensions", "33"]);

    let strings = |shape: &[usize], bytes: &[u8]| {
        Tensor::from_bytes(&allocator, DataType::Bytes, shape.to_vec(), bytes).map(|_| ())
    };
    strings(&[2], &[1, 0, 0, 0, 7, 0, 0, 0, 0]).unwrap();
    strings(&[0], &[]).unwrap();
    let cases: [(&[usize], &[u8], &str); 5] = [
        (&[1], &[], "1 strings expected, but there are 0"),
        (&[2], &[0, 0, 0, 0], "2 strings expected, but there are 1"),
        (&[1], &[2, 0, 0, 0, 7], "string 0 is cut short"),
        (&[1], &[0xff, 0xff, 0xff, 0xff, 7], "string 0 is cut short"),
        (&[1], &[0, 0, 0, 0, 7], "1 bytes follow"),
    ];
    for (shape, bytes, part) in cases {
        expect(
            &strings(shape, bytes).unwrap_err(),
            ErrorKind::InvalidInput,
            &[part],
        );
    }
    let tensor = fp32(&allocator, &[2], &[1.0, 2.0]);
    expect(
        &tensor.values::<i32>().unwrap_err(),
        ErrorKind::InvalidInput,
        &["i32", "FP32"],
    );
    expect(
        &tensor.strings().map(|_| ()).unwrap_err(),
        ErrorKind::InvalidInput,
        &["FP32"],
    );
    expect(
        &tensor.reshaped(vec![3]).unwrap_err(),
        ErrorKind::InvalidInput,
        &["[2]", "[3]"],
    );
}

#[test]
fn libraries_that_are_something_else() {
    let text = folder().join("libonnxruntime.so");
    fs::write(&text, "not a library").unwrap();
    let error = OnnxRuntime::load(Some(&text)).unwrap_err();
    expect(
        &error,
        ErrorKind::LibraryUnsuitable,
        &["libonnxruntime.so", "cannot be loaded"],
    );
    let error = OnnxRuntime::load(Some(&folder().join("empty-folder"))).unwrap_err();
    expect(
        &error,
        ErrorKind::LibraryMissing,
        &["empty-folder", "pip install"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn another_library_is_not_onnxruntime() {
    // The C library is certainly there.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let other = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so"))
        .map(PathBuf::from)
        .unwrap();
    let error = OnnxRuntime::load(Some(&other)).unwrap_err();
    expect(
        &error,
        ErrorKind::LibraryUnsuitable,
        &["is not an onnxruntime"],
    );
}
