"""What happens to one cut-out text line: which way up it is, and what it says."""

import numpy as np

DIRECTION_MODEL = "text_direction"
RECOGNITION_MODEL = "text_recognition"
DIRECTION_SIZE = (192, 48)
RECOGNITION_HEIGHT = 48
RECOGNITION_WIDTH_MIN = 320


def direction_batch(crops):
    """Returns the lines as one FP32 tensor [lines, 3, 48, 192], stretched no further than their shape allows."""
    width, height = DIRECTION_SIZE
    return np.stack([_normalised(crop, height, width) for crop in crops])


def upside_down(scores):
    """Says for each line, from scores [lines, 2], whether it has to be turned by 180 degrees."""
    return (scores[:, 1] > scores[:, 0]).tolist()


def recognition_batch(crops):
    """Returns the lines as one FP32 tensor [lines, 3, 48, width of the longest], padded on the right."""
    longest = max(crop.width / crop.height for crop in crops)
    width = max(RECOGNITION_WIDTH_MIN, int(RECOGNITION_HEIGHT * longest))
    return np.stack([_normalised(crop, RECOGNITION_HEIGHT, width) for crop in crops])


def read(scores, alphabet):
    """Reads the text of each line out of scores [lines, steps, symbols]: a symbol counts once per run (CTC)."""
    texts = []
    for steps in scores.argmax(axis=2):
        changed = np.concatenate(([True], steps[1:] != steps[:-1]))
        texts.append("".join(alphabet[symbol] for symbol in steps[changed]))
    return texts


def alphabet(labels):
    """The recogniser's symbols by index: the empty one of CTC, the model's characters, the space."""
    return ["", *labels, " "]


def _normalised(crop, height, width):
    inner = min(width, max(1, round(height * crop.width / crop.height)))
    pixels = np.asarray(crop.resize((inner, height)), dtype=np.float32)[:, :, ::-1]
    tensor = np.zeros((3, height, width), dtype=np.float32)
    tensor[:, :, :inner] = pixels.transpose(2, 0, 1) / 127.5 - 1.0
    return tensor
