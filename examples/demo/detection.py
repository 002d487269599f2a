"""Text detection: the picture as the model wants it, and boxes out of the map it answers."""

from dataclasses import dataclass

import numpy as np

MODEL = "text_detection"
SIDE_MULTIPLE = 32  # the network halves the picture five times
PIXEL_PROBABILITY_MIN = 0.3
BOX_PROBABILITY_MIN = 0.5
BOX_SIDE_MIN = 3
# The network is trained on text areas shrunk by this much; boxes grow back by area * ratio / perimeter.
UNCLIP_RATIO = 1.6


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the picture; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def preprocess(picture):
    """Returns the picture as a normalised FP32 tensor [1, 3, height, width], blue first as in training."""
    size = [max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in picture.size]
    pixels = np.asarray(picture.resize(size), dtype=np.float32)[:, :, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 127.5 - 1.0)


def boxes(probability, picture_size):
    """Finds the boxes of text lines in a map [height, width] of the probability that a pixel is text.

    Lines are taken to be horizontal, upright or upside down, so a box is the bounding rectangle of a region of text
    pixels. Boxes come in reading order, from top to bottom.
    """
    map_height, map_width = probability.shape
    scale_x, scale_y = picture_size[0] / map_width, picture_size[1] / map_height
    found = []
    for left, top, right, bottom in _regions(probability > PIXEL_PROBABILITY_MIN):
        width, height = right - left, bottom - top
        if min(width, height) < BOX_SIDE_MIN:
            continue
        if probability[top:bottom, left:right].mean() < BOX_PROBABILITY_MIN:
            continue
        grow = width * height * UNCLIP_RATIO / (2 * (width + height))
        found.append(
            Box(
                left=max(0, round((left - grow) * scale_x)),
                top=max(0, round((top - grow) * scale_y)),
                right=min(picture_size[0], round((right + grow) * scale_x)),
                bottom=min(picture_size[1], round((bottom + grow) * scale_y)),
            )
        )
    return sorted(found, key=lambda box: (box.top, box.left))


def _regions(mask):
    """Bounding rectangles of the regions of touching true pixels (diagonals touch).

    Works on the runs of each row instead of on pixels: a run joins the runs of the row above that it touches.
    """
    parent, bounds = [], []

    def root(index):
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    above = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0))
        current = []
        for start, end in zip(edges[0::2].tolist(), edges[1::2].tolist()):
            index = len(parent)
            parent.append(index)
            bounds.append((start, row, end, row + 1))
            for other_start, other_end, other in above:
                if other_start <= end and start <= other_end:
                    a, b = sorted((root(index), root(other)))
                    if a != b:
                        parent[b] = a
                        bounds[a] = _union(bounds[a], bounds[b])
            current.append((start, end, index))
        above = current
    return [bounds[index] for index in range(len(parent)) if parent[index] == index]


def _union(a, b):
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
