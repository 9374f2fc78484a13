"""Multi-scale noise and light for the aerial image. Plain numpy and PIL resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]


def noise(size: int, scales: dict[float, float], rng: np.random.Generator) -> Plane:
    """Smooth noise summed over scales.

    Args:
        size: Side of the square, pixels.
        scales: Grain in pixels -> weight (standard deviation of that scale).
        rng: Where chance comes from.

    Returns:
        float32 (size, size), mean about 0.
    """
    total = np.zeros((size, size), np.float32)
    for grain, weight in scales.items():
        if grain <= 1.0:
            total += weight * rng.standard_normal((size, size), np.float32)
            continue
        coarse = int(np.ceil(size / grain)) + 3
        seed = rng.standard_normal((coarse, coarse), np.float32)
        start = float(rng.random())
        box = (start, start, start + size / grain, start + size / grain)
        # Bilinear resampling lowers the deviation to about two thirds of the seed's; 1.5 restores it.
        grown = Image.fromarray(seed).resize((size, size), Image.Resampling.BILINEAR, box=box)
        total += np.float32(1.5 * weight) * np.asarray(grown)
    return total


def soften(plane: Plane, edge: float) -> None:
    """A slight blur in place, [edge, 1 - 2 edge, edge] along both axes: the optics of a camera.

    Args:
        plane: float32 (H, W).
        edge: Weight of each neighbour, 0 to 1/3.
    """
    for axis in (0, 1):
        moved = np.moveaxis(plane, axis, 0)
        inner = moved[1:-1] * np.float32(1 - 2 * edge)
        inner += np.float32(edge) * moved[:-2]
        inner += np.float32(edge) * moved[2:]
        moved[1:-1] = inner
