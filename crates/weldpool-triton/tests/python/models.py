"""Small ONNX models for the tests, and a repository of them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def non_zero(count="m"):
    """The positions of what is not zero: an output whose shape depends on values."""
    return model(
        "non_zero", [helper.make_node("NonZero", ["x"], ["y"])], [value("x", "FP32", ["n"])],
        [value("y", "INT64", [1, count])],
    )


def non_zero_rows():
    """The same, but one position a row: as many rows as there are, which is not the batch."""
    nodes = [helper.make_node("NonZero", ["x"], ["columns"]), helper.make_node("Transpose", ["columns"], ["y"])]
    return model("non_zero_rows", nodes, [value("x", "FP32", ["n", 3])], [value("y", "INT64", ["m", 2])])


def scaled():
    """`x` times `scale`, which is 2 unless it is given: an initialiser that is an input as well."""
    return model(
        "scaled", [helper.make_node("Mul", ["x", "scale"], ["y"])],
        [value("x", "FP32", ["n"]), value("scale", "FP32", [1])], [value("y", "FP32", ["n"])],
        [helper.make_tensor("scale", TensorProto.FLOAT, [1], [2.0])],
    )


def doubled(datatype, shape):
    """Its input twice along the last axis, which onnxruntime can do with every type."""
    return model(
        "doubled", [helper.make_node("Concat", ["x", "x"], ["y"], axis=-1)], [value("x", datatype, shape)],
        [value("y", datatype, [*shape[:-1], None])],
    )


def add(amount, shape=("n", 3)):
    """Adds a number."""
    nodes = [helper.make_node("Add", ["x", "amount"], ["y"])]
    amount = numpy_helper.from_array(np.array(amount, np.float32), "amount")
    return model("add", nodes, [value("x", "FP32", shape)], [value("y", "FP32", shape)], [amount])


def weights(size):
    """Multiplies by a square matrix, of which this many bytes come with the model."""
    side = int((size / 4) ** 0.5)
    matrix = numpy_helper.from_array(np.full((side, side), 1 / side, np.float32), "matrix")
    return model(
        "weights", [helper.make_node("MatMul", ["x", "matrix"], ["y"])], [value("x", "FP32", ["n", side])],
        [value("y", "FP32", ["n", side])], [matrix],
    )


def slow(size=256, batched=False):
    """Takes as long as the most of its input `rounds` says, some milliseconds each, and returns the input."""
    shape = ["n", 1] if batched else [1]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["state", "weights"], ["next"])],
        "body",
        [value("round", "INT64", []), value("go", "BOOL", []), value("state", "FP32", [size, size])],
        [value("go_on", "BOOL", []), value("next", "FP32", [size, size])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["rounds"], ["trips"], keepdims=0),
        helper.make_node("Loop", ["trips", "", "start"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["one"], to=TensorProto.INT64),
        helper.make_node("Mul", ["rounds", "one"], ["done"]),
    ]
    weights = numpy_helper.from_array(np.eye(size, dtype=np.float32), "weights")
    start = numpy_helper.from_array(np.ones((size, size), np.float32), "start")
    return model("slow", nodes, [value("rounds", "INT64", shape)], [value("done", "INT64", shape)], [weights, start])


def filled():
    """As many ones as its input says: an output whose size nobody knows before."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [helper.make_node("ConstantOfShape", ["count"], ["y"], value=one)]
    return model("filled", nodes, [value("count", "INT64", [1])], [value("y", "FP32", ["m"])])


def summed():
    """The sum of as many ones as its input says: a result that is small where the way to it is not."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["ones"], value=one),
        helper.make_node("Add", ["ones", "x"], ["more"]),
        helper.make_node("ReduceSum", ["more"], ["y"], keepdims=1),
    ]
    return model(
        "summed", nodes, [value("count", "INT64", [1]), value("x", "FP32", [1])], [value("y", "FP32", [1])]
    )


def write(repository, name, proto, config=None, version=1):
    """Adds a model to a repository; without a configuration Triton has it completed."""
    home = repository / name
    (home / str(version)).mkdir(parents=True, exist_ok=True)
    if proto is not None:
        onnx.save(proto, home / str(version) / "model.onnx")
    text = f'name: "{name}"\nbackend: "metal_mps"\n' + (config or "")
    (home / "config.pbtxt").write_text(text)


def tensors(**dims):
    """Inputs or outputs of a configuration: `name=(data type, dims)`, a reshape may follow."""
    made = []
    for name, (data_type, shape, *reshape) in dims.items():
        data_type = "STRING" if data_type == "BYTES" else data_type
        more = f" reshape {{ shape: {list(reshape[0])} }}" if reshape else ""
        made.append(f'{{ name: "{name}" data_type: TYPE_{data_type} dims: {list(shape)}{more} }}')
    return f"[ {', '.join(made)} ]\n"


def batching(size, delay_ms, preferred=None):
    """A configuration of batches; those of the preferred size, the largest if none is given, run at once."""
    return (
        f"max_batch_size: {size}\n"
        f"dynamic_batching {{ preferred_batch_size: [ {preferred or size} ] "
        f"max_queue_delay_microseconds: {delay_ms * 1000} }}\n"
    )


def parameter(name, text):
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'parameters {{ key: "{name}" value {{ string_value: "{text}" }} }}\n'
