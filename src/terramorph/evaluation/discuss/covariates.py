"""Covariates: numbers on the content of an image, with which scores may correlate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES
from terramorph.report.numbers import percent

EDGE = 24.0
"""Gradient of an edge, grey levels per pixel."""
THIN = 2
"""Number of `GROUPS` of widths that are thin roads, 1 to 4 px."""


@dataclass(frozen=True)
class Covariate:
    """A property of an image.

    Attributes:
        key: Key in ``discussion.json``.
        name: Name in tables.
        more: End of the phrase "images with ..." for images with much of it.
        write: Format of a value.
    """

    key: str
    name: str
    more: str
    write: Callable[[float], str]

    @property
    def short(self) -> str:
        """Name within a sentence."""
        return self.name.removeprefix("Share of ").removeprefix("Density of ").lower()


COVARIATES: tuple[Covariate, ...] = (
    *(Covariate(name, f"Share of {name}", f"more {name}", percent) for name in CLASSES),
    Covariate("thin_roads", "Share of thin roads", "more roads of 4 px or narrower", percent),
    Covariate("borders", "Density of class borders", "more class borders", percent),
    Covariate("edges", "Density of edges", "more edges in the source", percent),
    Covariate("brightness", "Brightness", "a brighter source", "{:.0f}".format),
    Covariate("contrast", "Contrast", "more contrast in the source", "{:.0f}".format),
)


def source_covariates(source: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Compute the covariates of a source image.

    Args:
        source: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where valid, somewhere.

    Returns:
        ``edges``: share of valid pixels whose gradient (Sobel, of the mean over bands) is steeper than `EDGE`;
        ``brightness`` and ``contrast``: mean and standard deviation of the mean over bands, grey levels.
    """
    grey = source.mean(axis=0, dtype=np.float32)
    steep = [cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=1 / 8) for dx, dy in ((1, 0), (0, 1))]
    slope = np.hypot(steep[0], steep[1])[mask]
    return {
        "edges": float((slope > EDGE).mean()),
        "brightness": float(grey[mask].mean(dtype=np.float64)),
        "contrast": float(grey[mask].std(dtype=np.float64)),
    }


def map_covariates(classes: NDArray[np.uint8], mask: NDArray[np.bool_], roads: NDArray[np.int64]) -> dict[str, float]:
    """Compute the covariates of a map's classes.

    Args:
        classes: uint8 ``(H, W)``, indices into `CLASSES`.
        mask: bool ``(H, W)``, True where valid, somewhere.
        roads: `road_widths` of the classes, int64 ``(H, W)``.

    Returns:
        Shares of the valid pixels: of each class; of ``thin_roads``; of ``borders``, pixels on a border of classes.
    """
    shares = np.bincount(classes[mask], minlength=len(CLASSES)) / mask.sum()
    return {
        **{name: float(share) for name, share in zip(CLASSES, shares, strict=True)},
        "thin_roads": float(((roads >= 0) & (roads < THIN)).sum() / mask.sum()),
        "borders": float(on_border(classes)[mask].mean()),
    }


def on_border(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels with another class among their eight neighbours, bool ``(H, W)``."""
    near = np.ones((3, 3), np.uint8)
    border: NDArray[np.bool_] = cv2.dilate(classes, near) != cv2.erode(classes, near)
    return border
