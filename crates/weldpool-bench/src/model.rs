//! Writes the small ONNX models that the servers run: one node, dynamic one-dimensional tensors.
//!
//! An ONNX file is a protobuf message; a model of one node needs six message types and two kinds of field, so
//! they are written here and neither Python nor a protobuf compiler is needed to run a benchmark.

/// An element type, by its number in ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floating point.
    Fp32 = 1,
    /// 64-bit integer.
    Int64 = 7,
    /// Strings, which the protocol calls BYTES.
    Bytes = 8,
}

impl Element {
    /// The name in a model's configuration.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::Fp32 => "TYPE_FP32",
            Self::Int64 => "TYPE_INT64",
            Self::Bytes => "TYPE_STRING",
        }
    }
}

/// A model of one node: `inputs` tensors of shape `[-1]` in, one out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneNode {
    /// Operator of the default domain, such as `Identity`.
    pub operator: &'static str,
    /// Element type of all tensors.
    pub element: Element,
    /// Number of inputs, named `INPUT0` and so on; the output is `OUTPUT0`.
    pub inputs: usize,
}

/// Versions that every operator used here has kept its meaning in.
const IR_VERSION: u64 = 8;
const OPSET: u64 = 14;

impl OneNode {
    /// The model as an ONNX file.
    pub fn onnx(&self) -> Vec<u8> {
        let inputs: Vec<String> = (0..self.inputs)
            .map(|index| format!("INPUT{index}"))
            .collect();
        let mut node = Message::default();
        for input in &inputs {
            node.bytes(1, input.as_bytes());
        }
        node.bytes(2, b"OUTPUT0").bytes(4, self.operator.as_bytes());
        let mut graph = Message::default();
        graph.message(1, &node).bytes(2, b"graph");
        for input in &inputs {
            graph.message(11, &self.value(input));
        }
        graph.message(12, &self.value("OUTPUT0"));
        let mut opset = Message::default();
        opset.number(2, OPSET);
        let mut model = Message::default();
        model
            .number(1, IR_VERSION)
            .message(7, &graph)
            .message(8, &opset);
        model.0
    }

    /// The configuration that serves the model unbatched on `backend`.
    pub fn config(&self, backend: &str) -> String {
        let kind = self.element.config_name();
        let inputs: Vec<String> = (0..self.inputs)
            .map(|index| format!("{{ name: \"INPUT{index}\" data_type: {kind} dims: [ -1 ] }}"))
            .collect();
        format!(
            "backend: \"{backend}\"\nmax_batch_size: 0\ninput [ {} ]\n\
             output [ {{ name: \"OUTPUT0\" data_type: {kind} dims: [ -1 ] }} ]\n",
            inputs.join(", ")
        )
    }

    /// A tensor's declaration: its name, element type and one free dimension.
    fn value(&self, name: &str) -> Message {
        let mut dimension = Message::default();
        dimension.bytes(2, b"N");
        let mut shape = Message::default();
        shape.message(1, &dimension);
        let mut tensor = Message::default();
        tensor.number(1, self.element as u64).message(2, &shape);
        let mut kind = Message::default();
        kind.message(1, &tensor);
        let mut value = Message::default();
        value.bytes(1, name.as_bytes()).message(2, &kind);
        value
    }
}

/// A protobuf message being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: u64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn message(&mut self, field: u64, value: &Self) -> &mut Self {
        self.bytes(field, &value.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_varints() {
        let mut message = Message::default();
        message.number(1, 300).bytes(2, b"ab");
        assert_eq!(message.0, [0x08, 0xac, 0x02, 0x12, 2, b'a', b'b']);
    }

    #[test]
    fn the_model_names_its_parts() {
        let add = OneNode {
            operator: "Add",
            element: Element::Int64,
            inputs: 2,
        };
        let onnx = add.onnx();
        for part in ["Add", "INPUT0", "INPUT1", "OUTPUT0"] {
            assert!(
                onnx.windows(part.len())
                    .any(|window| window == part.as_bytes()),
                "{part}"
            );
        }
        let config = add.config("onnxruntime");
        assert!(
            config.contains("name: \"INPUT1\" data_type: TYPE_INT64 dims: [ -1 ]"),
            "{config}"
        );
    }
}
