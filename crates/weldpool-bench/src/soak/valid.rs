//! Requests that a server of this protocol must answer, over models, sizes, forms and encodings.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use super::cases::{Expect, IDENTITY, RELU, STRINGS, SUM};
use crate::random::Random;
use crate::request::{get, infer_path, payload, post};

/// Elements of the tensors: few sizes, so that a pool soon holds what all of them need.
pub(super) const SIZES: [usize; 7] = [1, 3, 64, 1000, 4096, 20_000, 65_536];

/// Most elements written as JSON.
const JSON_ELEMENTS_MAX: usize = 200;

/// A maker of requests of one kind for tensors of so many elements, with the answer each must get.
type Make = fn(&mut Random, usize) -> (Vec<u8>, Expect);

/// All kinds.
pub(super) const KINDS: [(&str, Make); 15] = [
    ("binary tensor", binary),
    ("large binary tensor", large),
    ("JSON tensor", json_tensor),
    ("JSON tensor, binary answer", mixed),
    ("empty tensor", empty),
    ("two inputs, binary", two_inputs),
    ("two inputs, one JSON and one binary", two_forms),
    ("binary strings", binary_strings),
    ("JSON strings", json_strings),
    ("gzip request", gzip),
    ("deflate request", deflate),
    ("gzip answer", gzip_answer),
    ("chunked request", chunked),
    ("metadata", metadata),
    ("request with id and parameters", decorated),
];

/// The JSON of an FP32 input that follows as `bytes` bytes.
fn declare(bytes: usize) -> serde_json::Value {
    json!({
        "name": "INPUT0", "datatype": "FP32", "shape": [bytes / 4],
        "parameters": {"binary_data_size": bytes}
    })
}

/// Asks for the output in binary.
fn wanted() -> serde_json::Value {
    json!([{"name": "OUTPUT0", "parameters": {"binary_data": true}}])
}

/// The body of a request and the header that says where its JSON ends.
pub(super) fn body(json: &serde_json::Value, blobs: &[u8]) -> (Vec<u8>, String) {
    let mut body = json.to_string().into_bytes();
    let header = format!("Inference-Header-Content-Length: {}", body.len());
    body.extend_from_slice(blobs);
    (body, header)
}

/// A request to run `model`.
pub(super) fn request(model: &str, json: &serde_json::Value, blobs: &[u8]) -> Vec<u8> {
    let (body, header) = body(json, blobs);
    post(&infer_path(model), &[&header], &body)
}

fn tensor_request(model: &str, tensor: Vec<u8>) -> (Vec<u8>, Expect) {
    let json = json!({"inputs": [declare(tensor.len())], "outputs": wanted()});
    (request(model, &json, &tensor), Expect::Binary(tensor))
}

fn binary(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let tensor = payload(elements * 4);
    tensor_request(random.of(&[IDENTITY, RELU]), tensor)
}

fn large(random: &mut Random, _: usize) -> (Vec<u8>, Expect) {
    tensor_request(random.of(&[IDENTITY, RELU]), payload(1 << 20))
}

fn numbers(random: &mut Random, count: usize) -> Vec<i64> {
    (0..count).map(|_| random.below(1 << 20) as i64).collect()
}

fn json_tensor(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let count = elements.min(JSON_ELEMENTS_MAX);
    let data: Vec<f64> = numbers(random, count)
        .iter()
        .map(|value| *value as f64)
        .collect();
    let input = json!({"name": "INPUT0", "datatype": "FP32", "shape": [count], "data": data});
    let wire = post(
        &infer_path(IDENTITY),
        &[],
        json!({"inputs": [input]}).to_string().as_bytes(),
    );
    (wire, Expect::Data(json!(data)))
}

fn mixed(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let count = elements.min(JSON_ELEMENTS_MAX);
    let data = numbers(random, count);
    let bytes = data
        .iter()
        .flat_map(|value| (*value as f32).to_le_bytes())
        .collect();
    let input = json!({"name": "INPUT0", "datatype": "FP32", "shape": [count], "data": data});
    let json = json!({"inputs": [input], "outputs": wanted()});
    (
        post(&infer_path(IDENTITY), &[], json.to_string().as_bytes()),
        Expect::Binary(bytes),
    )
}

fn empty(_: &mut Random, _: usize) -> (Vec<u8>, Expect) {
    tensor_request(IDENTITY, Vec::new())
}

fn little_endian(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Two lists of numbers and their sum.
fn terms(random: &mut Random, count: usize) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let (left, right) = (numbers(random, count), numbers(random, count));
    let pairs = left.iter().zip(&right);
    let sum = pairs.map(|(left, right)| left + right).collect();
    (left, right, sum)
}

