#!/usr/bin/env python3
"""Runs models through onnxruntime's own Python API, for comparison.

Reads one case per line from standard input:

    CASE MODEL.onnx NAME:TYPE:DIMxDIM...[,NAME:TYPE:DIMxDIM...]

and writes OUTPUT_DIR/CASE/manifest with a line `input|output NAME TYPE DIMxDIM FILE` per tensor,
each file the tensor's bytes as they go over the wire. Inputs are random from a seed that is the
case's name.
"""

import pathlib
import struct
import sys
import zlib

import numpy as np
import onnxruntime

TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
STRINGS = ["", "a", "Größe", "with\ttab and\nline", "日本語", "x" * 300]


def random_tensor(random, data_type, shape):
    if data_type == "BYTES":
        picks = random.integers(0, len(STRINGS), shape)
        return np.array([STRINGS[pick] for pick in picks.flat], dtype=np.object_).reshape(shape)
    dtype = np.dtype(TYPES[data_type])
    if dtype == np.bool_:
        return random.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return random.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return random.standard_normal(shape).astype(dtype)


def wire(array):
    if array.dtype == np.object_:
        strings = [text.encode() if isinstance(text, str) else bytes(text) for text in array.flat]
        return b"".join(struct.pack("<I", len(text)) + text for text in strings)
    return np.ascontiguousarray(array).tobytes()


def type_name(array):
    return next(name for name, dtype in TYPES.items() if array.dtype == np.dtype(dtype))


def main():
    output_dir = pathlib.Path(sys.argv[1])
    sessions = {}
    for line in sys.stdin:
        case, model, specs = line.rstrip("\n").split(" ", 2)
        if model not in sessions:
            sessions[model] = onnxruntime.InferenceSession(
                model, providers=["CPUExecutionProvider"])
        session = sessions[model]
        random = np.random.default_rng(zlib.crc32(case.encode()))
        feeds = {}
        for spec in specs.split(","):
            name, data_type, dims = spec.rsplit(":", 2)
            shape = [int(dim) for dim in dims.split("x") if dim]
            feeds[name] = random_tensor(random, data_type, shape)
        names = [output.name for output in session.get_outputs()]
        results = dict(zip(names, session.run(names, feeds)))

        folder = output_dir / case
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for side, tensors in (("input", feeds), ("output", results)):
            for index, (name, array) in enumerate(tensors.items()):
                file = f"{side}{index}.bin"
                (folder / file).write_bytes(wire(array))
                shape = "x".join(str(size) for size in array.shape)
                lines.append(f"{side} {name} {type_name(array)} {shape} {file}\n")
        (folder / "manifest").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
