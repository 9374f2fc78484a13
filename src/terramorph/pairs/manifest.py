"""Manifest of a prepared dataset: inputs, settings, grid, and the place of every pair.

`manifest.json` stands at the head of a prepared dataset; the measurements of every pair, and of those that were left
out, are in `footprints.parquet` beside it (GeoParquet 1.1, one row a tile, which QGIS opens).
"""

from __future__ import annotations

import unicodedata
from operator import index
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from affine import Affine
from odc.geo.crs import CRS
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pyproj.exceptions import CRSError

from terramorph.atomic import write_text
from terramorph.bands import Units, band_order
from terramorph.documents import first_fault
from terramorph.errors import DatasetError, raised_as, reason_of
from terramorph.geo import Grid
from terramorph.raster.raster import Raster
from terramorph.redaction import redact

MANIFEST = "manifest.json"
FOOTPRINTS = "footprints.parquet"
SPLITS = ("train", "val", "test")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


def _from_plain(said: Any) -> Any:
    """Make a grid of its plain data; a grid stays as it is."""
    if isinstance(said, Grid):
        return said
    try:
        height, width, numbers, crs = (said[key] for key in ("height", "width", "affine", "crs"))
        return Grid(index(height), index(width), Affine(*map(float, numbers)), None if crs is None else CRS(crs))
    except (KeyError, TypeError, CRSError) as error:
        raise ValueError(f"it is no grid ({reason_of(error)})") from None


def _to_plain(grid: Grid) -> dict[str, Any]:
    crs = None if grid.crs is None else str(grid.crs)
    return {"height": grid.height, "width": grid.width, "affine": tuple(grid.affine)[:6], "crs": crs}


PlainGrid = Annotated[InstanceOf[Grid], BeforeValidator(_from_plain), PlainSerializer(_to_plain)]
"""A grid, in JSON its height and width in pixels, the numbers a, b, c, d, e, f of its affine, and its CRS: `EPSG:n` or
WKT, or null."""


class SideRecord(_Record):
    """One input of an area.

    Attributes:
        path: The input as given, without keys and passwords: a file, a folder or a URL template.
        fingerprint: Digest of its content (blake2b, hexadecimal).
        bands: Names.
        dtype: Numpy name.
        range: 1st and 99th percentile of the values of some pairs; for the scaling of deep images.
        licence: Terms of use, as the file or the user states them.
        units: Scale and offset of stored values; None: 1 and 0. Pairs are stored in the units of the first area.
    """

    path: Annotated[str, AfterValidator(redact)]
    fingerprint: str
    bands: tuple[str, ...]
    dtype: str
    range: tuple[float, float] | None = None
    licence: str | None = None
    units: Units | None = None

    def fit(self, raster: Raster) -> Raster:
        """Reorder a raster's bands to these, and convert its values to these units."""
        return raster.arranged(band_order(raster.bands, self.bands) or range(raster.count), self.units)


class AreaRecord(_Record):
    """A source and a target on the same ground, cut on one grid.

    Attributes:
        name: Begins the ids of its pairs.
        source, target: The inputs; equal for pairs that came as pairs.
        grid: The grid that tiles are windows of; None for pairs that came as pairs.
        shift: (dx, dy) in pixels by which the target was found to lie off the source, and was moved back.
    """

    name: str
    source: SideRecord
    target: SideRecord
    grid: PlainGrid | None
    shift: tuple[float, float] | None = None


class Manifest(_Record):
    """Manifest of a prepared dataset.

    Attributes:
        format, version: Format and version of this file.
        terramorph: Version of the program.
        settings: Everything that was asked for, defaults included, as plain data.
        ground_resolution: Metres per pixel, the median over areas; None without a place on Earth.
        areas: The inputs.
        counts: Pairs a split, tiles left out a reason.
        pairs: split -> id -> (number of its area, y, x of its first pixel on the area's grid).
        tile: Side of a pair's image in pixels; None for pairs that came as pairs.
    """

    format: Literal["terramorph pairs"] = "terramorph pairs"
    version: Literal[1] = 1
    terramorph: str
    settings: dict[str, Any]
    ground_resolution: float | None
    tile: int | None
    areas: tuple[AreaRecord, ...]
    counts: dict[str, int]
    pairs: dict[str, dict[str, tuple[int, int, int]]]

    @model_validator(mode="after")
    def _names_its_areas(self) -> Self:
        if any(not 0 <= area < len(self.areas) for pairs in self.pairs.values() for area, _, _ in pairs.values()):
            raise ValueError("a pair is of an area that is not listed")
        return self

    def grid_of(self, split: str, pair: str) -> Grid | None:
        """Return the grid of a pair; None where the manifest does not know it."""
        known = self.pairs.get(split, {})
        place = known.get(pair, known.get(unicodedata.normalize("NFD", pair)))
        if place is None or self.tile is None:
            return None
        area, y, x = place
        grid = self.areas[area].grid
        return None if grid is None else grid.crop(y, x, self.tile, self.tile)

    def save(self, root: Path) -> None:
        """Write `manifest.json` into a dataset.

        Raises:
            StorageError: If it cannot be written.
        """
        write_text(root / MANIFEST, self.model_dump_json(indent=1))


def load_manifest(root: str | Path) -> Manifest | None:
    """Read the manifest of a dataset; None without one.

    Raises:
        DatasetError: If there is one that cannot be understood.
    """
    path = Path(root) / MANIFEST
    with raised_as(DatasetError, f"{path} cannot be read", "restore it or remove it", OSError, UnicodeDecodeError):
        if not path.exists():
            return None
        text = path.read_text(encoding="utf-8")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DatasetError(
            f"{path} is not a manifest this version understands ({first_fault(error)}); restore it or remove it."
        ) from error
