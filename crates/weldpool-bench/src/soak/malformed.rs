//! Requests that a server must refuse, each with a reason, and survive.

use serde_json::{Value, json};

use super::cases::{Expect, IDENTITY, STRINGS, SUM, Then};
use super::valid::{chunked_head, gzip_of, request};
use crate::random::Random;
use crate::request::{infer, infer_path, payload, post};

/// A request that breaks a rule, and what may come of it.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) wire: Vec<u8>,
    pub(super) then: Then,
    pub(super) expect: Expect,
}

/// A maker of requests of one kind.
type Make = fn(&mut Random) -> Malformed;

/// All kinds.
pub(super) const KINDS: &[(&str, Make)] = &[
    ("JSON that ends early", |random| {
        let whole = json!({"inputs": [input(json!({}))]}).to_string();
        refused(plain(
            IDENTITY,
            &whole.as_bytes()[..random.below(whole.len() - 1)],
        ))
    }),
    ("no JSON at all", |random| {
        let length = 1 + random.below(2000);
        refused(plain(IDENTITY, &random.bytes(length)))
    }),
    ("an empty body", |_| refused(plain(IDENTITY, b""))),
    ("JSON of another kind", |random| {
        let other = random.of(&[
            "[]",
            "1",
            "null",
            "\"inputs\"",
            "{}",
            "{\"inputs\":{}}",
            "{\"inputs\":[]}",
        ]);
        refused(plain(IDENTITY, other.as_bytes()))
    }),
    ("deep JSON", |random| {
        let depth = 500 + random.below(20_000);
        refused(plain(
            IDENTITY,
            format!("{{\"inputs\":{}", "[".repeat(depth)).as_bytes(),
        ))
    }),
    ("a field of the wrong type", |random| {
        let (field, value) = random.of(&[
            ("name", "7"),
            ("shape", "\"4\""),
            ("shape", "[1.5]"),
            ("shape", "[\"4\"]"),
            ("shape", "null"),
            ("datatype", "7"),
            ("parameters", "[]"),
            ("data", "\"x\""),
            ("data", "{}"),
        ]);
        let value: Value = serde_json::from_str(value).unwrap_or_default();
        refused(with(json!({field: value})))
    }),
    ("data of the wrong type", |random| {
        let element = random.of(&["\"one\"", "null", "{}", "true"]);
        let element: Value = serde_json::from_str(element).unwrap_or_default();
        refused(with(json!({"data": [1, 2, 3, element]})))
    }),
    ("a fraction for an integer", |_| {
        let input = |name| json!({"name": name, "datatype": "INT64", "shape": [1], "data": [0.5]});
        refused(plain(
            SUM,
            json!({"inputs": [input("INPUT0"), input("INPUT1")]})
                .to_string()
                .as_bytes(),
        ))
    }),
    ("an integer that does not fit", |_| {
        let input = |name| {
            format!(
                r#"{{"name":"{name}","datatype":"INT64","shape":[1],"data":[9223372036854775808]}}"#
            )
        };
        let json = format!(r#"{{"inputs":[{},{}]}}"#, input("INPUT0"), input("INPUT1"));
        refused(plain(SUM, json.as_bytes()))
    }),
    ("fewer or more data than the shape", |random| {
        let count = random.of(&[0, 1, 3, 5, 100]);
        refused(with(json!({"data": vec![1; count]})))
    }),
    ("a negative shape", |random| {
        let shape = random.of(&[-1, -4, i64::MIN]);
        refused(with(json!({"shape": [shape]})))
    }),
    ("a shape that overflows", |random| {
        let shape = random.of(&[[i64::MAX, 4], [1 << 32, 1 << 32], [1 << 62, 4]]);
        refused(with(json!({"shape": shape})))
    }),
    ("a huge shape", |_| {
        refused(with(json!({"shape": [1_u64 << 40]})))
    }),
    ("a shape with too many dimensions", |random| {
        let rank = random.of(&[2, 3, 50, 5000]);
        refused(with(json!({"shape": vec![1; rank], "data": [1]})))
    }),
    ("another element type", |random| {
        refused(with(
            json!({"datatype": random.of(&["FP64", "INT32", "BYTES", "FP33", "fp32", ""])}),
        ))
    }),
    ("an unknown input", |random| {
        refused(with(
            json!({"name": random.of(&["INPUT9", "", "input0", "OUTPUT0"])}),
        ))
    }),
    ("a missing input", |_| {
        let input = json!({"name": "INPUT0", "datatype": "INT64", "shape": [1], "data": [1]});
        refused(plain(
            SUM,
            json!({"inputs": [input]}).to_string().as_bytes(),
        ))
    }),
    ("an input given twice", |_| {
        let inputs = json!({"inputs": [input(json!({})), input(json!({}))]});
        refused(plain(IDENTITY, inputs.to_string().as_bytes()))
    }),
    ("an unknown output", |_| {
        let json = json!({"inputs": [input(json!({}))], "outputs": [{"name": "OUTPUT9"}]});
        refused(plain(IDENTITY, json.to_string().as_bytes()))
    }),
    ("an unknown model", |random| {
        refused(infer(
            random.of(&["nobody", "..", "%2e%2e", "identity%00"]),
            &payload(16),
        ))
    }),
    ("an unknown version", |random| {
        let version = random.of(&["2", "0", "-1", "x", "99999999999999999999"]);
        refused(post(
            &format!("/v2/models/identity/versions/{version}/infer"),
            &[],
            b"{}",
        ))
    }),
    ("a binary length that is not the shape's", |random| {
        let bytes = random.of(&[0, 4, 12, 15, 17, 20]);
        let declared = json!({"shape": [4], "parameters": {"binary_data_size": bytes}});
        refused(binary(declared, &payload(1024)[..bytes]))
    }),
    ("a binary length beyond the body", |random| {
        let bytes = random.of(&[64, 1 << 20, 1 << 40, u64::MAX >> 1]);
        let declared = json!({"shape": [bytes / 4], "parameters": {"binary_data_size": bytes}});
        refused(binary(declared, &payload(16)))
    }),
    ("a binary length that is no length", |random| {
        let length = random.of(&["-16", "1.5", "\"16\"", "1e30", "true"]);
        let length: Value = serde_json::from_str(length).unwrap_or_default();
        refused(binary(
            json!({"parameters": {"binary_data_size": length}}),
            &payload(16),
        ))
    }),
    ("bytes that no input claims", |_| {
        let declared = json!({"parameters": {"binary_data_size": 16}});
        refused(binary(declared, &payload(64)))
    }),
    ("a JSON length beyond the body", |random| {
        let length = random.of(&["4096", "99999999999", "-1", "x", "18446744073709551616"]);
        let header = format!("Inference-Header-Content-Length: {length}");
        let body = json!({"inputs": [input(json!({}))]}).to_string();
        refused(post(&infer_path(IDENTITY), &[&header], body.as_bytes()))
    }),
    ("strings with a length beyond the tensor", |random| {
        let length = random.of(&[5, 1 << 16, u32::MAX]);
        let blob = [&length.to_le_bytes()[..], b"abcd"].concat();
        refused(strings(1, &blob))
    }),
    ("fewer or more strings than the shape", |random| {
        let blob = [&4_u32.to_le_bytes()[..], b"abcd"].concat();
        refused(strings(random.of(&[0, 2, 1000]), &blob))
    }),
    ("half a string length", |_| refused(strings(1, &[4, 0]))),
    ("bytes that are not gzip", |random| {
        let garbage = random.bytes(200);
        refused(post(
            &infer_path(IDENTITY),
            &["Content-Encoding: gzip"],
            &garbage,
        ))
    }),
    ("gzip that ends early", |_| {
        let whole = gzip_of(json!({"inputs": [input(json!({}))]}).to_string().as_bytes());
        refused(post(
            &infer_path(IDENTITY),
            &["Content-Encoding: gzip"],
            &whole[..whole.len() / 2],
        ))
    }),
    ("an unknown content coding", |_| {
        refused(post(
            &infer_path(IDENTITY),
            &["Content-Encoding: lzma"],
            b"{}",
        ))
    }),
    ("a body shorter than its length", |random| {
        let whole = infer(IDENTITY, &payload(4096));
        let cut = whole.len() - 1 - random.below(4000);
        Malformed {
            wire: whole[..cut].to_vec(),
            then: Then::Finish,
            expect: Expect::RefusalOrEnd,
        }
    }),
    ("a client that leaves in the middle", |random| {
        let whole = infer(IDENTITY, &payload(1 << 20));
        let cut = 1 + random.below(whole.len() - 1);
        Malformed {
            wire: whole[..cut].to_vec(),
            then: Then::Leave,
            expect: Expect::Nothing,
        }
    }),
    ("a client that does not wait", |_| Malformed {
        wire: infer(IDENTITY, &payload(1 << 18)),
        then: Then::Leave,
        expect: Expect::Nothing,
    }),
    ("a length that is no length", |random| {
        let length = random.of(&["x", "-1", "1.5", "99999999999999999999999", "0x10", ""]);
        unframed(format!(
            "POST {} HTTP/1.1\r\nHost: b\r\nContent-Length: {length}\r\n\r\n",
            infer_path(IDENTITY)
        ))
    }),
    ("two lengths", |_| {
        let path = infer_path(IDENTITY);
        unframed(format!(
            "POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}}}"
        ))
    }),
    ("a body beyond any limit", |_| {
        let path = infer_path(IDENTITY);
        unframed(format!(
            "POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 9000000000000000\r\n\r\n"
        ))
    }),
    ("a header too long", |random| {
        let value = "v".repeat((64 << 10) + random.below(200_000));
        unframed(format!(
            "GET /v2 HTTP/1.1\r\nHost: b\r\nX-Long: {value}\r\n\r\n"
        ))
    }),
    ("too many headers", |_| {
        unframed(format!(
            "GET /v2 HTTP/1.1\r\nHost: b\r\n{}\r\n",
            "X-More: 1\r\n".repeat(5000)
        ))
    }),
    ("bytes that are not HTTP", |random| {
        let wire = [&b"\x16\x03\x01 "[..], &random.bytes(300), b"\r\n\r\n"].concat();
        Malformed {
            wire,
            then: Then::Finish,
            expect: Expect::RefusalOrEnd,
        }
    }),
    ("a broken chunk", |random| {
        let chunk = random.of(&[
            "zz\r\n{}\r\n",
            "-1\r\n",
            "fffffffffffffffff\r\n",
            "2\r\n{}xx",
            "\r\n\r\n",
        ]);
        let mut wire = chunked_head("X: y");
        wire.extend_from_slice(chunk.as_bytes());
        Malformed {
            wire,
            then: Then::Finish,
            expect: Expect::RefusalOrEnd,
        }
    }),
    ("another method", |random| {
        let method = random.of(&["PUT", "DELETE", "PATCH", "BREW"]);
        let path = infer_path(IDENTITY);
        unframed(format!(
            "{method} {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"
        ))
    }),
    ("another path", |random| {
        let path = random.of(&[
            "/",
            "/v1",
            "/v2/model",
            "/v2/models/identity/infers",
            "/v2/../../etc/passwd",
            "*",
        ]);
        unframed(format!(
            "POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{{}}"
        ))
    }),
];

/// A request whose end the server can tell: it must say why it refuses.
fn refused(wire: Vec<u8>) -> Malformed {
    Malformed {
        wire,
        then: Then::Keep,
        expect: Expect::Refusal,
    }
}

/// A request that is wrong as HTTP; the server refuses it and may close.
fn unframed(wire: String) -> Malformed {
    Malformed {
        wire: wire.into_bytes(),
        then: Then::Finish,
        expect: Expect::Refusal,
    }
}

/// A request of JSON alone.
fn plain(model: &str, body: &[u8]) -> Vec<u8> {
    post(&infer_path(model), &[], body)
}

/// A right FP32 input of four elements with `changes` made to its fields.
fn input(changes: Value) -> Value {
    let mut input =
        json!({"name": "INPUT0", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]});
    if let (Some(fields), Value::Object(changes)) = (input.as_object_mut(), changes) {
        fields.extend(changes);
    }
    input
}

/// A request with one such input.
fn with(changes: Value) -> Vec<u8> {
    plain(
        IDENTITY,
        json!({"inputs": [input(changes)]}).to_string().as_bytes(),
    )
}

/// The same with the tensor in binary.
fn binary(changes: Value, blob: &[u8]) -> Vec<u8> {
    let mut input = input(changes);
    if let Some(fields) = input.as_object_mut() {
        fields.remove("data");
    }
    request(IDENTITY, &json!({"inputs": [input]}), blob)
}

/// A request with `count` strings that follow as `blob`.
fn strings(count: usize, blob: &[u8]) -> Vec<u8> {
    let input = json!({"name": "INPUT0", "datatype": "BYTES", "shape": [count],
        "parameters": {"binary_data_size": blob.len()}});
    request(STRINGS, &json!({"inputs": [input]}), blob)
}
