//! The requests of the benchmark: one FP32 tensor in, one tensor out, in the binary form.

/// Name of the model that every server of the benchmark serves.
pub const MODEL: &str = "identity";
/// Name of its input.
pub const INPUT: &str = "INPUT0";
/// Name of its output.
pub const OUTPUT: &str = "OUTPUT0";

/// Bytes of one FP32 element.
const ELEMENT_BYTES: usize = 4;

/// The tensor sent and expected back: `bytes` / 4 small whole numbers, little-endian FP32.
///
/// Depends on the length only, so that a server which answers from memory can have it ready.
pub fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes / ELEMENT_BYTES)
        .flat_map(|index| ((index % 251) as f32).to_le_bytes())
        .collect()
}

/// The bytes of a POST of `body` to `path` with further `headers` (each `Name: value`).
pub fn post(path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut wire = format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        wire.push_str(header);
        wire.push_str("\r\n");
    }
    wire.push_str("\r\n");
    let mut wire = wire.into_bytes();
    wire.extend_from_slice(body);
    wire
}

/// The bytes of a GET of `path`.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// The path that runs version 1 of `model`.
pub fn infer_path(model: &str) -> String {
    format!("/v2/models/{model}/versions/1/infer")
}

/// The names and the shape of one FP32 tensor in and one tensor out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Name of the input.
    pub input: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Name of the output.
    pub output: &'a str,
}

/// The bytes of a request that sends `tensor` (FP32, one dimension) to the identity model `model` and asks for
/// binary output.
pub fn infer(model: &str, tensor: &[u8]) -> Vec<u8> {
    let signature = Signature {
        input: INPUT,
        shape: &[tensor.len() / ELEMENT_BYTES],
        output: OUTPUT,
    };
    infer_as(model, signature, tensor)
}

/// The bytes of a request that sends `tensor` (FP32, of the signature's shape) to `model` and asks for binary
/// output.
pub fn infer_as(model: &str, signature: Signature<'_>, tensor: &[u8]) -> Vec<u8> {
    let json = format!(
        concat!(
            r#"{{"inputs":[{{"name":"{}","shape":{:?},"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"#,
            r#""outputs":[{{"name":"{}","parameters":{{"binary_data":true}}}}]}}"#
        ),
        signature.input,
        signature.shape,
        tensor.len(),
        signature.output,
    );
    let length = format!("Inference-Header-Content-Length: {}", json.len());
    let mut body = json.into_bytes();
    body.extend_from_slice(tensor);
    post(
        &infer_path(model),
        &["Content-Type: application/octet-stream", &length],
        &body,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_states_its_lengths() {
        let tensor = payload(64);
        assert_eq!(tensor.len(), 64);
        let wire = infer("m", &tensor);
        assert!(wire.ends_with(&tensor));
        let text = String::from_utf8_lossy(&wire);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /v2/models/m/versions/1/infer HTTP/1.1\r\n"));
        let body_bytes = wire.len() - head.len() - 4;
        assert!(head.contains(&format!("Content-Length: {body_bytes}")));
        let json_bytes = body_bytes - 64;
        assert!(head.contains(&format!("Inference-Header-Content-Length: {json_bytes}")));
        let json: serde_json::Value = serde_json::from_str(&body[..json_bytes]).unwrap();
        assert_eq!(json["inputs"][0]["shape"][0], 16);
        assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 64);
    }

    #[test]
    fn a_request_has_its_models_names_and_shape() {
        let signature = Signature {
            input: "x",
            shape: &[1, 2, 2],
            output: "y",
        };
        let wire = infer_as("m", signature, &payload(16));
        let text = std::str::from_utf8(&wire[..wire.len() - 16]).unwrap();
        let (_, json) = text.split_once("\r\n\r\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["inputs"][0]["name"], "x");
        assert_eq!(json["inputs"][0]["shape"], serde_json::json!([1, 2, 2]));
        assert_eq!(json["outputs"][0]["name"], "y");
    }
}
