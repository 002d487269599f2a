//! The way of a backend in Triton: from what `TRITONBACKEND_ModelConfig` gives to what
//! `TRITONBACKEND_ModelSetConfig` takes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use weldpool_config::{
    AccessPattern, Backend, Context, ErrorKind, Host, ModelSignature, Prepared, Result, Served,
    UnifiedMemory, json as form, prepare,
};
use weldpool_engine::{DataType, Dim, TensorSpec};

/// A normalised configuration in the form that Triton 2.51 gives; recorded ones are in `data/`.
const GIVEN: &str = r#"{"name":"m","platform":"","backend":"metal_mps","runtime":"","version_policy":{"latest":{"num_versions":1}},"max_batch_size":0,"input":[],"output":[],"batch_input":[],"batch_output":[],"optimization":{"graph":{"level":0},"priority":"PRIORITY_DEFAULT","input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,"eager_batching":false},"instance_group":[{"name":"m_0","kind":"KIND_CPU","count":1,"gpus":[],"secondary_devices":[],"profile":[],"passive":false,"host_policy":""}],"default_model_filename":"","cc_model_filenames":{},"metric_tags":{},"parameters":{"intra_op_thread_count":{"string_value":"2"}},"model_warmup":[],"model_transaction_policy":{"decoupled":false}}"#;

fn given() -> Value {
    serde_json::from_str(GIVEN).unwrap()
}

fn prepared(config: &Value) -> Result<Prepared> {
    let lenient = form::parse_lenient(&config.to_string())?;
    prepare(lenient.config, &Context::new("m").host(Host::Triton))
}

fn spec(name: &str, data_type: DataType, dims: &[Dim]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
    }
}

fn completed(config: &Value) -> Result<Served> {
    let batch = || Dim::Symbolic(Some("batch".into()));
    prepared(config)?.complete(ModelSignature {
        inputs: &[spec("x", DataType::Fp16, &[batch(), Dim::Known(3)])],
        optional_inputs: &[],
        outputs: &[spec("y", DataType::Bytes, &[batch()])],
    })
}

#[test]
fn a_normalised_configuration_is_read_and_written_back_whole() {
    let lenient = form::parse_lenient(GIVEN).unwrap();
    assert_eq!(lenient.unknown, Vec::<String>::new());
    assert_eq!(form::to_value(&lenient.config), given());
    assert_eq!(form::to_text(&lenient.config), GIVEN, "to the byte");
}

#[test]
fn the_model_completes_it() {
    let prepared = prepared(&given()).unwrap();
    assert_eq!(prepared.backend(), Backend::MetalMps);
    assert_eq!(prepared.config().default_model_filename, "model.onnx");
    assert_eq!(prepared.engine_settings().intra_op_threads, Some(2));
    assert_eq!(prepared.ignored(), []);

    let served = completed(&given()).unwrap();
    let written: Value = serde_json::from_str(&form::to_text(served.config())).unwrap();
    let mut expected = given();
    expected["max_batch_size"] = json!(4);
    expected["default_model_filename"] = json!("model.onnx");
    expected["input"] = json!([{
        "name": "x", "data_type": "TYPE_FP16", "format": "FORMAT_NONE", "dims": [3],
        "is_shape_tensor": false, "allow_ragged_batch": false, "optional": false,
        "is_non_linear_format_io": false,
    }]);
    expected["output"] = json!([{
        "name": "y", "data_type": "TYPE_STRING", "dims": [1], "reshape": { "shape": [] },
        "label_filename": "", "is_shape_tensor": false, "is_non_linear_format_io": false,
    }]);
    expected["dynamic_batching"] = json!({
        "preferred_batch_size": [4], "max_queue_delay_microseconds": 0,
        "preserve_ordering": false, "priority_levels": 0, "default_priority_level": 0,
        "priority_queue_policy": {},
    });
    assert_eq!(written, expected);

    // Triton gives back what it was given; nothing is left to complete.
    let again = completed(&written).unwrap();
    assert_eq!(
        form::to_text(again.config()),
        form::to_text(served.config())
    );
}

#[test]
fn what_triton_does_itself_is_not_reported() {
    let mut config = given();
    config["max_batch_size"] = json!(8);
    config["dynamic_batching"] = json!({ "max_queue_delay_microseconds": "100" });
    config["instance_group"][0]["kind"] = json!("KIND_GPU");
    config["instance_group"][0]["gpus"] = json!([0]);
    config["response_cache"] = json!({ "enable": true });
    config["metric_tags"] = json!({ "team": "a" });
    config["runtime"] = json!("libtriton_metal_mps.so");
    assert_eq!(prepared(&config).unwrap().ignored(), []);

    config["optimization"]["eager_batching"] = json!(true);
    config["parameters"]["colour"] = json!({ "string_value": "red" });
    let prepared = prepared(&config).unwrap();
    let ignored: Vec<&str> = prepared
        .ignored()
        .iter()
        .map(|field| field.path.as_str())
        .collect();
    assert_eq!(
        ignored,
        ["optimization.eager_batching", "parameters[\"colour\"]"]
    );
}

