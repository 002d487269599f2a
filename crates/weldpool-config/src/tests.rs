//! Whole configurations: compared with Triton's answers, and from text to requests.

use std::collections::BTreeSet;
use std::path::Path;

use prost_reflect::{Cardinality, EnumDescriptor, Kind, MessageDescriptor};
use serde::Deserialize;
use weldpool_engine::TensorSpec;
use weldpool_engine::{DataType, Dim};

use super::*;

const ANSWERS: &str = include_str!("../tests/data/triton-config/answers.json");
const SYNTAX: &str = include_str!("../tests/data/triton-config/syntax.json");
const SCHEMA: &str = include_str!("../tests/data/triton-config/schema.txt");
const KITCHEN_SINK: &str = include_str!("../tests/data/triton-config/kitchen_sink.pbtxt");

#[derive(Deserialize)]
struct Answer {
    name: String,
    text: Option<String>,
    answer: String,
}

#[derive(Deserialize)]
struct Syntax {
    name: String,
    text: String,
    accepted: bool,
}

fn parse(text: &str) -> Result<ModelConfig> {
    text::parse(text, Path::new("m/config.pbtxt"))
}

fn spec(name: &str, data_type: DataType, dims: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        data_type,
        dims: dims
            .iter()
            .map(|size| usize::try_from(*size).map_or(Dim::Symbolic(None), Dim::Known))
            .collect(),
    }
}

fn context() -> Context {
    Context::new("m").model_files(["model.onnx".to_owned()])
}

