"""Starts `weldpool serve` on free ports, and makes repositories of identity models for it."""

import json
import pathlib
import subprocess
import time

import onnx
from onnx import TensorProto, helper

DATA = pathlib.Path(__file__).parent.parent / "data" / "triton-http"

ONNX_TYPES = {
    "TYPE_BOOL": TensorProto.BOOL,
    "TYPE_UINT8": TensorProto.UINT8,
    "TYPE_UINT16": TensorProto.UINT16,
    "TYPE_UINT32": TensorProto.UINT32,
    "TYPE_UINT64": TensorProto.UINT64,
    "TYPE_INT8": TensorProto.INT8,
    "TYPE_INT16": TensorProto.INT16,
    "TYPE_INT32": TensorProto.INT32,
    "TYPE_INT64": TensorProto.INT64,
    "TYPE_FP16": TensorProto.FLOAT16,
    "TYPE_FP32": TensorProto.FLOAT,
    "TYPE_FP64": TensorProto.DOUBLE,
    "TYPE_STRING": TensorProto.STRING,
    "TYPE_BF16": TensorProto.BFLOAT16,
}


def recorded_models():
    """The models that the recorded requests were sent to."""
    return json.loads((DATA / "models.json").read_text())


def identity(model):
    """An ONNX model that returns its inputs, with the names, types and shapes of `model`."""

    def value(tensor):
        dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
        shape = [f"{tensor['name']}_{axis}" if size < 0 else size for axis, size in enumerate(dims)]
        if model["max_batch_size"] > 0:
            shape.insert(0, "batch")
        return helper.make_tensor_value_info(tensor["name"], ONNX_TYPES[tensor["data_type"]], shape)

    nodes = [
        helper.make_node("Identity", [given["name"]], [made["name"]])
        for given, made in zip(model["input"], model["output"])
    ]
    graph = helper.make_graph(
        nodes, model["name"], [value(tensor) for tensor in model["input"]], [value(tensor) for tensor in model["output"]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def config(model, backend="onnxruntime"):
    """The model's config.pbtxt."""
    lines = [f'name: "{model["name"]}"', f'backend: "{backend}"', f'max_batch_size: {model["max_batch_size"]}']
    for direction in ("input", "output"):
        for tensor in model[direction]:
            fields = [f'name: "{tensor["name"]}"', f'data_type: {tensor["data_type"]}', f'dims: {tensor["dims"]}']
            if "reshape" in tensor:
                fields.append(f'reshape {{ shape: {tensor["reshape"]["shape"]} }}')
            if direction == "output" and "labels" in model:
                fields.append('label_filename: "labels.txt"')
            lines.append(f"{direction} {{ {' '.join(fields)} }}")
    if len(model["versions"]) > 1:
        lines.append("version_policy { all {} }")
    return "\n".join(lines) + "\n"


def write_recorded_repository(folder):
    for model in recorded_models():
        home = folder / model["name"]
        for version in model["versions"]:
            (home / version).mkdir(parents=True)
            onnx.save(identity(model), home / version / "model.onnx")
        (home / "config.pbtxt").write_text(config(model))
        if "labels" in model:
            (home / "labels.txt").write_text("\n".join(model["labels"]) + "\n")


class Server:
    """A running server; `http` and `metrics` are its addresses, HOST:PORT."""

    def __init__(self, program, repository, *options):
        self._process = subprocess.Popen(
            [program, "serve", "--model-repository", repository, "--http-address", "127.0.0.1", "--http-port", "0",
             "--metrics-port", "0", *options],
            stdout=subprocess.PIPE, text=True,
        )
        self.addresses = {}
        for line in self._process.stdout:
            words = line.split()
            if words and words[0] == "listening":
                self.addresses[words[1]] = words[2]
            if words == ["ready"]:
                break
        else:
            raise RuntimeError(f"the server ended before it was ready, with status {self._process.wait()}")
        self.http = self.addresses["http"]
        self.metrics = self.addresses["metrics"]

    @property
    def pid(self):
        return self._process.pid

    def stop(self, seconds=20):
        """Stops the server and returns its exit status."""
        self._process.terminate()
        started = time.monotonic()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the server did not stop in {time.monotonic() - started:.0f} s") from None
        finally:
            self._process.stdout.close()
