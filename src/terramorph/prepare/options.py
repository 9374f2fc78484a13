"""Options of a preparation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from odc.geo.geom import Geometry

from terramorph.errors import ConfigError
from terramorph.geo.crs import box_of_degrees
from terramorph.prepare.plan import Scale
from terramorph.prepare.split import SplitRule
from terramorph.raster.layout import ReadOptions


@dataclass(frozen=True)
class Inputs:
    """The two sides of an area, as the user names them.

    Attributes:
        source: File, tile folder, archive or URL template of the imagery; or a folder of pairs.
        target: File, tile folder, archive or URL template of the map; vectors are rasterized. None if the source is a
            folder of pairs.
        name: Name of the area, with which the ids of its pairs begin; None: the stem of the source.
    """

    source: str
    target: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Opening:
    """Options of opening the sides.

    Attributes:
        source_crs, target_crs: CRS, `EPSG:n`, of a side with a georeference that lacks one.
        style: Style of vectors: classic, osm, classes, or a TOML file.
        table: Table from tags and layers of vectors to classes: osm, protomaps, plain, or a TOML file; None: by
            their content.
        kind: Class of all vectors of a file without tags.
        layout: Layout of a folder of tiles; None: by its content.
        terms: Licence or terms of use of tiles from a server.
        cache: Folder for tiles from a server; None: inside the dataset.
        source, target: Bands of images to read, and the meaning of their values.
    """

    source_crs: str | None = None
    target_crs: str | None = None
    style: str = "classic"
    table: str | None = None
    kind: str | None = None
    layout: str | None = None
    terms: str | None = None
    cache: Path | None = None
    source: ReadOptions = field(default_factory=ReadOptions)
    target: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class Options:
    """Options of a preparation: how pairs are cut, measured and split.

    Attributes:
        tile: Side of a pair's image in pixels.
        overlap: Pixels that neighbouring tiles share.
        scale: Resolution or zoom; neither: the source's own pixels.
        bounds: Limits of the areas: west, south, east, north in degrees; across 180 degrees, west > east.
        split: Rule of the splits.
        register: Correct the consistent part of the target's shift against the source.
        clean_labels: Paint over text and icons on the target.
        max_nodata: Largest share of pixels without data of a pair, 0 to 1.
        drop_blank: Largest share of one colour on a side of a pair, 0 to 1; None keeps all pairs.
        drop_duplicates: Keep only one of pairs that look alike.
        skip_bad: Leave out tiles that cannot be read and list them, instead of raising.
        opening: Options of opening the sides.

    Raises:
        ConfigError: If a value is out of range.
    """

    tile: int = 256
    overlap: int = 0
    scale: Scale = field(default_factory=Scale)
    bounds: tuple[float, float, float, float] | None = None
    split: SplitRule = field(default_factory=SplitRule)
    register: bool = False
    clean_labels: bool = False
    max_nodata: float = 0.1
    drop_blank: float | None = None
    drop_duplicates: bool = False
    skip_bad: bool = False
    opening: Opening = field(default_factory=Opening)

    def __post_init__(self) -> None:
        if not 16 <= self.tile <= 8192:
            raise ConfigError(f"`tile` must be 16 to 8192 px, got {self.tile}.")
        if not 0 <= self.overlap < self.tile:
            raise ConfigError(f"`overlap` must be 0 to {self.tile - 1} px, less than a tile, got {self.overlap}.")
        for name, value in (("max_nodata", self.max_nodata), ("drop_blank", self.drop_blank)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"`{name}` must be a share from 0 to 1, got {value}.")
        if self.bounds is not None and self.ground is None:
            raise ConfigError(
                f"`bounds` must be west, south, east, north in degrees, such as 11.2,43.7,11.3,43.8, got {self.bounds}."
            )

    @property
    def ground(self) -> Geometry | None:
        """Bounds as a geometry in longitude and latitude; None without bounds."""
        return None if self.bounds is None else box_of_degrees(*self.bounds)

    def plain(self) -> dict[str, Any]:
        """Return all options as plain JSON data."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain
