"""Lays out the three OCR models as Triton expects a model repository."""

import shutil
from pathlib import Path

import onnxruntime

import detection
import lines

# Input and output are written out here, as one would for a model whose file says too little.
DETECTION_CONFIG = """\
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] } ]
output [ { name: "sigmoid_0.tmp_0" data_type: TYPE_FP32 dims: [ 1, -1, -1 ] } ]
"""

# Partial: the server takes input and output from the model.
DIRECTION_CONFIG = """\
max_batch_size: 16
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""

# (name, file of the model, text of config.pbtxt or None for a model without any)
MODELS = (
    (detection.MODEL, "det.onnx", DETECTION_CONFIG),
    (lines.DIRECTION_MODEL, "cls.onnx", DIRECTION_CONFIG),
    (lines.RECOGNITION_MODEL, "rec.onnx", None),
)


def lay_out(models: Path, repository: Path, backend: str | None = None):
    """Makes the repository anew: NAME/1/model.onnx, with NAME/config.pbtxt where there is one.

    With `backend` every model has a configuration that names it, as Triton needs for a backend that it does not know.
    """
    shutil.rmtree(repository, ignore_errors=True)
    for name, file, config in MODELS:
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / file, version / "model.onnx")
        if backend is not None:
            config = f'backend: "{backend}"\n' + (config or "")
        elif config is not None:
            config = 'backend: "onnxruntime"\n' + config
        if config is not None:
            (repository / name / "config.pbtxt").write_text(config)


def labels(models: Path):
    """The characters that the recogniser tells apart; its file carries them, one per line."""
    session = onnxruntime.InferenceSession(models / "rec.onnx", providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map["character"].rstrip("\n").split("\n")
