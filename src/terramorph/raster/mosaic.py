"""Mosaics: many images as one source, the newest on top, gaps filled by older ones."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.bands import Units, band_order
from terramorph.errors import RasterError, warn
from terramorph.geo import Grid, project_extent
from terramorph.geo.crs import beside, crs_name
from terramorph.raster.image_source import ImageSource
from terramorph.raster.layout import ReadOptions
from terramorph.raster.raster import Raster
from terramorph.raster.resample import MIN_WEIGHT
from terramorph.raster.source import Source
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.reader import file_fingerprint

_HELD_OPEN = 128
"""Images that stay open between two reads."""
_SEAM = 0.49
"""Share of the filter's weights that must fall on real pixels of an image: where two images meet, each has half."""


@dataclass(frozen=True)
class Part:
    """An image of a mosaic, or some of its bands.

    Attributes:
        file: File to open.
        names: Band names; None, or another number than the image has: those of the image.
        grid: Grid stated by a catalogue; None: that of the image, which is opened at once.
        options: See `ImageSource`.
        crs: See `ImageSource`.
        signer: Makes the address that is opened of the one that is published; None: they are the same.
        checksum: Checksum of the content stated by a catalogue.
    """

    file: Path | Remote
    names: tuple[str, ...] | None = None
    grid: Grid | None = None
    options: ReadOptions = field(default_factory=ReadOptions)
    crs: CRS | None = None
    signer: Callable[[Remote], Remote] | None = None
    checksum: str | None = None

    def signed(self) -> Path | Remote:
        """Return the address to open; signatures expire, so it is signed each time."""
        return self.signer(self.file) if self.signer and isinstance(self.file, Remote) else self.file

    def identity(self) -> str:
        """Return a text that changes with the content; for a server its checksum, without a download."""
        place = self.signed()
        return (isinstance(place, Remote) and self.checksum) or file_fingerprint(place)


@dataclass(frozen=True)
class Layer:
    """Images of one place and time, their bands stacked.

    Attributes:
        parts: Images, at least one.
        name: A name, such as the id of an item.
        href: Address of the document that describes it.
        start, end: When it was taken; None where nobody says.
    """

    parts: tuple[Part, ...]
    name: str
    href: str
    start: datetime | None = None
    end: datetime | None = None


class MosaicSource(Source):
    """Layers over each other. Bands, dtype and units are those of the first.

    The grid has the most common CRS, and the finest pixels of the layers in it. A layer whose pixels lie on that grid
    is returned unchanged, others are warped as by `ImageSource`, each by itself. Images are opened on first read, those
    of the first layer at once; `_HELD_OPEN` of them stay open.

    Attributes:
        layers: The layers, top first.
        files: The images, whether they are open or not.

    Raises:
        RasterError: If a layer has no place, or its CRS and that of the others do not go together.
    """

    grid: Grid

    def __init__(self, name: str, layers: Sequence[Layer], licence: str | None = None) -> None:
        self.name, self.licence, self.layers = name, licence, tuple(layers)
        self.files = [part.file for layer in self.layers for part in layer.parts]
        self._least = MIN_WEIGHT if len(layers) == 1 else _SEAM
        self._closed = False
        self._image = lru_cache(maxsize=_HELD_OPEN)(self._opened)
        try:
            first = [self._image(part) for part in layers[0].parts]
            if any(image.dtype != first[0].dtype for image in first):
                told = ", ".join(f"{image.name} {image.dtype}" for image in first)
                raise RasterError(f"The images of {layers[0].name} hold several types ({told}); pick of one type.")
            self.dtype = first[0].dtype
            self.bands = sum(map(_names, layers[0].parts, first), ())
            self.units = _joined([image.units for image in first], [len(image.bands) for image in first])
            grids = [self._grid_of(layer) for layer in layers]
            self.grid, shapes = _common(grids, [layer.name for layer in layers])
        except BaseException:
            self.close()
            raise
        self.extent = Geometry(shapely.union_all(shapes), self.grid.crs)
        self._tree = shapely.STRtree(shapes)

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid; see `Source.read`.

        Raises:
            RasterError: If an image cannot be read, or holds other bands or another dtype than the first layer.
        """
        found = Raster.empty(grid, self.bands, self.dtype, self.units)
        for number in self._meeting(grid):
            raster = self._read(self.layers[number], grid)
            new = raster.mask & ~found.mask
            found.pixels[:, new] = raster.pixels[:, new]
            found.mask[new] = True
            if found.mask.all():
                break
        return found

    def under(self, ground: Geometry) -> list[Layer]:
        """Return the layers that meet a geometry, top first."""
        return [self.layers[number] for number in self._numbers(ground)]

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the images and their content; see `Part.identity`."""
        digest = hashlib.blake2b(digest_size=16)
        for layer in self.layers:
            for part in layer.parts:
                digest.update(f"{part.identity()} {part.options}".encode())
        return digest.hexdigest()

    def close(self) -> None:
        """Close files. Reading afterwards is an error."""
        self._closed = True
        self._image.cache_clear()  # an image that nobody reads is closed as it goes

    def _opened(self, part: Part) -> ImageSource:
        if self._closed:
            raise RasterError(f"{part.file} was closed; open it again.")
        image = ImageSource(part.signed(), crs=part.crs, options=part.options, least=self._least)
        _compare(part, image.grid)
        return image

    def _grid_of(self, layer: Layer) -> Grid:
        """Return the finest grid of a layer's parts."""
        grids = []
        for part in layer.parts:
            first = layer is self.layers[0]  # whose images are open
            grid = part.grid if part.grid and not first else self._image(part).grid
            if grid.crs is None:
                raise RasterError(f"{part.file} does not say in which CRS it lies; say it.")
            grids.append(grid)
        return min(grids, key=lambda grid: grid.ground_resolution or math.inf)

    def _meeting(self, grid: Grid) -> list[int]:
        """Return the numbers of the layers that meet a grid, top first."""
        if grid.crs is None:
            raise RasterError(
                f"{self.name} is in {crs_name(self.grid.crs)} and the grid asked for has no CRS; give one."
            )
        assert self.grid.crs is not None
        around = int(grid.crs != self.grid.crs)  # what is moved between CRSs lies where it does to within a pixel
        ground = grid.crop(-around, -around, grid.height + 2 * around, grid.width + 2 * around).geobox.extent
        return self._numbers(ground)

    def _numbers(self, ground: Geometry) -> list[int]:
        assert self.grid.crs is not None
        shape = beside(np.array([project_extent(ground, self.grid.crs).geom], dtype=object), self.extent)[0]
        if not np.isfinite(shape.bounds).all():
            return []
        inside = shape.buffer(-0.01 * min(self.grid.resolution))  # without what only touches it
        return sorted(self._tree.query(inside, "intersects").tolist())

    def _read(self, layer: Layer, grid: Grid) -> Raster:
        """Read a layer in the order of bands and the units of the first; a pixel is valid where every part has data."""
        images = [self._image(part) for part in layer.parts]
        names = sum(map(_names, layer.parts, images), ())
        found = [image.read(grid) for image in images]
        pixels = found[0].pixels if len(found) == 1 else np.concatenate([raster.pixels for raster in found])
        if len(pixels) != len(self.bands) or pixels.dtype != self.dtype:
            raise RasterError(
                f"{layer.name} has {len(pixels)} bands of {pixels.dtype} and {self.layers[0].name} "
                f"{len(self.bands)} of {self.dtype}; leave one of them out."
            )
        order = band_order(names, self.bands)
        if order is None:
            raise RasterError(
                f"{layer.name} has the bands {', '.join(names)} and {self.layers[0].name} {', '.join(self.bands)}; "
                "leave one of them out."
            )
        mask: NDArray[np.bool_] = np.logical_and.reduce([raster.mask for raster in found])
        units = _joined([raster.units for raster in found], [raster.count for raster in found])
        return Raster(pixels, mask, grid, names, units).arranged(order, self.units)


