//! Tensors lie in pool memory: aligned, written once, and given back.

use std::time::Instant;

use weldpool::Allocator;
use weldpool_engine::DataType;

use super::{exchange, identity, model};
use crate::http1::Chunk;
use crate::protocol::body::tests::MemoryBody;
use crate::protocol::request::{Context, Layout};
use crate::protocol::{Encoded, Limits, Model, request};

const HEAD: &str = r#"{"inputs":[{"name":"INPUT0","shape":[3],"datatype":"FP32","parameters":{"binary_data_size":12}},{"name":"INPUT1","shape":[2],"datatype":"INT64","data":[1,2]}],"parameters":{"binary_data_output":true}}"#;

#[test]
fn a_blob_is_the_tensor_and_the_answer() {
    let allocator = Allocator::host().unwrap();
    let model = model(&[(DataType::Fp32, &[-1]), (DataType::Int64, &[-1])]);
    let limits = Limits::default();
    let body = [HEAD.as_bytes(), &[7; 12]].concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    {
        let context = Context {
            model: &model,
            allocator: &allocator,
            limits: &limits,
            arrival: Instant::now(),
        };
        let layout = Layout::Binary(HEAD.len() as u64);
        let mut reader = MemoryBody {
            bytes: &body,
            sized: true,
        };
        let decoded = runtime
            .block_on(request::read(&mut reader, layout, context))
            .unwrap();
        assert_eq!(allocator.stats().live.value, 12 + 16);
        let response = identity(&model, &decoded);
        let of_model = Model {
            batched: false,
            labels: &|_| &[],
        };
        let encoded = Encoded::new(&response, &decoded.form, of_model).unwrap();
        for (input, blob) in decoded.request.inputs.iter().zip(encoded.blobs.unwrap()) {
            let tensor = input.tensor.data().unwrap().binding().host.unwrap();
            assert_eq!(tensor.as_ptr().addr() % 256, 0);
            assert!(allocator.find(tensor.as_ptr()).is_some());
            let Chunk::View(view) = blob else {
                panic!("{blob:?}")
            };
            assert_eq!(view.binding().host, Some(tensor));
        }
        assert_eq!(allocator.stats().live.value, 12 + 16);
    }
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn a_shape_that_the_text_cannot_fill_takes_no_memory() {
    let allocator = Allocator::host().unwrap();
    let model = model(&[(DataType::Fp32, &[-1])]);
    let limits = Limits::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for body in [
        r#"{"inputs":[{"name":"INPUT0","shape":[500000000],"datatype":"FP32","data":[1,2,3]}]}"#,
        r#"{"inputs":[{"data":[1,2,3],"name":"INPUT0","shape":[500000000],"datatype":"FP32"}]}"#,
        r#"{"inputs":[{"name":"INPUT0","shape":[500000000],"datatype":"FP32","parameters":{"binary_data_size":2000000000}}]}"#,
    ] {
        let context = Context {
            model: &model,
            allocator: &allocator,
            limits: &limits,
            arrival: Instant::now(),
        };
        let mut reader = MemoryBody {
            bytes: body.as_bytes(),
            sized: true,
        };
        let error = runtime
            .block_on(request::read(&mut reader, Layout::Json, context))
            .unwrap_err();
        assert_eq!(error.status(), 400);
        assert!(error.message().contains("'INPUT0'"), "{error}");
    }
    assert_eq!(allocator.stats().allocations, 0);
}

#[test]
fn an_error_gives_back_what_was_read() {
    let live = || super::allocator().stats().live.value;
    let model = model(&[(DataType::Fp32, &[-1]), (DataType::Int64, &[-1])]);
    let before = live();
    let body = [HEAD.as_bytes(), &[7; 11]].concat();
    exchange(&model, Some(&HEAD.len().to_string()), &body).unwrap_err();
    assert!(live() <= before);
}
