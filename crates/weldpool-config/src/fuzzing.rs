//! What the fuzz target of configurations runs, and a test beside it.

use weldpool_engine::{DataType, Dim, TensorSpec};

use crate::{Context, Host, ModelSignature, json, prepare};

/// Takes any bytes the way of the configuration that a backend in Triton receives: nothing may panic, and what is
/// handed back to Triton must be readable and complete.
pub fn backend_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(lenient) = json::parse_lenient(text) else {
        return;
    };
    let context = Context::new("m")
        .host(Host::Triton)
        .engine_parameters(["session.threads"]);
    let Ok(prepared) = prepare(lenient.config, &context) else {
        return;
    };
    let spec = |name: &str, dims: &[Dim]| TensorSpec {
        name: name.to_owned(),
        data_type: DataType::Fp32,
        dims: dims.to_vec(),
    };
    let batch = || Dim::Symbolic(None);
    let completed = prepared.complete(ModelSignature {
        inputs: &[spec("x", &[batch(), Dim::Known(3)])],
        optional_inputs: &[spec("scale", &[Dim::Known(1)])],
        outputs: &[spec("y", &[batch()])],
    });
    let Ok(served) = completed else {
        return;
    };
    let handed_back = json::completed(text, served.config());
    let handed_back = handed_back.unwrap_or_else(|error| panic!("what was read is read: {error}"));
    let again = json::parse_lenient(&handed_back)
        .unwrap_or_else(|error| panic!("what was completed is readable: {error}"));
    assert_eq!(again.config.input, served.config().input);
    assert_eq!(again.config.output, served.config().output);
    assert_eq!(again.config.max_batch_size, served.config().max_batch_size);
}