/// From text to what is served, with a model of these inputs and outputs.
fn serve(text: &str, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Served> {
    prepare(parse(text)?, &context())?.complete(ModelSignature {
        inputs,
        optional_inputs: &[],
        outputs,
    })
}

#[test]
fn the_schema_is_tritons() {
    fn message(lines: &mut BTreeSet<String>, descriptor: &MessageDescriptor) {
        for field in descriptor.fields() {
            let kind = match field.kind() {
                Kind::Message(message) => message.full_name().to_owned(),
                Kind::Enum(values) => values.full_name().to_owned(),
                Kind::Double => "double".to_owned(),
                Kind::Float => "float".to_owned(),
                Kind::Int32 => "int32".to_owned(),
                Kind::Int64 => "int64".to_owned(),
                Kind::Uint32 => "uint32".to_owned(),
                Kind::Uint64 => "uint64".to_owned(),
                Kind::Bool => "bool".to_owned(),
                Kind::String => "string".to_owned(),
                other => format!("{other:?}"),
            };
            let label = match field.cardinality() {
                Cardinality::Repeated => "repeated",
                Cardinality::Optional | Cardinality::Required => "singular",
            };
            let oneof = field
                .containing_oneof()
                .map(|oneof| format!(" oneof {}", oneof.name()))
                .unwrap_or_default();
            lines.insert(format!(
                "{} {} {} {label} {kind}{oneof}",
                descriptor.full_name(),
                field.name(),
                field.number()
            ));
        }
        for child in descriptor.child_messages() {
            message(lines, &child);
        }
        for child in descriptor.child_enums() {
            enumeration(lines, &child);
        }
    }
    fn enumeration(lines: &mut BTreeSet<String>, descriptor: &EnumDescriptor) {
        for value in descriptor.values() {
            lines.insert(format!(
                "{} {} {}",
                descriptor.full_name(),
                value.name(),
                value.number()
            ));
        }
    }
    let file = proto::model_config_descriptor().parent_file();
    let mut lines = BTreeSet::new();
    for descriptor in file.messages() {
        message(&mut lines, &descriptor);
    }
    for descriptor in file.enums() {
        enumeration(&mut lines, &descriptor);
    }
    let expected: BTreeSet<String> = SCHEMA.lines().map(str::to_owned).collect();
    assert!(expected.len() > 200);
    assert_eq!(
        lines.difference(&expected).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(
        expected.difference(&lines).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}

#[test]
fn the_json_form_is_tritons() {
    let answers: Vec<Answer> = serde_json::from_str(ANSWERS).unwrap();
    let mut failures = Vec::new();
    let mut differing_bytes = Vec::new();
    for answer in &answers {
        let mut config = parse(answer.text.as_deref().unwrap_or(KITCHEN_SINK)).unwrap();
        let files = ["model.onnx".to_owned()];
        let backend = Backend::of(&config, &answer.name, &files).unwrap();
        normalise::normalise(&mut config, &answer.name, backend);
        let ours = json::to_text(&config);
        let theirs: serde_json::Value = serde_json::from_str(&answer.answer).unwrap();
        if json::to_value(&config) != theirs {
            failures.push(format!(
                "{}\nours   {ours}\ntriton {}",
                answer.name, answer.answer
            ));
        }
        if ours != answer.answer.trim_end() {
            differing_bytes.push(answer.name.as_str());
        }
        let again = json::parse(&answer.answer).unwrap();
        if again != config {
            failures.push(format!(
                "{}: Triton's answer reads as another configuration",
                answer.name
            ));
        }
        if json::parse(&ours).unwrap() != config {
            failures.push(format!(
                "{}: our JSON reads as another configuration",
                answer.name
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert_eq!(answers.len(), 40);
    // The same byte for byte but for the order in two places: Triton prints the entries of maps in
    // no order (the first two), and an initial state's name before its data.
    assert_eq!(differing_bytes, ["kitchen_sink", "params", "seq_oldest"]);
}

#[test]
fn the_text_format_is_tritons() {
    let cases: Vec<Syntax> = serde_json::from_str(SYNTAX).unwrap();
    let differing: Vec<&str> = cases
        .iter()
        .filter(|case| parse(&case.text).is_ok() != case.accepted)
        .map(|case| case.name.as_str())
        .collect();
    // Strings must be UTF-8 here, since the JSON form could not carry others.
    assert_eq!(differing, ["badutf8"]);
}

/// A configuration of a model with input `x` FP32 [-1,3] and output `y` FP32 [-1,2].
struct Case {
    text: &'static str,
    /// What the message contains, or the served shapes.
    expected: std::result::Result<&'static str, (ErrorKind, &'static str)>,
}

#[test]
fn configurations_good_and_bad() {
    use ErrorKind::{Invalid, LimitExceeded, Mismatch, Syntax, Unsupported};
    const IO: &str = "input { name: \"x\" data_type: TYPE_FP32 dims: [ -1, 3 ] } \
                      output { name: \"y\" data_type: TYPE_FP32 dims: [ -1, 2 ] } ";
    const BATCHED: &str = "max_batch_size: 8 input { name: \"x\" data_type: TYPE_FP32 dims: 3 } \
                           output { name: \"y\" data_type: TYPE_FP32 dims: 2 } ";
    #[rustfmt::skip]
    let cases = [
        // Complete, partial and empty configurations.
        Case { text: "", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "IO", expected: Ok("0 x[-1, 3] y[-1, 2]") },
        Case { text: "BATCHED", expected: Ok("8 x[-1, 3] y[-1, 2]") },
        Case { text: "max_batch_size: 16", expected: Ok("16 x[-1, 3] y[-1, 2]") },
        Case { text: "max_batch_size: 1", expected: Ok("1 x[-1, 3] y[-1, 2]") },
        Case { text: "name: \"m\" platform: \"onnxruntime_onnx\"", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "backend: \"metal_mps\"", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "input { name: \"x\" }", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "input { name: \"x\" dims: 3 }", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "input { name: \"x\" dims: [ 5, 3 ] }", expected: Ok("0 x[5, 3] y[-1, 2]") },
        Case { text: "output { name: \"y\" data_type: TYPE_FP32 }", expected: Ok("4 x[-1, 3] y[-1, 2]") },
        Case { text: "input { name: \"x\" dims: [ -1, 3, 1 ] reshape { shape: [ -1, 3 ] } }", expected: Ok("0 x[-1, 3, 1] y[-1, 2]") },
        Case { text: "max_batch_size: 2 input { name: \"x\" dims: [ 3, 1 ] reshape { shape: 3 } }", expected: Ok("2 x[-1, 3, 1] y[-1, 2]") },
        Case { text: "IO default_model_filename: \"other.onnx\"", expected: Ok("0 x[-1, 3] y[-1, 2]") },
        Case { text: "IO version_policy { specific { versions: [ 3, 1 ] } }", expected: Ok("0 x[-1, 3] y[-1, 2]") },
        Case { text: "BATCHED dynamic_batching { preferred_batch_size: [ 4, 8 ] }", expected: Ok("8 x[-1, 3] y[-1, 2]") },
        Case { text: "IO instance_group { count: 3 } instance_group { count: 2 kind: KIND_GPU }", expected: Ok("0 x[-1, 3] y[-1, 2]") },
        // Not a configuration.
        Case { text: "IO colour: 3", expected: Err((Syntax, "ModelConfig has no field 'colour'")) },
        Case { text: "input { name: \"x\" data_type: FP32 }", expected: Err((Syntax, "DataType has no value 'FP32'")) },
        // Cannot hold.
        Case { text: "name: \"n\"", expected: Err((Invalid, "unexpected directory name 'm' for model 'n', directory name must equal model name")) },
        Case { text: "max_batch_size: -1", expected: Err((Invalid, "'max_batch_size' must be non-negative value for m")) },
        Case { text: "platform: \"onnx\"", expected: Err((Invalid, "unexpected platform type 'onnx' for m")) },
        Case { text: "default_model_filename: \"model.plan\"", expected: Err((Invalid, "no backend is given for 'm'")) },
        Case { text: "input { name: \"x\" dims: 0 }", expected: Err((Invalid, "model input 'x' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m")) },
        Case { text: "output { name: \"y\" dims: -2 }", expected: Err((Invalid, "model output 'y' dimension must be integer >= 1")) },
        Case { text: "input { dims: 3 }", expected: Err((Invalid, "model input must specify 'name' for m")) },
        Case { text: "input { name: \"x\" data_type: 99 }", expected: Err((Invalid, "model input 'x' has unknown data_type 99 for m")) },
        Case { text: "input [ { name: \"x\" }, { name: \"x\" data_type: TYPE_FP32 dims: 3 } ]", expected: Err((Invalid, "model input 'x' is given more than once for m")) },
        Case { text: "input { name: \"x\" dims: [ 2, 3 ] reshape { shape: 5 } }", expected: Err((Invalid, "model input 'x' has different size for dims and reshape for m")) },
        Case { text: "input { name: \"x\" dims: -1 reshape { shape: [ -1, -1 ] } }", expected: Err((Invalid, "different number of variable-size dimensions for dims and reshape")) },
        Case { text: "input { name: \"x\" dims: [ 2, -1, 4 ] reshape { shape: [ 4, -1, 2 ] } }", expected: Err((Invalid, "different size for dims and reshape")) },
        Case { text: "input { name: \"x\" dims: 2 reshape { shape: 0 } }", expected: Err((Invalid, "reshape dimensions must be integer >= 1")) },
        Case { text: "input { name: \"x\" dims: [ 9223372036854775807, 2 ] }", expected: Err((Invalid, "more elements than can be counted")) },
        Case { text: "input { name: \"x\" dims: [ 3, 4 ] format: FORMAT_NHWC }", expected: Err((Invalid, "NHWC/NCHW require 3 dims")) },
        Case { text: "version_policy { latest { } }", expected: Err((Invalid, "'num_versions' must be at least 1")) },
        Case { text: "version_policy { specific { } }", expected: Err((Invalid, "names no specific version")) },
        Case { text: "version_policy { specific { versions: -1 } }", expected: Err((Invalid, "version -1 must not be negative")) },
        Case { text: "instance_group { kind: KIND_CPU gpus: 0 }", expected: Err((Invalid, "instance group m_0 of model m has kind KIND_CPU but specifies one or more GPUs")) },
        Case { text: "instance_group { kind: 9 }", expected: Err((Invalid, "unknown kind 9")) },
        Case { text: "instance_group { profile: \"0\" }", expected: Err((Invalid, "only supported for TensorRT")) },
        Case { text: "BATCHED dynamic_batching { preferred_batch_size: 9 }", expected: Err((Invalid, "dynamic batching preferred size must be <= max batch size for m")) },
        Case { text: "BATCHED dynamic_batching { preferred_batch_size: 0 }", expected: Err((Invalid, "dynamic batching preferred size must be positive for m")) },
        Case { text: "BATCHED dynamic_batching { priority_levels: 3 }", expected: Err((Invalid, "default priority level must be in range [1, 3] for m")) },
        Case { text: "parameters { key: \"execution_mode\" value { string_value: \"fast\" } }", expected: Err((Invalid, "parameter 'execution_mode' of 'm'")) },
        // More than allowed.
        Case { text: "instance_group { count: 200 } instance_group { count: 200 }", expected: Err((LimitExceeded, "400 instances, more than the 256 allowed")) },
        // Contradicts the model.
        Case { text: "input { name: \"z\" data_type: TYPE_FP32 dims: 3 }", expected: Err((Mismatch, "unexpected inference input 'z' for model 'm', allowed inputs are: x")) },
        Case { text: "output { name: \"z\" data_type: TYPE_FP32 dims: 3 }", expected: Err((Mismatch, "unexpected inference output 'z' for model 'm', allowed outputs are: y")) },
        Case { text: "input { name: \"x\" data_type: TYPE_INT64 dims: 3 }", expected: Err((Mismatch, "model 'm', input 'x': the model has data type TYPE_FP32 but the model configuration specifies TYPE_INT64")) },
        Case { text: "input { name: \"x\" dims: [ -1, 4 ] }", expected: Err((Mismatch, "the model has shape [-1,3] but the model configuration gives [-1,4]")) },
        Case { text: "max_batch_size: 8 input { name: \"x\" dims: [ -1, 3 ] }", expected: Err((Mismatch, "the model has shape [-1,3] but the model configuration gives [-1,-1,3], a batch dimension because max_batch_size is above 0 and then [-1,3]")) },
        Case { text: "output { name: \"y\" dims: [ 5, 2 ] }", expected: Err((Mismatch, "output 'y': the model has shape [-1,2] but the model configuration gives [5,2]")) },
        Case { text: "input { name: \"x\" optional: true }", expected: Err((Mismatch, "input 'x' of 'm' is optional, but the model needs it")) },
        // Asks for what is not there.
        Case { text: "backend: \"python\"", expected: Err((Unsupported, "backend 'python' of 'm' is not available; available backends are onnxruntime and metal_mps")) },
        Case { text: "platform: \"ensemble\"", expected: Err((Unsupported, "platform 'ensemble'")) },
        Case { text: "input { name: \"x\" allow_ragged_batch: true }", expected: Err((Unsupported, "input[0].allow_ragged_batch (requests of different shapes cannot share a batch)")) },
        Case { text: "sequence_batching { } model_transaction_policy { decoupled: true }", expected: Err((Unsupported, "sequence_batching (requests of a sequence are not kept together), model_transaction_policy.decoupled")) },
        Case { text: "input { name: \"x\" is_shape_tensor: true }", expected: Err((Unsupported, "TensorRT")) },
        Case { text: "input { name: \"w\" data_type: TYPE_FP32 dims: 1 optional: true }", expected: Err((Mismatch, "unexpected inference input 'w'")) },
    ];
    let inputs = [spec("x", DataType::Fp32, &[-1, 3])];
    let outputs = [spec("y", DataType::Fp32, &[-1, 2])];
    let mut failures = Vec::new();
    for case in &cases {
        let text = case.text.replace("IO", IO).replace("BATCHED", BATCHED);
        let text = if case.text.starts_with("BATCHED") {
            text
        } else {
            text.replace("BATCHED", "")
        };
        let got = serve(&text, &inputs, &outputs).map(|served| {
            let shape = |tensor: &TensorConfig| format!("{}{:?}", tensor.name, tensor.shape);
            let tensors: Vec<String> = served
                .inputs()
                .iter()
                .chain(served.outputs())
                .map(shape)
                .collect();
            format!("{} {}", served.max_batch_size(), tensors.join(" "))
        });
        let right = match (&got, case.expected) {
            (Ok(got), Ok(expected)) => got == expected,
            (Err(error), Err((kind, message))) => {
                error.kind() == kind && error.to_string().contains(message)
            }
            _ => false,
        };
        if !right {
            failures.push(format!(
                "{text}\n  expected {:?}\n  got      {got:?}",
                case.expected
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn completion_is_onnxruntime_backends() {
    type Shape<'a> = &'a [i64];
    /// Model input and output, `max_batch_size` given; then the one completed, dims, whether there
    /// is a reshape, and whether a dynamic batcher was added.
    type Case<'a> = (Shape<'a>, Shape<'a>, i32, i32, Shape<'a>, bool, bool);
    let cases: [Case<'_>; 7] = [
        (&[-1, 3], &[-1, 3], 0, 4, &[3], false, true),
        (&[-1, 3], &[-1, 3], 1, 1, &[3], false, false),
        (&[-1, 3], &[-1, 3], 8, 8, &[3], false, true),
        (&[-1], &[-1], 0, 4, &[1], true, true),
        (&[], &[], 0, 0, &[1], false, false),
        (&[1, -1], &[-1, 3], 0, 0, &[1, -1], false, false),
        (&[-1, 3], &[2], 0, 0, &[-1, 3], false, false),
    ];
    for (input, output, given, completed, dims, reshape, batcher) in cases {
        let config = ModelConfig {
            max_batch_size: given,
            ..Default::default()
        };
        let served = prepare(config, &context())
            .unwrap()
            .complete(ModelSignature {
                inputs: &[spec("x", DataType::Int64, input)],
                optional_inputs: &[],
                outputs: &[spec("y", DataType::Bytes, output)],
            })
            .unwrap();
        let config = served.config();
        assert_eq!(config.max_batch_size, completed, "{input:?}");
        assert_eq!(config.input[0].dims, dims, "{input:?}");
        assert_eq!(config.input[0].data_type(), proto::DataType::TypeInt64);
        assert_eq!(config.output[0].data_type(), proto::DataType::TypeString);
        assert_eq!(config.input[0].reshape.is_some(), reshape, "{input:?}");
        let json = json::to_value(config);
        assert_eq!(json.get("dynamic_batching").is_some(), batcher, "{input:?}");
        if batcher {
            assert_eq!(
                json["dynamic_batching"]["preferred_batch_size"][0],
                completed
            );
        }
    }

    let not_batchable = serve(
        "max_batch_size: 2",
        &[spec("x", DataType::Fp32, &[1, 3])],
        &[spec("y", DataType::Fp32, &[-1, 3])],
    )
    .unwrap_err();
    assert_eq!(not_batchable.kind(), ErrorKind::Mismatch);
    assert_eq!(not_batchable.tensor(), Some("x"));
}

#[test]
fn completion_can_be_switched_off() {
    let inputs = [spec("x", DataType::Fp32, &[-1, 3])];
    let outputs = [spec("y", DataType::Fp32, &[-1, 2])];
    let signature = ModelSignature {
        inputs: &inputs,
        optional_inputs: &[],
        outputs: &outputs,
    };
    let complete = |text: &str| {
        prepare(parse(text).unwrap(), &context().auto_complete(false))
            .unwrap()
            .complete(signature)
    };
    let error =
        complete("output { name: \"y\" data_type: TYPE_FP32 dims: [ -1, 2 ] }").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(
        error
            .to_string()
            .contains("configuration expects 0 inputs, model provides 1")
    );
    let error = complete("input { name: \"x\" }").unwrap_err();
    assert_eq!(
        error.to_string(),
        "model input 'x' must specify 'data_type' for m"
    );
    let served = complete(
        "input { name: \"x\" data_type: TYPE_FP32 dims: [ -1, 3 ] } \
         output { name: \"y\" data_type: TYPE_FP32 dims: [ -1, 2 ] }",
    )
    .unwrap();
    assert_eq!(served.max_batch_size(), 0);
    assert!(served.config().scheduling_choice.is_none());
}

#[test]
fn everything_that_is_not_implemented_is_reported() {
    let config = parse(KITCHEN_SINK).unwrap();
    let report = support::report(
        &config,
        &["session.use_device_allocator_for_initializers"],
        Host::Weldpool,
    );
    let lines: Vec<String> = report
        .iter()
        .map(|field| format!("{} {:?}", field.path, field.impact))
        .collect();
    assert_eq!(
        lines,
        [
            "runtime Ignored",
            "input[0].format Ignored",
            "input[2].allow_ragged_batch Refused",
            "batch_input[0] Refused",
            "batch_output[0] Refused",
            "optimization.priority Ignored",
            "optimization.cuda Ignored",
            "optimization.execution_accelerators Ignored",
            "optimization.input_pinned_memory Ignored",
            "optimization.gather_kernel_buffer_threshold Ignored",
            "optimization.eager_batching Ignored",
            "dynamic_batching Ignored",
            "instance_group[0].rate_limiter Ignored",
            "instance_group[0].secondary_devices[0] Ignored",
            "instance_group[0].host_policy Ignored",
            "instance_group[1].kind Ignored",
            "instance_group[1].passive Ignored",
            "cc_model_filenames Ignored",
            "metric_tags Ignored",
            "model_warmup[0] Ignored",
            "model_operations Refused",
            "response_cache.enable Ignored",
        ]
    );
    assert_eq!(
        support::report(&config, &[], Host::Weldpool)
            .iter()
            .filter(|field| field.path.starts_with("parameters"))
            .count(),
        1,
        "parameters that the engine does not know are reported"
    );
    let off = parse("response_cache { enable: false }").unwrap();
    assert!(support::report(&off, &[], Host::Weldpool).is_empty());

    let served = serve(
        "dynamic_batching { } metric_tags { key: \"a\" value: \"b\" }",
        &[],
        &[],
    )
    .unwrap();
    let ignored: Vec<String> = served.ignored().iter().map(ToString::to_string).collect();
    assert_eq!(
        ignored,
        [
            "dynamic_batching: ignored: each request is executed by itself",
            "metric_tags: ignored: metrics have no further labels",
        ]
    );
}

#[test]
fn requests_are_checked_with_tritons_words() {
    type Input<'a> = (&'a str, DataType, &'a [usize]);
    const NOTE: &str = " NOTE: Setting a non-zero max_batch_size in the model config requires a \
        batch dimension to be prepended to each input shape. If you want to specify the full shape \
        including the batch dim in your input dims config, try setting max_batch_size to zero. See \
        the model configuration docs for more info on max_batch_size.";
    let (fp32, int32) = (DataType::Fp32, DataType::Int32);
    let outputs = [spec("Y", fp32, &[-1, 3])];
    let batched = serve(
        "max_batch_size: 8",
        &[spec("X", fp32, &[-1, 3]), spec("Z", int32, &[-1, -1, 2])],
        &outputs,
    )
    .unwrap();
    let plain = serve(
        "input { name: \"X\" dims: [ -1, 3 ] }",
        &[spec("X", fp32, &[-1, 3]), spec("Z", int32, &[2])],
        &outputs,
    )
    .unwrap();
    let z = ("Z", int32, [2_usize, 4, 2].as_slice());
    let plain_z = ("Z", int32, [2_usize].as_slice());
    let cases: [(&Served, &[Input<'_>], std::result::Result<usize, String>); 15] = [
        (&batched, &[("X", fp32, &[2, 3]), z], Ok(2)),
        (&batched, &[z, ("X", fp32, &[2, 3])], Ok(2)),
        (&plain, &[("X", fp32, &[0, 3]), plain_z], Ok(1)),
        (
            &batched,
            &[("X", fp32, &[2, 4]), z],
            Err(format!("unexpected shape for input 'X' for model 'm'. Expected [-1,3], got [2,4].{NOTE}")),
        ),
        (
            &batched,
            &[("X", fp32, &[2]), z],
            Err(format!("unexpected shape for input 'X' for model 'm'. Expected [-1,3], got [2].{NOTE}")),
        ),
        (
            &plain,
            &[("X", fp32, &[3, 4]), plain_z],
            Err("unexpected shape for input 'X' for model 'm'. Expected [-1,3], got [3,4]. ".into()),
        ),
        (
            &batched,
            &[("X", fp32, &[9, 3]), ("Z", int32, &[9, 1, 2])],
            Err("inference request batch-size must be <= 8 for 'm'".into()),
        ),
        (
            &batched,
            &[("X", fp32, &[0, 3]), ("Z", int32, &[0, 1, 2])],
            Err("inference request batch-size must be >= 1 for 'm'".into()),
        ),
        (
            &batched,
            &[("X", fp32, &[3, 3]), z],
            Err("input 'Z' batch size does not match other inputs for 'm'".into()),
        ),
        (
            &batched,
            &[("X", fp32, &[]), z],
            Err("input 'X' has no shape but model requires batch dimension for 'm'".into()),
        ),
        (
            &batched,
            &[("X", DataType::Fp64, &[2, 3]), z],
            Err("inference input 'X' data-type is 'FP64', but model 'm' expects 'FP32'".into()),
        ),
        (
            &batched,
            &[("Q", fp32, &[2, 3])],
            Err("unexpected inference input 'Q' for model 'm'".into()),
        ),
        (&batched, &[z, z], Err("input 'Z' already exists in request".into())),
        (
            &plain,
            &[("X", fp32, &[1, 3])],
            Err(
                "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['X'], but missing \
                 required input(s) ['Z']. Please provide all required input(s)."
                    .into(),
            ),
        ),
        (
            &plain,
            &[],
            Err(
                "expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing \
                 required input(s) ['X','Z']. Please provide all required input(s)."
                    .into(),
            ),
        ),
    ];
    for (served, inputs, expected) in cases {
        let inputs: Vec<InputShape<'_>> = inputs
            .iter()
            .map(|(name, data_type, shape)| InputShape {
                name,
                data_type: *data_type,
                shape,
            })
            .collect();
        let got = served.check_inputs(&inputs);
        if let Err(error) = &got {
            assert_eq!(error.kind(), ErrorKind::Request);
        }
        assert_eq!(
            got.map_err(|error| error.to_string()),
            expected,
            "{inputs:?}"
        );
    }
    assert!(plain.check_output("Y").is_ok());
    assert_eq!(
        plain.check_output("nope").unwrap_err().to_string(),
        "unexpected inference output 'nope' for model 'm'"
    );
}

#[test]
fn an_input_that_the_model_can_do_without_is_served_where_it_is_named() {
    let inputs = [spec("x", DataType::Fp32, &[-1])];
    let optional = [spec("scale", DataType::Fp32, &[1])];
    let outputs = [spec("y", DataType::Fp32, &[-1])];
    let serve = |text: &str| {
        prepare(parse(text)?, &context().default_max_batch_size(0))?.complete(ModelSignature {
            inputs: &inputs,
            optional_inputs: &optional,
            outputs: &outputs,
        })
    };
    let x = InputShape {
        name: "x",
        data_type: DataType::Fp32,
        shape: &[3],
    };
    let scale = InputShape {
        name: "scale",
        shape: &[1],
        ..x
    };
    // Left out of the configuration it is not served.
    let served = serve("backend: \"onnxruntime\"").unwrap();
    assert!(served.check_inputs(&[x]).is_ok());
    assert!(served.check_inputs(&[x, scale]).is_err());
    // Named as optional it may come or not; named without, it must come.
    let named = "backend: \"onnxruntime\" input { name: \"scale\" data_type: TYPE_FP32 dims: 1 ";
    let served = serve(&format!("{named} optional: true }}")).unwrap();
    assert!(served.check_inputs(&[x]).is_ok());
    assert!(served.check_inputs(&[x, scale]).is_ok());
    assert!(served.check_inputs(&[scale]).is_err());
    let served = serve(&format!("{named} }}")).unwrap();
    assert!(served.check_inputs(&[x]).is_err());
    // Its type is compared like any other.
    let wrong = named.replace("TYPE_FP32", "TYPE_INT64");
    assert!(serve(&format!("{wrong} optional: true }}")).is_err());
}
