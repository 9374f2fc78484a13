"""Map classes and their colours; classification of pixels.

Colours are those of protocol maps-256 (docs/protocols.md): the flat fills of the Google maps in the "maps"
pairs of Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv:1611.07004),
as they stand in the JPEG files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terramorph.errors import RasterError


class MapClass(NamedTuple):
    """A class of map content.

    Attributes:
        name: Name for people and for JSON.
        rgb: Its fill colour, 0-255.
    """

    name: str
    rgb: tuple[int, int, int]


MAP_CLASSES: tuple[MapClass, ...] = (
    MapClass("land", (232, 228, 220)),
    MapClass("building", (242, 241, 235)),
    MapClass("road", (254, 254, 253)),
    MapClass("highway", (252, 164, 44)),
    MapClass("arterial", (252, 228, 116)),
    MapClass("park", (203, 223, 175)),
    MapClass("water", (178, 209, 254)),
)
"""The seven classes of protocol maps-256; a class index is a place in this tuple."""

CLASSES: tuple[str, ...] = tuple(c.name for c in MAP_CLASSES)
"""Class names by index."""

ROADS: tuple[int, ...] = tuple(CLASSES.index(name) for name in ("road", "highway", "arterial"))
"""Indices of the classes that are roads of some kind."""

PALETTE: NDArray[np.uint8] = np.array([c.rgb for c in MAP_CLASSES], np.uint8)
"""uint8 (7, 3): RGB by class index. Read-only."""
PALETTE.setflags(write=False)

NEAR = 4
"""Grey levels: a pixel fits a palette when every channel is this near to a colour, as flat fills in a JPEG are."""
_APART = 6  # grey levels between the colours of a measured palette and what is counted to each
_LEAST = 0.005  # share of all pixels that makes a colour one of a measured palette
_MOST = 12  # colours of a measured palette
_EVEN = 2  # grey levels between neighbours in a flat fill

_CHUNK = 1 << 16  # pixels at a time: 7 float32 scores each stay within a core's cache


@dataclass(frozen=True)
class Palette:
    """Colours, and the map class that each stands for.

    Attributes:
        name: Name of the style, or ``measured``.
        classes: The classes, each with the colour it is shown in.
        colours: uint8 ``(K, 3)``, RGB.
        index: uint8 ``(K,)``, the class of each colour.
    """

    name: str
    classes: tuple[MapClass, ...]
    colours: NDArray[np.uint8]
    index: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by index."""
        return tuple(one.name for one in self.classes)

    @property
    def named(self) -> bool:
        """Whether the classes are the seven of protocol maps-256, not just colours."""
        return self.names == CLASSES

    def classify(self, rgb: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the class of the colour nearest to each pixel: uint8 ``(3, H, W)`` or ``(H, W, 3)`` -> uint8 ``(H,
        W)``."""
        found: NDArray[np.uint8] = self.index[classify(rgb, self.colours)]
        return found

    def margin(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return how much nearer each pixel is to its class than to the next: uint8 ``(3, H, W)`` -> float32 ``(H,
        W)``.

        Of the distances a and b to the nearest colour and to that of the next class it is (b - a) / (b + a): 1 at the
        colour itself, 0 halfway between two.
        """
        out = np.empty(rgb.shape[1:], np.float32)
        rows = max(1, _CHUNK // max(rgb.shape[2], 1))
        for top in range(0, rgb.shape[1], rows):
            part = rgb[:, top : top + rows].reshape(3, -1).astype(np.float32)
            nearest = np.full((len(self.classes), part.shape[1]), np.inf, np.float32)
            for colour, number in zip(self.colours.astype(np.float32), self.index, strict=True):
                apart = np.sqrt(((part - colour[:, None]) ** 2).sum(axis=0))
                np.minimum(nearest[number], apart, out=nearest[number])
            first, second = np.partition(nearest, 1, axis=0)[:2]
            out[top : top + rows] = ((second - first) / np.maximum(second + first, 1e-6)).reshape(-1, rgb.shape[2])
        return out

    def near(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return whether each of uint8 ``(N, 3)`` is within `NEAR` of a colour, bool ``(N,)``."""
        like = np.zeros(len(pixels), np.bool_)
        for colour in self.colours:
            like |= _within(pixels, colour, NEAR)
        return like


CLASSIC = Palette("classic", MAP_CLASSES, PALETTE, np.arange(len(MAP_CLASSES), dtype=np.uint8))
"""The palette of protocol maps-256."""


def measure_palette(images: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> tuple[Palette | None, float]:
    """Measure the flat colours that maps are drawn in, most frequent first; their meaning is unknown.

    Only pixels equal to their lower and right neighbours count: many in a drawing, few in a photograph.

    Args:
        images: uint8 ``(3, H, W)`` and bool ``(H, W)``, True where valid; all together a sample of a set.

    Returns:
        A palette whose classes are called by their colours, as ``#f8f9fa``, or None with fewer than two colours; and
        the share of valid pixels that lie in flat fills of these colours, 0 to 1.
    """
    parts = [image[:, _flat(image) & mask].T for image, mask in images]
    rest = np.concatenate(parts) if parts else np.empty((0, 3), np.uint8)
    total = sum(int(mask.sum()) for _, mask in images)
    found, covered = list[NDArray[np.uint8]](), 0
    while len(rest) and len(found) < _MOST:
        values, counts = np.unique(rest.astype(np.int64) @ (1 << 16, 1 << 8, 1), return_counts=True)
        code = int(values[counts.argmax()])
        colour = np.array((code >> 16, code >> 8 & 255, code & 255), np.uint8)
        like = _within(rest, colour, _APART)
        if like.sum() < _LEAST * total:
            break
        found.append(colour)
        covered += int(like.sum())
        rest = rest[~like]
    if len(found) < 2:
        return None, covered / max(total, 1)
    colours = np.stack(found)
    classes = tuple(MapClass("#{:02x}{:02x}{:02x}".format(*c), (int(c[0]), int(c[1]), int(c[2]))) for c in colours)
    return Palette("measured", classes, colours, np.arange(len(found), dtype=np.uint8)), covered / total


def _flat(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where uint8 ``(3, H, W)`` equals its lower and right neighbours."""
    values = image.astype(np.int16)
    flat = np.zeros(image.shape[1:], np.bool_)
    here = values[:, :-1, :-1]
    down, right = np.abs(values[:, 1:, :-1] - here), np.abs(values[:, :-1, 1:] - here)
    flat[:-1, :-1] = np.maximum(down, right).max(axis=0) <= _EVEN
    return flat


def _within(pixels: NDArray[np.uint8], colour: NDArray[np.uint8], levels: int) -> NDArray[np.bool_]:
    """Return whether every channel of uint8 ``(N, 3)`` is within so many levels of a colour."""
    near: NDArray[np.bool_] = np.abs(pixels.astype(np.int16) - colour.astype(np.int16)).max(axis=1) <= levels
    return near


def classify(rgb: NDArray[Any], palette: NDArray[np.uint8] = PALETTE) -> NDArray[np.uint8]:
    """Return the class of every pixel: the palette colour nearest in RGB (Euclidean; the first of equals).

    Args:
        rgb: uint8 (H, W, 3) or (3, H, W). Where both could be meant (3, W, 3), height first is taken.
        palette: uint8 (K, 3), K <= 255.

    Returns:
        uint8 (H, W), indices into ``palette``. Memory beyond input and output stays under 4 MB.

    Raises:
        RasterError: If ``rgb`` is not uint8 or has no axis of three colours first or last.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or 3 not in (rgb.shape[0], rgb.shape[2]):
        raise RasterError(f"Pixels of {rgb.dtype} {rgb.shape} cannot be classified; give uint8 (H, W, 3) or (3, H, W).")
    last = rgb.shape[2] == 3
    height, width = rgb.shape[:2] if last else rgb.shape[1:]
    colours = palette.astype(np.float32)
    weights, offset = -2.0 * colours.T, (colours * colours).sum(axis=1)
    classes = np.empty((height, width), np.uint8)
    rows = max(1, _CHUNK // max(width, 1))
    for top in range(0, height, rows):
        part = rgb[top : top + rows] if last else rgb[:, top : top + rows].transpose(1, 2, 0)
        # ||x - p||^2 = ||x||^2 - 2 x.p + ||p||^2, and ||x||^2 is the same for every p. Exact: all under 2^24.
        scores = part.reshape(-1, 3).astype(np.float32) @ weights
        scores += offset
        classes[top : top + rows] = _argmin(scores).reshape(part.shape[:2])
    return classes


def _argmin(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the index of the smallest score of each row, float32 (N, K) -> uint8 (N,); faster than np.argmin over a
    short axis."""
    columns = np.ascontiguousarray(scores.T)
    best, smallest = np.zeros(scores.shape[0], np.uint8), columns[0].copy()
    for k in range(1, columns.shape[0]):
        best[columns[k] < smallest] = k
        np.minimum(smallest, columns[k], out=smallest)
    return best
