//! Requests that a real Triton was sent, and what it answered: ours must be the same, or differ
//! as the recording says it shall. `tests/data/triton-http/README.md` describes the recording.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Answer, exchange_labelled, parse, served};
use crate::config::Served;

struct Model {
    served: Served,
    version: String,
    labels: Vec<String>,
}

const MODELS: &str = include_str!("../../../tests/data/triton-http/models.json");

const REQUESTS: [(&str, &str); 4] = [
    (
        "infer_json_good",
        include_str!("../../../tests/data/triton-http/infer_json_good.json"),
    ),
    (
        "infer_json_bad",
        include_str!("../../../tests/data/triton-http/infer_json_bad.json"),
    ),
    (
        "infer_binary",
        include_str!("../../../tests/data/triton-http/infer_binary.json"),
    ),
    (
        "classification",
        include_str!("../../../tests/data/triton-http/classification.json"),
    ),
];

#[test]
fn answers_are_tritons() {
    let models = models();
    let (mut compared, mut failures) = (0, Vec::new());
    for (group, requests) in REQUESTS {
        for case in serde_json::from_str::<Vec<Value>>(requests).unwrap() {
            // Which models there are is not this module's concern.
            let Some(model) = model_of(&models, case["request"]["path"].as_str().unwrap()) else {
                continue;
            };
            compared += 1;
            if let Err(failure) = check(&case, &model) {
                failures.push(format!(
                    "{group}: {}: {failure}",
                    case["name"].as_str().unwrap()
                ));
            }
        }
    }
    assert!(compared > 300, "{compared}");
    assert!(
        failures.is_empty(),
        "{} of {compared} differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn check(case: &Value, model: &Model) -> Result<(), String> {
    let header = case["request"]["headers"]["Inference-Header-Content-Length"].as_str();
    let result = exchange_labelled(
        &model.served,
        &model.labels,
        header,
        &bytes(&case["request"]["body"]),
    );
    let expected = case.get("ours").unwrap_or(&case["triton"]);
    let status = result.as_ref().map_or_else(|error| error.status(), |_| 200);
    if expected["status"].as_u64() != Some(u64::from(status)) {
        return Err(format!(
            "{} expected, not {status} {result:?}; Triton: {}",
            expected["status"], case["triton"]
        ));
    }
    match result {
        Err(error) => check_message(case, model, error.message()),
        Ok(answer) => check_body(
            case.pointer("/ours/body")
                .unwrap_or(&case["triton"]["body"]),
            model,
            &answer,
        ),
    }
}

/// Ours must hold the words that the recording asks for, or name each tensor that Triton's names.
fn check_message(case: &Value, model: &Model, message: &str) -> Result<(), String> {
    if let Some(expected) = case.pointer("/ours/error").and_then(Value::as_str) {
        return if message.contains(expected) {
            Ok(())
        } else {
            Err(format!("{expected} is not in: {message}"))
        };
    }
    let recorded = case["triton"]["body"]["text"].as_str().unwrap_or_default();
    for name in model
        .served
        .inputs()
        .iter()
        .chain(model.served.outputs())
        .map(|tensor| &tensor.name)
    {
        if recorded.contains(&format!("'{name}'")) && !message.contains(&format!("'{name}'")) {
            return Err(format!(
                "{name} is not named in: {message}; Triton: {recorded}"
            ));
        }
    }
    Ok(())
}

fn check_body(expected: &Value, model: &Model, answer: &Answer) -> Result<(), String> {
    let expected = bytes(expected);
    let json_len = expected.len() - answer.blobs().len();
    let mut json = parse(&expected[..json_len]);
    let mut ours = answer.json();
    // Which version ran is told by the service.
    ours["model_version"] = model.version.clone().into();
    round(&mut json);
    round(&mut ours);
    if json != ours {
        return Err(format!("{ours}; Triton: {json}"));
    }
    if &expected[json_len..] != answer.blobs() {
        return Err(format!(
            "{:?}; Triton: {:?}",
            answer.blobs(),
            &expected[json_len..]
        ));
    }
    Ok(())
}

/// Triton writes single-precision floats with the digits of a double.
#[allow(clippy::cast_possible_truncation)]
fn round(json: &mut Value) {
    for output in json["outputs"].as_array_mut().unwrap() {
        if output["datatype"] == "FP32"
            && let Some(data) = output["data"].as_array_mut()
        {
            for element in data {
                if let Some(number) = element.as_f64() {
                    *element = Value::from(f64::from(number as f32).to_string());
                }
            }
        }
    }
}

/// The bytes of a recorded body: text or base64.
fn bytes(body: &Value) -> Vec<u8> {
    match body["base64"].as_str() {
        Some(text) => STANDARD.decode(text).unwrap(),
        None => body["text"]
            .as_str()
            .unwrap_or_default()
            .as_bytes()
            .to_vec(),
    }
}

/// The model and version of a path, if there is one.
fn model_of(models: &[Value], path: &str) -> Option<Model> {
    let path = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
    let (name, version) = match path.split_once("/versions/") {
        Some((name, version)) => (name, Some(version)),
        None => (path, None),
    };
    let model = models.iter().find(|model| model["name"] == name)?;
    let versions: Vec<&str> = model["versions"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let version = match version {
        Some(version) => *versions.iter().find(|known| **known == version)?,
        None => versions.last()?,
    };
    let labels = model["labels"].as_array().into_iter().flatten();
    Some(Model {
        served: served(model),
        version: version.to_owned(),
        labels: labels
            .map(|label| label.as_str().unwrap().to_owned())
            .collect(),
    })
}

fn models() -> Vec<Value> {
    serde_json::from_str(MODELS).unwrap()
}
