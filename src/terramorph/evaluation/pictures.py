"""Pictures of a pair on a page: input, output, truth, error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import Palette
from terramorph.report.charts import colours
from terramorph.report.pages import picture_uri

ERROR_TOP = 80
"""Grey levels at which error colours saturate; the same in all error maps."""
KEPT, MISSED, MADE_UP = (86, 180, 233), (240, 130, 0), (214, 0, 130)

Pictures = list[tuple[str, str]]
"""Captions and data URIs."""


@dataclass(frozen=True)
class View:
    """One scored pair.

    Attributes:
        source: uint8 ``(C, S, S)``.
        truth: uint8 ``(D, S, S)``.
        prediction: uint8 ``(D, S, S)``.
        mask: bool ``(S, S)``, True where valid.
        palette: Palette of the target, where it is a map.
    """

    id: str
    source: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    palette: Palette | None = None

    @property
    def classes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Class indices of truth and prediction of a map, uint8 ``(S, S)`` each."""
        assert self.palette is not None
        return self.palette.classify(self.truth), self.palette.classify(self.prediction)

    def pictures(self, last: str = "error", picture: NDArray[np.uint8] | None = None, crop: Any = ...) -> Pictures:
        """Return pictures of input, output and truth, and a last one: the error, or ``picture``.

        Args:
            last: Caption of the last picture.
            picture: The last picture, uint8 ``(3, S, S)``.
            crop: Index of the part that is shown, enlarged by nearest neighbour.
        """
        if picture is None:
            picture = error_map(self.prediction, self.truth, self.mask)
        shown = {"input": self.source, "output": self.prediction, "truth": self.truth, last: picture}
        if crop is ...:
            return [(name, picture_uri(viewable(image))) for name, image in shown.items()]
        parts = {name: viewable(image)[crop].repeat(2, axis=1).repeat(2, axis=2) for name, image in shown.items()}
        return [(name, picture_uri(image, "PNG")) for name, image in parts.items()]


Look = Callable[[int], View]
"""Returns the view of a row: reads the pair and its prediction again, so that none stays in memory."""


def error_map(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Colour the absolute error of uint8 ``(C, H, W)``, mean over bands: uint8 ``(3, H, W)``; grey where masked."""
    error = np.abs(prediction.astype(np.float32) - truth.astype(np.float32)).mean(axis=0)
    if mask is not None:
        error[~mask] = np.nan
    return colours(error / ERROR_TOP)


def viewable(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return three bands of uint8 ``(C, H, W)``: the first three, or the first as grey."""
    shown: NDArray[np.uint8] = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    return shown


def blended(
    image: NDArray[np.uint8], layers: Sequence[tuple[NDArray[np.bool_], tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """Draw colours over a pale grey version of an image.

    Args:
        image: uint8 ``(C, H, W)``.
        layers: Mask, bool ``(H, W)``, and its colour; later ones lie on top.

    Returns:
        uint8 ``(3, H, W)``.
    """
    grey = (110 + viewable(image).mean(axis=0) * 0.55).clip(0, 255)
    drawn = np.repeat(grey.astype(np.uint8)[None], 3, axis=0)
    for where, colour in layers:
        drawn[:, where] = np.array(colour, np.uint8)[:, None]
    return drawn


def rgb(colour: Sequence[int]) -> str:
    """Format a colour for CSS; with fewer than three bands, the first as grey."""
    bands = (list(colour) if len(colour) >= 3 else [colour[0]] * 3)[:3]
    return f"rgb({bands[0]}, {bands[1]}, {bands[2]})"
