"""Small ONNX models for the tests, and a repository of them."""

import onnx
from onnx import TensorProto, helper

TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def value(name, datatype, shape):
    return helper.make_tensor_value_info(name, TYPES[datatype], shape)


def model(name, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(datatype, shape):
    """Returns its input."""
    return model(
        "identity", [helper.make_node("Identity", ["x"], ["y"])], [value("x", datatype, shape)], [value("y", datatype, shape)]
    )


def add_sub(shape):
    """The sum and the difference of its inputs."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return model(
        "add_sub", nodes, [value("a", "FP32", shape), value("b", "FP32", shape)],
        [value("sum", "FP32", shape), value("difference", "FP32", shape)],
    )


def non_zero():
    """The positions of what is not zero: an output whose shape depends on values."""
    return model(
        "non_zero", [helper.make_node("NonZero", ["x"], ["y"])], [value("x", "FP32", ["n"])], [value("y", "INT64", [1, "m"])]
    )


def write(repository, name, proto, config=None, version=1):
    """Adds a model to a repository; without a configuration Triton has it completed."""
    home = repository / name
    (home / str(version)).mkdir(parents=True, exist_ok=True)
    if proto is not None:
        onnx.save(proto, home / str(version) / "model.onnx")
    text = f'name: "{name}"\nbackend: "metal_mps"\n' + (config or "")
    (home / "config.pbtxt").write_text(text)
