//! The metadata of the server and of its models, as JSON.

use serde::Serialize;

use crate::service::types::{ModelMetadata, ServerMetadata, TensorMeta};

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    version: &'a str,
    extensions: &'a [String],
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    versions: &'a [String],
    platform: &'a str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
}

impl<'a> Tensor<'a> {
    fn all(tensors: &'a [TensorMeta]) -> Vec<Tensor<'a>> {
        tensors
            .iter()
            .map(|tensor| Tensor {
                name: &tensor.name,
                datatype: tensor.datatype.name(),
                shape: &tensor.shape,
            })
            .collect()
    }
}

/// What the server tells about itself.
#[must_use]
pub(crate) fn server(metadata: &ServerMetadata) -> Vec<u8> {
    let ServerMetadata {
        name,
        version,
        extensions,
    } = metadata;
    json(&Server {
        name,
        version,
        extensions,
    })
}

/// What a model tells about itself.
#[must_use]
pub(crate) fn model(metadata: &ModelMetadata) -> Vec<u8> {
    let ModelMetadata {
        name,
        versions,
        platform,
        inputs,
        outputs,
    } = metadata;
    json(&Model {
        name,
        versions,
        platform,
        inputs: Tensor::all(inputs),
        outputs: Tensor::all(outputs),
    })
}

/// These types have neither maps nor anything else whose writing can fail.
pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use weldpool_engine::DataType;

    use super::*;

    #[test]
    fn members_stand_in_tritons_order() {
        let input = TensorMeta {
            name: "INPUT0".into(),
            datatype: DataType::Bytes,
            shape: vec![-1, 2],
        };
        let metadata = ModelMetadata {
            name: "m".into(),
            versions: vec!["1".into(), "3".into()],
            platform: "onnxruntime_onnx".into(),
            inputs: vec![input],
            outputs: vec![],
        };
        assert_eq!(
            String::from_utf8(model(&metadata)).unwrap(),
            r#"{"name":"m","versions":["1","3"],"platform":"onnxruntime_onnx","inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[-1,2]}],"outputs":[]}"#
        );
        let metadata = ServerMetadata {
            name: "s".into(),
            version: "1".into(),
            extensions: vec!["e".into()],
        };
        assert_eq!(
            server(&metadata),
            br#"{"name":"s","version":"1","extensions":["e"]}"#
        );
    }
}
