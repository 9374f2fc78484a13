"""Outputs of map classes: a raster with a legend, probabilities, entropy, and polygons."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import write_text
from terramorph.bundle import Header
from terramorph.cartography import Palette, load_style, palette_of
from terramorph.errors import ConfigError, InputError, warn
from terramorph.geo import Grid
from terramorph.geo.crs import on_earth
from terramorph.raster import Source
from terramorph.raster.storage import Remote
from terramorph.raster.tracing import DRIVERS
from terramorph.raster.writer import rows_of
from terramorph.translate.outputs import Cog, Joined, Output

GROUND = "land"
"""The class of the background, which has no polygons."""


class Classes(Cog):
    """A Cloud Optimized GeoTIFF of map classes: uint8, the class of the nearest palette colour, with a colour table.

    The names of the classes lie in NAME.aux.xml beside it, where GDAL and QGIS look for a legend, and in its metadata.
    """

    called = "A raster of classes"

    def check(self, source: Source, header: Header, grid: Grid, match_source: bool) -> None:
        super().check(source, header, grid, match_source)
        _check_colours(header)

    def palette(self, joined: Joined) -> Palette:
        return palette_of(load_style(joined.request.style))

    def write(self, path: Path, joined: Joined) -> None:
        palette = self.palette(joined)
        rows = ((rows, palette.classify(pixels)[None], mask) for rows, pixels, mask in joined.strips())
        joined.write_cog(path, joined.grid, rows, ("class",), np.uint8, palette)
        if not isinstance(self.place, Remote):
            _write_names(self.place, palette)


class Probability(Cog):
    """A Cloud Optimized GeoTIFF of the probability of each map class, float32 0..1, one band a class."""

    called = "A raster of probabilities"
    of_probabilities = True


class Entropy(Cog):
    """A Cloud Optimized GeoTIFF of the entropy of the probabilities p of the map classes, float32 0..1.

    H = - sum p log p / log K for K classes (Shannon 1948): 0 where one class is certain, 1 where all are as likely.
    """

    called = "A raster of entropy"
    of_probabilities = True

    def write(self, path: Path, joined: Joined) -> None:
        rows = ((rows, entropy(pixels)[None], mask) for rows, pixels, mask in joined.strips())
        joined.write_cog(path, joined.grid, rows, ("entropy",), np.float32)


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy, float32 (H, W) 0..1, of probabilities float32 (K, H, W) 0..1; see `Entropy`."""
    # After resampling to another grid, probabilities may not sum to 1.
    p = np.clip(probabilities, np.float32(1e-12), None)
    p /= p.sum(axis=0)
    found: NDArray[np.float32] = -(p * np.log(p)).sum(axis=0) / np.float32(np.log(len(p)))
    return np.clip(found, 0.0, 1.0)


class Polygons(Output):
    """A vector file of the polygons of the map classes; see `cartography.polygonize`.

    The confidence of a polygon is a mean over its pixels: 1 for the colour of its class, 0 for a colour halfway to
    that of the next class.
    """

    called = "A vector file of areas"
    suffixes = tuple(DRIVERS)

    def check(self, source: Source, header: Header, grid: Grid, match_source: bool) -> None:
        """Refuse object storage, a target that is not colours, and GeoJSON without a CRS."""
        if self.place.suffix.lower() not in self.suffixes:
            raise InputError(f"{self.called} must be named {', '.join(self.suffixes)}, got {self.place}.")
        if isinstance(self.place, Remote):
            raise InputError(f"{self.place} cannot be written to object storage; write a local file and copy it there.")
        if self.place.suffix.lower() == ".geojson" and not on_earth(grid.crs):
            raise InputError(
                f"GeoJSON is in degrees, and {source.name} has no place on Earth; name {self.place} .gpkg or .fgb."
            )
        _check_colours(header)

    def write(self, path: Path, joined: Joined) -> None:
        from terramorph.cartography.polygonize import write_polygons  # brings geopandas, which a server need not have

        palette = palette_of(load_style(joined.request.style))
        scratch = joined.parts.scratch
        classes, sure = scratch / "classes.tif", scratch / "confidence.tif"
        with joined.whole() as made:
            grid = joined.tiled.grid
            rows = ((rows, palette.classify(pixels)[None], mask) for rows, pixels, mask in rows_of(made, grid))
            joined.write_cog(classes, grid, rows, ("class",), np.uint8)
            margins = ((rows, palette.margin(pixels)[None], mask) for rows, pixels, mask in rows_of(made, grid))
            joined.write_cog(sure, grid, margins, ("confidence",), np.float32)
        names = {number: name for number, name in enumerate(palette.names) if name != GROUND}
        with joined.request.stages.timed("finish_s"):
            write_polygons(classes, path, names, confidence=sure)


def _check_colours(header: Header) -> None:
    target = header.target
    if target.count != 3 or target.dtype != "uint8":
        raise ConfigError(
            f"Map classes need a target of colours, and the model has {target.count} bands of {target.dtype}; "
            "write a .tif."
        )
    if header.direction == "BtoA" and not header.architecture.settings.get("colours"):
        warn(
            "A model of the direction BtoA makes photographs, as a rule; the classes of a map are those of the nearest "
            "colours, and say nothing of a photograph."
        )


def _write_names(place: Path, palette: Palette) -> None:
    """Write the names of classes to NAME.aux.xml (GDAL's PAM); a GeoTIFF itself cannot hold them."""
    names = "".join(f"<Category>{escape(name)}</Category>" for name in palette.names)
    text = f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>\n'
    write_text(place.with_name(f"{place.name}.aux.xml"), text)
