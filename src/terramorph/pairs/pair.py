"""A pair: two rasters of the same ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terramorph.raster.raster import Raster


@dataclass(frozen=True)
class Pair:
    """Two sides on one grid.

    Attributes:
        id: The file's path below the split (or the side), without suffix.
        a: The first side (left half, or the file in folder A), pixels (C_a, H, W).
        b: The second side, pixels (C_b, H, W), same H and W.
    """

    id: str
    a: Raster
    b: Raster

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W), True where both sides hold real pixels."""
        return self.a.mask & self.b.mask

    def sides(self, direction: str) -> tuple[Raster, Raster]:
        """Return (source, target) for the direction AtoB or BtoA."""
        return (self.a, self.b) if direction == "AtoB" else (self.b, self.a)
