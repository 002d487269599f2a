//! Results equal those of onnxruntime's own Python API, bit for bit.

use weldpool_engine::{Arena, DataType, Tensor};

use crate::support::{ARENAS, Case, allocator, load, model, ocr_model, reference, run_all};

fn case(name: &str, model: std::path::PathBuf, inputs: &str) -> Case {
    Case {
        name: name.to_owned(),
        model,
        inputs: inputs.to_owned(),
    }
}

fn compare(group: &str, cases: &[Case], arenas: &[Arena]) {
    let recorded = reference(group, cases);
    for arena in arenas {
        let allocator = allocator();
        for (case, (inputs, expected)) in cases.iter().zip(&recorded) {
            let model = load(&case.model, &allocator, *arena);
            let mut instance = model.instance().unwrap();
            let tensors: Vec<Tensor> = inputs
                .iter()
                .map(|input| {
                    let shape = input.shape.clone();
                    Tensor::from_bytes(&allocator, input.data_type, shape, &input.bytes).unwrap()
                })
                .collect();
            let named: Vec<_> = inputs
                .iter()
                .zip(&tensors)
                .map(|(input, tensor)| (input.name.as_str(), tensor))
                .collect();
            // The third run uses remembered shapes and planned memory, where there are any.
            for run in 0..3 {
                let outputs = run_all(&model, instance.as_mut(), &named).unwrap();
                assert_eq!(outputs.len(), expected.len());
                for (output, expected) in outputs.iter().zip(expected) {
                    let place = format!("{} {} {arena:?} run {run}", case.name, expected.name);
                    assert_eq!(output.data_type(), expected.data_type, "{place}");
                    assert_eq!(output.shape(), expected.shape, "{place}");
                    assert!(output.bytes().unwrap()[..] == expected.bytes[..], "{place}");
                }
            }
        }
    }
}

#[test]
fn small_models_agree() {
    let mut cases = vec![
        case("cnn1", model("simple_cnn"), "x:FP32:1x3x32x32"),
        case("cnn5", model("simple_cnn"), "x:FP32:5x3x32x32"),
        case("residual", model("residual_block"), "x:FP32:1x8x16x16"),
        case("batch1", model("dynamic_batch"), "x:FP32:1x16"),
        case("batch7", model("dynamic_batch"), "x:FP32:7x16"),
        case("addsub", model("add_sub"), "a:INT32:1x16,b:INT32:1x16"),
        case("nonzero", model("non_zero"), "x:FP32:40"),
        case("large", model("large_conv"), "x:FP32:2x1x64x48"),
        case("strings", model("string_identity"), "x:BYTES:50"),
        case("nostrings", model("string_identity"), "x:BYTES:0"),
        case("empty", model("identity"), "x:FP32:0x4"),
    ];
    for data_type in DataType::ALL {
        // NumPy has no bfloat16; `running.rs` compares it with its own input.
        if data_type != DataType::Bf16 {
            let name = data_type.name().to_ascii_lowercase();
            let inputs = format!("x:{data_type}:3x5");
            cases.push(case(&name, model(&format!("identity_{name}")), &inputs));
        }
    }
    compare("small", &cases, &ARENAS);
}

#[test]
fn ocr_models_agree() {
    let cases = [
        case("det1", ocr_model("det"), "x:FP32:1x3x320x320"),
        case("det2", ocr_model("det"), "x:FP32:1x3x192x448"),
        case("rec1", ocr_model("rec"), "x:FP32:1x3x48x320"),
        case("rec2", ocr_model("rec"), "x:FP32:3x3x48x160"),
        case("cls1", ocr_model("cls"), "x:FP32:1x3x48x192"),
        case("cls2", ocr_model("cls"), "x:FP32:6x3x48x192"),
    ];
    compare("ocr", &cases, &[Arena::Pool, Arena::Engine]);
}
