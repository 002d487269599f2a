#!/usr/bin/env python3
"""Makes small ONNX models for tests and benchmarks, the same bytes on every run.

Writes OUTPUT_DIR/NAME/1/model.onnx, the layout of a Triton model repository, or with --flat
OUTPUT_DIR/NAME.onnx. Needs the packages `onnx` and `numpy`.
"""

import argparse
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8

# Triton's element types, by the names of the protocol.
ELEMENT_TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "bytes": TensorProto.STRING,
    "bf16": TensorProto.BFLOAT16,
}


def model(name, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(weights))
    made = helper.make_model(
        graph,
        producer_name="weldpool-examples",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(made, {"purpose": "test"})
    onnx.checker.check_model(made, full_check=True)
    return made


def value(name, element_type, shape):
    return helper.make_tensor_value_info(name, element_type, shape)


class Weights:
    """Random weights from a seed of their own, so that models do not depend on one another."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.made = []

    def normal(self, name, *shape):
        fan_in = int(np.prod(shape[1:])) or 1
        array = self.random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        self.made.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def constant(self, name, array):
        self.made.append(numpy_helper.from_array(array, name))
        return name


def simple_cnn():
    """Two convolutions, pooling and a classifier over 10 classes, for any batch of 3x32x32."""
    w = Weights(1)
    nodes = [
        helper.make_node("Conv", ["x", w.normal("w1", 8, 3, 3, 3), w.normal("b1", 8)], ["c1"],
                         pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", w.normal("w2", 16, 8, 3, 3), w.normal("b2", 16)], ["c2"],
                         pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", w.normal("w3", 10, 16), w.normal("b3", 10)], ["logits"],
                         transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return model(
        "simple_cnn",
        nodes,
        [value("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [value("probabilities", TensorProto.FLOAT, ["batch", 10])],
        w.made,
    )


def residual_block():
    """One residual block with normalisation, of a fixed shape."""
    w = Weights(2)
    nodes = []
    source = "x"
    for index in (1, 2):
        nodes.append(helper.make_node("Conv", [source, w.normal(f"w{index}", 8, 8, 3, 3)],
                                      [f"c{index}"], pads=[1, 1, 1, 1]))
        scale = w.constant(f"scale{index}", np.ones(8, np.float32))
        rest = [w.normal(f"{part}{index}", 8) for part in ("shift", "mean")]
        variance = w.constant(f"variance{index}", np.full(8, 0.5, np.float32))
        nodes.append(helper.make_node("BatchNormalization",
                                      [f"c{index}", scale, *rest, variance], [f"n{index}"]))
        source = f"n{index}"
        if index == 1:
            nodes.append(helper.make_node("Relu", [source], ["r1"]))
            source = "r1"
    nodes.append(helper.make_node("Add", [source, "x"], ["sum"]))
    nodes.append(helper.make_node("Relu", ["sum"], ["y"]))
    shape = [1, 8, 16, 16]
    return model("residual_block", nodes, [value("x", TensorProto.FLOAT, shape)],
                 [value("y", TensorProto.FLOAT, shape)], w.made)


def dynamic_batch():
    """A two-layer perceptron for any batch, and the batch's sum beside it."""
    w = Weights(3)
    nodes = [
        helper.make_node("Gemm", ["x", w.normal("w1", 32, 16), w.normal("b1", 32)], ["h"],
                         transB=1),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", w.normal("w2", 4, 32), w.normal("b2", 4)], ["y"], transB=1),
        helper.make_node("ReduceSum", ["y", w.constant("axis", np.array([0], np.int64))], ["sum"],
                         keepdims=1),
    ]
    return model(
        "dynamic_batch",
        nodes,
        [value("x", TensorProto.FLOAT, ["batch", 16])],
        [value("y", TensorProto.FLOAT, ["batch", 4]), value("sum", TensorProto.FLOAT, [1, 4])],
        w.made,
    )


def add_sub():
    """Sum and difference of two inputs: two inputs and two outputs of a fixed shape."""
    shape = [1, 16]
    return model(
        "add_sub",
        [helper.make_node("Add", ["a", "b"], ["sum"]),
         helper.make_node("Sub", ["a", "b"], ["difference"])],
        [value("a", TensorProto.INT32, shape), value("b", TensorProto.INT32, shape)],
        [value("sum", TensorProto.INT32, shape), value("difference", TensorProto.INT32, shape)],
    )


def non_zero(name="non_zero", positions=None):
    """The positions of elements that are not zero: an output whose shape depends on values."""
    return model(
        name,
        [helper.make_node("NonZero", ["x"], ["positions"])],
        [value("x", TensorProto.FLOAT, ["count"])],
        [value("positions", TensorProto.INT64, [1, positions])],
    )


def passthrough():
    """An input that is an output as well, beside one that is computed from it."""
    dims = ["batch", 4]
    one = Weights(0)
    return model(
        "passthrough",
        [helper.make_node("Add", ["x", one.constant("one", np.ones(1, np.float32))], ["y"])],
        [value("x", TensorProto.FLOAT, dims)],
        [value("x", TensorProto.FLOAT, dims), value("y", TensorProto.FLOAT, dims)],
        one.made,
    )


def large_conv():
    """Convolutions whose intermediate tensors are far larger than input and output."""
    w = Weights(4)
    nodes = [
        helper.make_node("Conv", ["x", w.normal("w1", 64, 1, 3, 3)], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c1"], ["s1"]),
        helper.make_node("Conv", ["s1", w.normal("w2", 1, 64, 3, 3)], ["y"], pads=[1, 1, 1, 1]),
    ]
    dims = ["batch", 1, "height", "width"]
    return model("large_conv", nodes, [value("x", TensorProto.FLOAT, dims)],
                 [value("y", TensorProto.FLOAT, dims)], w.made)


def identity(name, element_type, dims):
    """One Identity node."""
    return model(name, [helper.make_node("Identity", ["x"], ["y"])],
                 [value("x", element_type, dims)], [value("y", element_type, dims)])


def count_up():
    """Adds 1 to `start` as often as `count` says, one operator at a time: runs as long as wanted."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]),
         helper.make_node("Add", ["total", "one"], ["more"])],
        "step",
        [value("index", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []),
         value("total", TensorProto.FLOAT, [1])],
        [value("still", TensorProto.BOOL, []), value("more", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return model(
        "count_up",
        [helper.make_node("Loop", ["count", "", "start"], ["end"], body=body)],
        [value("count", TensorProto.INT64, []), value("start", TensorProto.FLOAT, [1])],
        [value("end", TensorProto.FLOAT, [1])],
    )


def scaled():
    """`x` times `scale`, which is 2 unless a request gives it: an initialiser that is an input as well."""
    return model("scaled", [helper.make_node("Mul", ["x", "scale"], ["y"])],
                 [value("x", TensorProto.FLOAT, ["count"]), value("scale", TensorProto.FLOAT, [1])],
                 [value("y", TensorProto.FLOAT, ["count"])],
                 [numpy_helper.from_array(np.full(1, 2, np.float32), "scale")])


def sequence():
    """A model whose output is a sequence of tensors, which no tensor protocol can carry."""
    made = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return model("sequence", [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
                 [value("x", TensorProto.FLOAT, [2, 3])], [made])


def models():
    yield simple_cnn()
    yield residual_block()
    yield dynamic_batch()
    yield add_sub()
    yield non_zero()
    yield large_conv()
    yield identity("string_identity", TensorProto.STRING, ["count"])
    yield identity("fp16_identity", TensorProto.FLOAT16, ["batch", 8])
    for name, element_type in ELEMENT_TYPES.items():
        yield identity(f"identity_{name}", element_type, ["batch", "count"])
    # For benchmarks: no computation, any size.
    yield identity("identity", TensorProto.FLOAT, ["batch", "count"])


def edge_cases():
    yield passthrough()
    yield count_up()
    yield scaled()
    yield identity("scalar", TensorProto.FLOAT, [])
    # Says that all elements are not zero, which is so at times.
    yield non_zero("misnamed", "count")
    # No server can serve this one.
    yield sequence()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=pathlib.Path, required=True, help="folder to write to")
    parser.add_argument("--flat", action="store_true",
                        help="write NAME.onnx instead of NAME/1/model.onnx")
    parser.add_argument("--edge-cases", action="store_true",
                        help="also make the models at the edge of what can be served, and beyond")
    parser.add_argument("--only", action="append", metavar="NAME",
                        help="make only this model; may be repeated")
    arguments = parser.parse_args()

    made = {entry.graph.name: entry for entry in models()}
    if arguments.edge_cases:
        made.update((entry.graph.name, entry) for entry in edge_cases())
    unknown = set(arguments.only or []) - made.keys()
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(made)}")
    for name, entry in made.items():
        if arguments.only and name not in arguments.only:
            continue
        if arguments.flat:
            path = arguments.output_dir / f"{name}.onnx"
        else:
            path = arguments.output_dir / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.SerializeToString(deterministic=True))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
