"""Manifest of a prepared dataset: inputs, settings, grid, and the place of every pair.

`manifest.json` stands at the head of a prepared dataset; the measurements of every pair, and of those that were left
out, are in `footprints.parquet` beside it (GeoParquet 1.1, one row a tile, which QGIS opens).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from affine import Affine
from odc.geo.crs import CRS
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pyproj.exceptions import CRSError

from terramorph.atomic import write_text
from terramorph.bands import Units, band_order
from terramorph.documents import first_fault
from terramorph.errors import DatasetError
from terramorph.geo import Grid
from terramorph.raster.raster import Raster
from terramorph.redaction import redact

MANIFEST = "manifest.json"
FOOTPRINTS = "footprints.parquet"
SPLITS = ("train", "val", "test")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class GridRecord(_Record):
    """A Grid as plain data.

    Attributes:
        height, width: Pixels.
        affine: a, b, c, d, e, f of `Grid.affine`, CRS units.
        crs: `EPSG:n` or WKT; None for a grid without one.
    """

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    affine: tuple[float, float, float, float, float, float]
    crs: str | None

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        try:
            self.grid()
        except CRSError:
            raise ValueError(f"there is no CRS {self.crs!r}") from None
        return self

    @classmethod
    def of(cls, grid: Grid) -> Self:
        """Make the record of a grid."""
        a = grid.affine
        return cls(
            height=grid.height,
            width=grid.width,
            affine=(a.a, a.b, a.c, a.d, a.e, a.f),
            crs=None if grid.crs is None else str(grid.crs),
        )

    def grid(self) -> Grid:
        """Return the grid of the record."""
        return Grid(self.height, self.width, Affine(*self.affine), None if self.crs is None else CRS(self.crs))


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
    grid: GridRecord | None
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
        place = self.pairs.get(split, {}).get(pair)
        if place is None or self.tile is None:
            return None
        area, y, x = place
        record = self.areas[area].grid
        return None if record is None else record.grid().crop(y, x, self.tile, self.tile)

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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it or remove it.") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DatasetError(
            f"{path} is not a manifest this version understands ({first_fault(error)}); restore it or remove it."
        ) from error
