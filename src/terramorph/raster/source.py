"""Source: the base of everything that is read by grid (images, tiles, vectors, arrays)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from odc.geo.geom import Geometry

from terramorph.bands import Units
from terramorph.geo.grid import Grid
from terramorph.raster.raster import Raster


class Closing:
    """A resource that a `with` block closes at its end."""

    def close(self) -> None:
        """Close files. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Source(Closing, ABC):
    """A source of pixels for any grid. May be read from several threads at once.

    Attributes:
        name: Path or URL, as given; what messages and the manifest call it.
        grid: The grid its pixels are stored on, without pixels decoded; a pixel grid for an image without a place.
            None where any grid is as good (vectors).
        extent: The ground it may cover, in its own CRS (CRS None for an image without a place).
        bands: Names of the bands that `read` gives.
        dtype: Of the pixels that `read` gives.
        units: What they mean, where it is said; None: themselves.
        sequential: True where rows can only be decoded from the top (JPEG, PNG): read it in full-width strips.
        licence: What is known of the terms of use, for the manifest; None where nothing is.
    """

    name: str
    grid: Grid | None
    extent: Geometry
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    units: Units | None = None
    sequential: bool = False
    licence: str | None = None

    @abstractmethod
    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid.

        Where ``grid`` is a window of the source's own grid (same CRS and pixel size, offset by whole pixels to within
        0.001), stored pixels are returned unchanged; otherwise they are warped. Pixels outside the source, nodata and
        transparent ones are masked. The window may reach outside the source or lie wholly outside it.

        Raises:
            RasterError: If the source cannot be read there (damaged, truncated), naming the file; or one of both has a
                CRS and the other has none.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the content, for the manifest."""
