"""Pictures inside a page: 8-bit images and error maps as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ERROR_TOP = 80
"""Grey levels at which the error colours saturate; one scale for all, so that error maps can be compared."""

# Nine steps of matplotlib's "magma" (Smith and van der Walt, CC0): lightness grows evenly.
_MAGMA = ("000004", "1d1147", "51127c", "822681", "b63679", "e65164", "fb8861", "fec287", "fcfdbf")
_MASKED = (128, 128, 128)


def error_gradient() -> str:
    """The error colours from none to saturated as a CSS gradient."""
    return "linear-gradient(to right, " + ", ".join(f"#{step}" for step in _MAGMA) + ")"


def error_map(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Absolute error, mean over bands, as colours; grey where masked.

    Args:
        prediction: uint8 ``(C, H, W)``.
        truth: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where valid; ``None`` for all.

    Returns:
        uint8 ``(3, H, W)``.
    """
    error = np.abs(prediction.astype(np.float32) - truth.astype(np.float32)).mean(axis=0)
    if mask is not None:
        error[~mask] = np.nan
    return magma(error / ERROR_TOP)


def magma(place: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers from 0 (dark) to 1 and more (light) as colours; grey where NaN.

    Args:
        place: floating ``(H, W)``.

    Returns:
        uint8 ``(3, H, W)``.
    """
    steps = np.array([[int(step[i : i + 2], 16) for i in (0, 2, 4)] for step in _MAGMA], np.float64)
    at = np.linspace(0.0, 1.0, len(steps))
    known = np.isfinite(place)
    inside = np.where(known, place, 0.0).clip(0.0, 1.0)
    colours = np.stack([np.interp(inside, at, steps[:, band]) for band in range(3)])
    colours[:, ~known] = np.array(_MASKED)[:, None]
    drawn: NDArray[np.uint8] = np.rint(colours).astype(np.uint8)
    return drawn


def viewable(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What can be shown of uint8 ``(C, H, W)``: three bands, the first three, or the first as grey."""
    shown: NDArray[np.uint8] = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    return shown


def data_uri(image: NDArray[Any], quality: int = 90) -> str:
    """uint8 ``(3, H, W)`` as a WebP data URI (4 to 30 kB for 256 px), no network needed to show it."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
