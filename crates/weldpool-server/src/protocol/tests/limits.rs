//! Every limit holds, and its error says which it is.

use weldpool_engine::DataType;

use super::{decode, model};
use crate::protocol::Limits;

fn refused(header: Option<&str>, body: &str, limits: &Limits, status: u16, expected: &str) {
    let model = model(&[(DataType::Fp32, &[-1])]);
    let error = decode(&model, header, body.as_bytes(), limits).expect_err(expected);
    assert_eq!(error.status(), status, "{error}");
    assert!(error.message().contains(expected), "{error}");
}

#[test]
fn limits_are_named() {
    let limits = Limits {
        json_bytes_max: 400,
        json_depth_max: 8,
        inputs_max: 2,
        outputs_max: 2,
        parameters_max: 2,
        id_bytes_max: 4,
        name_bytes_max: 8,
        rank_max: 3,
        elements_max: 8,
        tensor_bytes_max: 16,
    };
    let input =
        |name: &str| format!(r#"{{"name":"{name}","shape":[1],"datatype":"FP32","data":[1]}}"#);
    let one = input("INPUT0");
    let cases = [
        (r#"{"inputs":[[[[[[[[1]]]]]]]]}"#.to_owned(), 400, "deeper than 8"),
        (format!(r#"{{"x":[[[[[[[[1]]]]]]]],"inputs":[{one}]}}"#), 400, "deeper than 8"),
        (format!(r#"{{"inputs":[{},{},{}]}}"#, input("a"), input("b"), input("c")), 400, "more than 2 inputs"),
        (
            format!(r#"{{"inputs":[{one}],"outputs":[{{"name":"a"}},{{"name":"b"}},{{"name":"c"}}]}}"#),
            400,
            "more than 2 outputs",
        ),
        (format!(r#"{{"inputs":[{one}],"parameters":{{"a":1,"b":1,"c":1}}}}"#), 400, "more than 2 parameters"),
        (format!(r#"{{"inputs":[{one}],"parameters":{{"123456789":1}}}}"#), 400, "longer than 8 bytes"),
        (format!(r#"{{"id":"12345","inputs":[{one}]}}"#), 400, "'id' is longer than 4 bytes"),
        (format!(r#"{{"inputs":[{}]}}"#, input("123456789")), 400, "'name' is longer than 8 bytes"),
        (
            r#"{"inputs":[{"name":"INPUT0","shape":[1,1,1,1],"datatype":"FP32","data":[1]}]}"#.to_owned(),
            400,
            "input 'INPUT0': more than 3 dimensions",
        ),
        (
            r#"{"inputs":[{"name":"INPUT0","shape":[3,3],"datatype":"FP32","data":[1]}]}"#.to_owned(),
            400,
            "input 'INPUT0': shape [3,3] has more than 8 elements",
        ),
        (
            r#"{"inputs":[{"name":"INPUT0","shape":[5],"datatype":"FP32","data":[1,2,3,4,5]}]}"#.to_owned(),
            413,
            "input 'INPUT0': the elements take more than 16 bytes",
        ),
        (
            r#"{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"BYTES","data":["0123456789abc"]}]}"#.to_owned(),
            413,
            "input 'INPUT0': the elements take more than 16 bytes",
        ),
        (" ".repeat(401), 413, ""),
    ];
    for (body, status, expected) in &cases {
        refused(None, body, &limits, *status, expected);
    }
}

#[test]
fn blobs_are_limited_together() {
    let limits = Limits {
        tensor_bytes_max: 16,
        json_bytes_max: 200,
        ..Limits::default()
    };
    let head = |count: usize| {
        format!(
            r#"{{"inputs":[{{"name":"INPUT0","shape":[{count}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
            count * 4
        )
    };
    let body = format!("{}{}", head(5), "x".repeat(20));
    refused(
        Some(&head(5).len().to_string()),
        &body,
        &limits,
        413,
        "input 'INPUT0'",
    );
    refused(Some("0"), &"x".repeat(20), &limits, 413, "");
    refused(
        Some("201"),
        &" ".repeat(300),
        &limits,
        413,
        "JSON part is longer than 200 bytes",
    );
    let model = model(&[(DataType::Fp32, &[-1])]);
    let body = format!("{}{}", head(4), "x".repeat(16));
    decode(
        &model,
        Some(&head(4).len().to_string()),
        body.as_bytes(),
        &limits,
    )
    .unwrap();
}
