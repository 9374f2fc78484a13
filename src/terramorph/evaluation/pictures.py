"""Images and error maps as a page shows them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terramorph.report.charts import colours

ERROR_TOP = 80
"""Grey levels at which the error colours saturate; one scale for all, so that error maps can be compared."""


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
    return colours(error / ERROR_TOP)


def viewable(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What can be shown of uint8 ``(C, H, W)``: three bands, the first three, or the first as grey."""
    shown: NDArray[np.uint8] = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    return shown