#[test]
fn what_the_backend_cannot_do_is_refused() {
    let changes = [
        ("model_transaction_policy", json!({ "decoupled": true })),
        ("sequence_batching", json!({ "direct": {} })),
        (
            "input",
            json!([{ "name": "x", "allow_ragged_batch": true }]),
        ),
        (
            "batch_input",
            json!([{ "kind": "BATCH_ELEMENT_COUNT", "target_name": ["n"] }]),
        ),
    ];
    for (field, value) in changes {
        let mut config = given();
        config[field] = value;
        let error = prepared(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{field}");
        assert!(error.message().contains(field), "{error}");
    }
}

#[test]
fn settings_of_unified_memory_are_read_and_a_wrong_one_is_refused() {
    let name = "optimization.unified_memory";
    let mut config = given();
    config["parameters"][name] = json!({ "string_value":
        r#"{"zero_copy_threshold":0,"tensor_patterns":[{"name":"x","pattern":"streaming"}]}"# });
    let ready = prepared(&config).unwrap();
    assert_eq!(ready.unified_memory().zero_copy_threshold, 0);
    assert_eq!(
        ready.unified_memory().tensor_patterns.get("x"),
        Some(&AccessPattern::Streaming)
    );
    assert!(ready.engine_settings().others.is_empty());
    let ignored: Vec<String> = ready.ignored().iter().map(ToString::to_string).collect();
    assert_eq!(
        ignored,
        [
            "parameters[\"optimization.unified_memory\"]: ignored: it is checked, and has no effect yet"
        ]
    );

    config["parameters"][name] = json!({ "string_value": r#"{"enable":"perhaps"}"# });
    let error = prepared(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "parameter 'optimization.unified_memory.enable' of 'm' must be true or false, not \
         'perhaps'"
    );
}

#[test]
fn both_forms_on_the_page_about_configuration_say_the_same() {
    let page = include_str!("../../../docs/configuration.md");
    let (before, after) = page.split_once("is the same as").unwrap();
    let block = |lines: Vec<&str>| {
        let text = lines.join("\n");
        let config = weldpool_config::text::parse(&text, "page".as_ref()).unwrap();
        UnifiedMemory::of(&config).unwrap()
    };
    let indented = |line: &&str| line.starts_with("    ") || line.is_empty();
    let mut first: Vec<&str> = before.lines().rev().take_while(indented).collect();
    first.reverse();
    let second: Vec<&str> = after.lines().take_while(indented).collect();
    let settings = block(first);
    assert_eq!(settings.zero_copy_threshold, 65536);
    assert_eq!(settings.tensor_patterns.len(), 1);
    assert_eq!(settings, block(second));
}

/// What the fuzzer does, in small: the recorded configuration with one place changed.
#[test]
fn no_configuration_panics() {
    weldpool_config::fuzzing::backend_config(GIVEN.as_bytes());
    let replacements = [
        "",
        "0",
        "-1",
        "\"",
        "{",
        "]",
        "null",
        "99999999999999999999",
        "\"TYPE_FP32\"",
    ];
    for at in 0..GIVEN.len() {
        let end = GIVEN[at + 1..]
            .find([',', ':', '}', ']', '"'])
            .map_or(GIVEN.len(), |length| at + 1 + length);
        for replacement in replacements {
            let text = format!("{}{replacement}{}", &GIVEN[..at], &GIVEN[end..]);
            weldpool_config::fuzzing::backend_config(text.as_bytes());
        }
    }
}

#[test]
fn completion_leaves_what_it_does_not_know() {
    let newer = GIVEN.replacen('{', "{\"colour\":[1,{\"x\":null}],", 1);
    let served = completed(&serde_json::from_str(&newer).unwrap()).unwrap();
    let written: Value =
        serde_json::from_str(&form::completed(&newer, served.config()).unwrap()).unwrap();
    assert_eq!(written["colour"], json!([1, {"x": null}]));
    assert_eq!(written["input"][0]["name"], "x");
    assert_eq!(written["max_batch_size"], 4);
    assert_eq!(written["default_model_filename"], "model.onnx");
    assert!(written.get("dynamic_batching").is_some());
    // As it was given, not as it was normalised.
    assert_eq!(written["platform"], "");
    assert!(form::completed("[]", served.config()).is_err());
}
