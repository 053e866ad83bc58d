"""Finds a scene's coloured shapes in the pixels of a picture."""

import io
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus.demo.scenes import PAINT, Box, Colour, Fact, Position, SceneObject, Shape, silhouette

MAX_PIXELS = 16_000_000
RETINA = 256  # pictures of all sizes are looked at in this many pixels a side
OBJECTS_AT_MOST = 9
SMALLEST_AREA = 150  # retina pixels; the smallest star has about 500
TEMPLATE = 24  # silhouettes are compared in this many pixels a side
SILHOUETTES = {shape: silhouette(shape, TEMPLATE) for shape in Shape}

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]


class UnreadableImageError(ValueError):
    """The bytes are not a picture that can be looked at; the message says why."""


def look(data: bytes) -> tuple[SceneObject, ...]:
    """The shapes in a JPEG, PNG or WebP, in reading order, with boxes in the picture's own pixels.

    A picture that is no scene gives whatever stands out of its background, or nothing.
    Raises UnreadableImageError.
    """
    pixels, (width, height) = _decode(data)
    background = np.median(np.concatenate((pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3))), axis=0)
    contrast = np.linalg.norm(pixels - background, axis=2)
    blobs = sorted(_blobs(contrast > 45), key=lambda blob: -int(blob[1].sum()))[:OBJECTS_AT_MOST]
    found = [_object(pixels, contrast, box, mask) for box, mask in blobs]
    scaled = [SceneObject(thing.fact, _scale(thing.box, width, height)) for thing in found]
    return tuple(sorted(scaled, key=lambda thing: (thing.fact.position.cell, thing.box)))


def _decode(data: bytes) -> tuple[Pixels, tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            size = image.size
            if size[0] * size[1] > MAX_PIXELS:
                raise UnreadableImageError(
                    f"The image has more than {MAX_PIXELS} pixels. Send a smaller one."
                )
            small = image.convert("RGB").resize((RETINA, RETINA), Image.Resampling.BOX)
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        raise UnreadableImageError("The image cannot be decoded. Send a JPEG, PNG or WebP.") from error
    return np.asarray(small, dtype=np.float32), size


def _runs(mask: Mask) -> Iterator[tuple[int, int, int]]:
    """(row, first column, column after the last) of each horizontal run."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    yield from zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)


def _blobs(mask: Mask) -> Iterator[tuple[Box, Mask]]:
    """The connected components that are large enough, each with its box and its mask inside that box."""
    runs = list(_runs(mask))
    parent = list(range(len(runs)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    above: list[int] = []
    last_row = -2
    for row, group in itertools.groupby(range(len(runs)), key=lambda k: runs[k][0]):
        here = list(group)
        for k, j in itertools.product(here, above if row == last_row + 1 else []):
            if runs[k][1] < runs[j][2] and runs[j][1] < runs[k][2]:
                parent[root(k)] = root(j)
        above, last_row = here, row

    members: dict[int, list[tuple[int, int, int]]] = {}
    for k, run in enumerate(runs):
        members.setdefault(root(k), []).append(run)
    for blob in members.values():
        if sum(end - start for _, start, end in blob) >= SMALLEST_AREA:
            yield _cut(blob)


def _cut(blob: list[tuple[int, int, int]]) -> tuple[Box, Mask]:
    top, bottom = blob[0][0], blob[-1][0] + 1
    left, right = min(start for _, start, _ in blob), max(end for _, _, end in blob)
    mask = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for row, start, end in blob:
        mask[row - top, start - left : end - left] = True
    return Box(left, top, right - left, bottom - top), mask


def _object(pixels: Pixels, contrast: NDArray[np.float32], box: Box, mask: Mask) -> SceneObject:
    window = np.s_[box.y : box.y + box.height, box.x : box.x + box.width]
    inside = contrast[window]
    # Blurred edges lie between background and paint: the core is what is clearly paint.
    core = mask & (inside > 0.8 * np.median(inside[mask]))
    colour = _nearest_colour(np.median(pixels[window][core], axis=0))
    row = min(2, int((box.y + box.height / 2) * 3 / RETINA))
    column = min(2, int((box.x + box.width / 2) * 3 / RETINA))
    return SceneObject(Fact(_shape(mask), colour, Position.at(row, column)), box)


def _nearest_colour(rgb: NDArray[np.float32]) -> Colour:
    return min(PAINT, key=lambda colour: float(np.linalg.norm(rgb - np.array(PAINT[colour]))))


def _shape(mask: Mask) -> Shape:
    """The shape whose silhouette covers the same parts of its box."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((TEMPLATE, TEMPLATE), Image.Resampling.BOX)
    seen = np.asarray(grey, dtype=np.float32) / 255
    return min(SILHOUETTES, key=lambda shape: float(np.square(seen - SILHOUETTES[shape]).mean()))


def _scale(box: Box, width: int, height: int) -> Box:
    x, y = box.x * width / RETINA, box.y * height / RETINA
    right, bottom = (box.x + box.width) * width / RETINA, (box.y + box.height) * height / RETINA
    return Box(round(x), round(y), round(right) - round(x), round(bottom) - round(y))