fn two_inputs(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let count = elements;
    let (left, right, sum) = terms(random, count);
    let input = |name: &str| {
        json!({
            "name": name, "datatype": "INT64", "shape": [count],
            "parameters": {"binary_data_size": count * 8}
        })
    };
    let json = json!({"inputs": [input("INPUT0"), input("INPUT1")], "outputs": wanted()});
    let blobs = [little_endian(&left), little_endian(&right)].concat();
    (
        request(SUM, &json, &blobs),
        Expect::Binary(little_endian(&sum)),
    )
}

fn two_forms(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let count = elements.min(JSON_ELEMENTS_MAX);
    let (left, right, sum) = terms(random, count);
    let json = json!({"inputs": [
        {"name": "INPUT1", "datatype": "INT64", "shape": [count], "data": right},
        {"name": "INPUT0", "datatype": "INT64", "shape": [count],
            "parameters": {"binary_data_size": count * 8}},
    ]});
    (
        request(SUM, &json, &little_endian(&left)),
        Expect::Data(json!(sum)),
    )
}

fn words(random: &mut Random, elements: usize) -> Vec<String> {
    let count = elements.min(JSON_ELEMENTS_MAX);
    let word = |random: &mut Random| random.of(&["", "a", "weld", "pool \u{00e4}\u{6c34}"]);
    (0..count)
        .map(|_| word(random).repeat(random.below(9)))
        .collect()
}

fn binary_strings(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let words = words(random, elements);
    let mut blob = Vec::new();
    for word in &words {
        blob.extend_from_slice(&(word.len() as u32).to_le_bytes());
        blob.extend_from_slice(word.as_bytes());
    }
    let json = json!({
        "inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [words.len()],
            "parameters": {"binary_data_size": blob.len()}}],
        "outputs": wanted()
    });
    (request(STRINGS, &json, &blob), Expect::Binary(blob))
}

fn json_strings(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let words = words(random, elements);
    let input =
        json!({"name": "INPUT0", "datatype": "BYTES", "shape": [words.len()], "data": words});
    let wire = post(
        &infer_path(STRINGS),
        &[],
        json!({"inputs": [input]}).to_string().as_bytes(),
    );
    (wire, Expect::Data(json!(words)))
}

/// A tensor request with its body changed by `encode` and a header that says so.
fn encoded(elements: usize, coding: &str, encode: fn(&[u8]) -> Vec<u8>) -> (Vec<u8>, Expect) {
    let tensor = payload(elements * 4);
    let json = json!({"inputs": [declare(tensor.len())], "outputs": wanted()});
    let (body, header) = body(&json, &tensor);
    let coding = format!("Content-Encoding: {coding}");
    (
        post(&infer_path(IDENTITY), &[&header, &coding], &encode(&body)),
        Expect::Binary(tensor),
    )
}

/// Compresses as `gzip`.
pub(super) fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail; an empty body would show as a wrong answer.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn deflate_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    // As above.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn gzip(_: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    encoded(elements, "gzip", gzip_of)
}

fn deflate(_: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    encoded(elements, "deflate", deflate_of)
}

fn gzip_answer(_: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let tensor = payload(elements * 4);
    let json = json!({"inputs": [declare(tensor.len())], "outputs": wanted()});
    let (body, header) = body(&json, &tensor);
    let wire = post(
        &infer_path(IDENTITY),
        &[&header, "Accept-Encoding: gzip"],
        &body,
    );
    (wire, Expect::Binary(tensor))
}

/// The head of a chunked request to `IDENTITY`.
pub(super) fn chunked_head(header: &str) -> Vec<u8> {
    format!(
        "POST {} HTTP/1.1\r\nHost: bench\r\n{header}\r\nTransfer-Encoding: chunked\r\n\r\n",
        infer_path(IDENTITY)
    )
    .into_bytes()
}

fn chunked(random: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let tensor = payload(elements * 4);
    let json = json!({"inputs": [declare(tensor.len())], "outputs": wanted()});
    let (body, header) = body(&json, &tensor);
    let mut wire = chunked_head(&header);
    for chunk in body.chunks(1 + random.below(20_000)) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    (wire, Expect::Binary(tensor))
}

fn metadata(random: &mut Random, _: usize) -> (Vec<u8>, Expect) {
    let path = random.of(&[
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/identity",
        "/v2/models/identity/versions/1",
        "/v2/models/identity/ready",
        "/v2/models/identity/config",
        "/v2/models/identity/stats",
        "/v2/models/stats",
    ]);
    (get(path), Expect::Success)
}

fn decorated(_: &mut Random, elements: usize) -> (Vec<u8>, Expect) {
    let tensor = payload(elements * 4);
    let json = json!({
        "id": "request \u{00e4} 7",
        "parameters": {"binary_data_output": true, "priority": 0, "note": "x"},
        "inputs": [declare(tensor.len())],
    });
    (request(IDENTITY, &json, &tensor), Expect::Binary(tensor))
}
