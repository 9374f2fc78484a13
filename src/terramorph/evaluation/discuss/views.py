"""Pictures of a discussion: pairs seen again, crops, overlays and maps over the place in an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terramorph.evaluation.pictures import viewable
from terramorph.report.charts import colours

Colour = tuple[int, int, int]
KEPT: Colour = (86, 180, 233)
MISSED: Colour = (240, 130, 0)
MADE_UP: Colour = (214, 0, 130)
_HEAT_SIDE = 128  # pixels of the picture of a map over the place in an image


@dataclass(frozen=True)
class View:
    """One pair, seen again.

    Attributes:
        id: Its name.
        source: uint8 ``(C, S, S)``.
        truth: uint8 ``(D, S, S)``.
        prediction: uint8 ``(D, S, S)``.
        mask: bool ``(S, S)``, True where valid.
        truth_classes, prediction_classes: uint8 ``(S, S)``, where the target is a map.
    """

    id: str
    source: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    truth_classes: NDArray[np.uint8] | None
    prediction_classes: NDArray[np.uint8] | None


Look = Callable[[int], View]
"""Shows the pair of a row: reads it and its prediction anew, so that none is kept."""


def blended(image: NDArray[np.uint8], layers: Sequence[tuple[NDArray[np.bool_], Colour]]) -> NDArray[np.uint8]:
    """Colours over a pale grey version of an image.

    Args:
        image: uint8 ``(C, H, W)``.
        layers: bool ``(H, W)`` and its colour; later ones lie on top.

    Returns:
        uint8 ``(3, H, W)``.
    """
    grey = (110 + viewable(image).mean(axis=0) * 0.55).clip(0, 255)
    drawn = np.repeat(grey.astype(np.uint8)[None], 3, axis=0)
    for where, colour in layers:
        drawn[:, where] = np.array(colour, np.uint8)[:, None]
    return drawn


def heat(values: NDArray[np.float64], top: float) -> NDArray[np.uint8]:
    """A map of numbers from 0 to ``top`` as colours, enlarged without smoothing; NaN is grey.

    Args:
        values: float64 ``(H, W)``.
        top: What the lightest colour means, over 0.

    Returns:
        uint8 ``(3, kH, kW)``.
    """
    times = max(1, _HEAT_SIDE // len(values))
    return colours(values / top).repeat(times, axis=1).repeat(times, axis=2)


def crop_uri(image: NDArray[Any], times: int = 2) -> str:
    """uint8 ``(3, H, W)``, enlarged without smoothing, as a PNG data URI: flat colours stay what they are."""
    large = image.repeat(times, axis=1).repeat(times, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(large.transpose(1, 2, 0))).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def legend(*entries: tuple[str, Colour]) -> list[tuple[str, str]]:
    """Names and CSS colours."""
    return [(name, css(colour)) for name, colour in entries]


def css(colour: Sequence[int]) -> str:
    """A colour as the page writes it."""
    return "rgb({}, {}, {})".format(*colour)