def _compare(part: Part, own: Grid) -> None:
    """Warn where a catalogue states another grid than the image has."""
    said = part.grid
    if said is None or own.crs is None:
        return
    corners = [grid.affine @ (x * grid.width, y * grid.height) for grid in (said, own) for x in (0, 1) for y in (0, 1)]
    step = max(own.resolution)
    if said.shape != own.shape or said.crs != own.crs or np.ptp(np.reshape(corners, (2, 4, 2)), 0).max() > step:
        warn(f"{part.file} lies otherwise than its item says (proj:transform, proj:shape): the file counts.")


def _names(part: Part, image: ImageSource) -> tuple[str, ...]:
    return part.names if part.names and len(part.names) == len(image.bands) else image.bands


def _joined(units: Sequence[Units | None], counts: Sequence[int]) -> Units | None:
    """Join the units of images whose bands are stacked."""
    if len(units) == 1 or not any(units):
        return units[0]
    each = [one or Units((1.0,) * count, (0.0,) * count) for one, count in zip(units, counts, strict=True)]
    return Units(sum((one.scales for one in each), ()), sum((one.offsets for one in each), ()))


def _common(grids: Sequence[Grid], names: Sequence[str]) -> tuple[Grid, NDArray[np.object_]]:
    """Return the grid that holds all grids, and the footprint of each in its CRS, shapely geometries (N,)."""
    (crs, _) = Counter(grid.crs for grid in grids).most_common(1)[0]
    assert crs is not None
    lattice = min((grid for grid in grids if grid.crs == crs), key=lambda grid: min(grid.resolution))
    shapes = np.array([project_extent(grid.geobox.extent, crs).geom for grid in grids], dtype=object)
    lost = [name for name, shape in zip(names, shapes, strict=True) if not np.isfinite(shape.bounds).all()]
    if lost:
        raise RasterError(
            f"{lost[0]} lies where {crs_name(crs)}, the CRS of most items, is not defined; translate it alone."
        )
    shapes = beside(shapes, lattice.geobox.extent)
    corners = np.array(~lattice.affine @ tuple(shapely.get_coordinates(shapes).T))
    left, top = np.floor(corners.min(1) + 1e-3).astype(int).tolist()
    right, bottom = np.ceil(corners.max(1) - 1e-3).astype(int).tolist()
    return lattice.crop(top, left, bottom - top, right - left), shapes
