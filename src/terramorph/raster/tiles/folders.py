"""Folders of tiles, one file a tile: the web's z/x/y, and what SAS.Planet, gdal2tiles and Mobile Atlas Creator write.

    layout        file of tile x, y of zoom z                           known as
    xyz           z/x/y.png                                             XYZ, MOBAC, OsmAnd (y.png.tile)
    tms           z/x/(2^z - 1 - y).png                                 TMS, gdal2tiles
    zyx           z/y/x.png                                             SAS.Planet's "GlobalMapper Bing"
    sas           z(z+1)/(x div 1024)/xX/(y div 1024)/yY.png            SAS.Planet

The file name generators of SAS.Planet's public source are what these were read from. docs/prepare.md says how tiles
in its other layouts are brought into one of these.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from terramorph.documents import parse_json
from terramorph.errors import RasterError, raised_as, unreadable, warn
from terramorph.geo.mercator import TileBox, box_around
from terramorph.raster.image import files_below
from terramorph.raster.tiles.reader import (
    VECTOR_ADVICE,
    TileReader,
    check_tile,
    flipped,
    lies_flipped,
    likeness,
    plain_text,
    said_crs,
    stated_box,
)

_IMAGE = re.compile(r"(?i)(.+?)(?:@[23]x)?\.(?:png|jpg|jpeg|webp)(?:\.tile)?")
"""Paths of images, of those for fine screens (y@2x.png), and of OsmAnd's, whose second suffix hides them from
galleries."""
_VECTOR_SUFFIXES = (".pbf", ".mvt")
_DATABASES = {".sqlitedb": "SQLite", ".sdb": "BerkeleyDB"}

Number = tuple[int, int, int]
"""(zoom, x, y), rows from the north."""


LAYOUTS: dict[str, re.Pattern[str]] = {
    "xyz": re.compile(r"(?P<z>\d{1,2})/(?P<x>\d+)/(?P<y>\d+)"),
    "tms": re.compile(r"(?P<z>\d{1,2})/(?P<x>\d+)/(?P<y>\d+)"),
    "zyx": re.compile(r"(?P<z>\d{1,2})/(?P<y>\d+)/(?P<x>\d+)"),
    "sas": re.compile(r"z(?P<z>\d{1,2})/\d+/x(?P<x>\d+)/\d+/y(?P<y>\d+)", re.IGNORECASE),
}
"""Patterns by layout: paths below the folder, without suffix, with / between their parts."""

_TOLD = tuple(name for name in LAYOUTS if name not in ("tms", "zyx"))
"""Layouts that paths alone tell apart; of those that look like xyz, others have to be asked for."""
_EXAMPLES = {
    "xyz": "17/70406/42987.png",
    "tms": "17/70406/88084.png",
    "zyx": "17/42987/70406.png",
    "sas": "z18/68/x70406/41/y42987.jpg",
}


class FolderTiles(TileReader):
    """Tiles of a folder, listed once when it is opened.

    Files that are no images, and images whose path names no tile (a preview, a legend), are no tiles and are passed
    over.

    Args:
        layout: A key of `LAYOUTS`; default: told by the paths. Paths z/x/y are taken for xyz, or for tms where there is
            a tilemapresource.xml or the "scheme" of a metadata.json says so; with a warning for the other of the two
            where only that fits the bounds in these files.

    Raises:
        RasterError: If it is no folder of tiles, holds vector tiles or a database, or several layouts.
    """

    def __init__(self, folder: str | Path, layout: str | None = None) -> None:
        self.name = str(folder)
        self._folder = Path(folder)
        if layout is not None and layout not in LAYOUTS:
            raise RasterError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
        metadata, resource = _metadata(self._folder), _resource(self._folder / "tilemapresource.xml")
        self.crs = said_crs(self.name, {**metadata, **resource})
        with unreadable(folder):
            listed = [path.relative_to(self._folder).as_posix() for path in files_below(self._folder)]
        as_tms = layout is None and (resource or metadata.get("scheme") == "tms")
        self.layout, self._paths = _recognise(self._folder, listed, "tms" if as_tms else layout)
        self.bounds = self._likeliest([metadata.get("bounds"), *resource.get("bounds", ())])
        if layout is None and self.layout in ("xyz", "tms"):
            self._find_north()
        self.zooms = tuple(sorted(self._paths))
        self.counts = {zoom: len(paths) for zoom, paths in self._paths.items()}
        self.licence = plain_text(metadata.get("attribution") or metadata.get("license"))

    def _likeliest(self, bounds: list[object]) -> object:
        """Return the bounds that fit the tiles best, on either side of the equator; None without any."""
        zoom = max(self._paths)
        own = self.box(zoom)
        boxes = own, flipped(own, zoom)

        def fit(said: object) -> float:
            stated = stated_box(said, zoom)
            return 0.0 if stated is None else max(likeness(box, stated) for box in boxes)

        return max((said for said in bounds if said is not None), key=fit, default=None)

    def _find_north(self) -> None:
        """Count rows from the other side where only that fits the bounds of the metadata."""
        zoom = max(self._paths)
        if lies_flipped(self.box(zoom), self.bounds, zoom):
            self.layout, side = ("tms", "south") if self.layout == "xyz" else ("xyz", "north")
            warn(
                f"{self.name}: rows of tiles are counted from the {side} (layout {self.layout}), to lie in the "
                "metadata's bounds."
            )
            self._paths = {
                zoom: {(x, (1 << zoom) - 1 - y): path for (x, y), path in paths.items()}
                for zoom, paths in self._paths.items()
            }

    def parents(self, zoom: int, coarser: int) -> int:
        steps = zoom - coarser
        return len({(x >> steps, y >> steps) for x, y in self._paths[zoom]})

    def box(self, zoom: int) -> TileBox:
        x, y = np.array(list(self._paths[zoom])).T
        return box_around(zoom, x, y)

    def first(self, zoom: int) -> tuple[int, int]:
        return next(iter(self._paths[zoom]))

    def has(self, zoom: int, x: int, y: int) -> bool:
        return (x, y) in self._paths.get(zoom, {})

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        path = self._paths.get(zoom, {}).get((x, y))
        if path is None:
            return None
        with unreadable(self._folder / path):
            return (self._folder / path).read_bytes()

    def fingerprint(self) -> str:
        """Digest the tiles' names, sizes and bytes, sorted by name."""
        digest = hashlib.blake2b(digest_size=16)
        tiles = [(path, zoom, *number) for zoom, paths in self._paths.items() for number, path in paths.items()]
        for path, zoom, x, y in sorted(tiles):
            data = self.read(zoom, x, y) or b""
            digest.update(f"{path}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
            digest.update(data)
        return digest.hexdigest()


def _stem(path: str) -> str | None:
    """Return the path of a tile without suffixes; None for a file that is no image."""
    match = _IMAGE.fullmatch(path)
    return match[1] if match else None


def _recognise(
    folder: Path, listed: list[str], layout: str | None
) -> tuple[str, dict[int, dict[tuple[int, int], str]]]:
    """Return the layout, and the path of every tile by zoom and (x, y)."""
    images = [(path, stem) for path in listed if (stem := _stem(path)) is not None]
    names = _TOLD if layout is None else (layout,)
    found = {name: [m for path, stem in images if (m := _match(name, path, stem))] for name in names}
    held = [name for name, matches in found.items() if matches]
    if not held:
        raise RasterError(_no_tiles(folder, listed, bool(images), layout))
    if len(held) > 1:
        counts = " and ".join(f"{name} ({len(found[name])} files)" for name in held)
        raise RasterError(f"{folder} holds tiles laid out as {counts}; name the layout that is meant.")
    paths: dict[int, dict[tuple[int, int], str]] = {}
    for path, (zoom, x, y) in found[held[0]]:
        check_tile(f"{folder / path}", zoom, x, y)
        other = paths.setdefault(zoom, {}).setdefault((x, y), path)
        if other != path:
            raise RasterError(f"{folder / other} and {folder / path} are the same tile; remove one of them.")
    return held[0], paths


def _match(name: str, path: str, stem: str) -> tuple[str, Number] | None:
    """Return a path and the tile it names in a layout; None where it names none."""
    match = LAYOUTS[name].fullmatch(stem)
    if match is None:
        return None
    zoom, x, y = (int(match[key]) for key in "zxy")
    if name == "tms":
        y = (1 << min(zoom, 62)) - 1 - y
    return path, (zoom - (name == "sas"), x, y)  # SAS.Planet counts zooms from 1


def _no_tiles(folder: Path, listed: list[str], images: bool, layout: str | None) -> str:
    for path in listed:
        suffix = Path(path).suffix.lower()
        if suffix in _VECTOR_SUFFIXES and any(LAYOUTS[name].fullmatch(path.rpartition(".")[0]) for name in _TOLD):
            return f"{folder} {VECTOR_ADVICE}"
        if suffix in _DATABASES:
            return (
                f"{folder} is a cache of SAS.Planet kept in {_DATABASES[suffix]} files, which are not read; "
                "copy it to the SAS.Planet format or to MBTiles with SAS.Planet's cache manager."
            )
    if layout is not None:
        return f"{folder} holds no tiles laid out as {layout}, such as {_EXAMPLES[layout]}; name another layout."
    below = sorted({path.split("/")[0] for path in listed if _inner(path)})
    if below:
        return f"{folder} holds folders of tiles ({', '.join(below[:5])}); give one of them."
    what = "no image whose path is that of a tile" if images else "no PNG, JPEG or WebP file"
    return f"{folder} holds {what}, such as {_EXAMPLES['xyz']} or {_EXAMPLES['sas']}; give a folder of tiles or a file."


def _inner(path: str) -> bool:
    """Return whether a path without its first part is that of a tile."""
    stem = _stem(path.partition("/")[2])
    return stem is not None and any(LAYOUTS[name].fullmatch(stem) for name in _TOLD)


def _metadata(folder: Path) -> dict[str, Any]:
    """Read a tilejson.json, or a metadata.json as mb-util and tippecanoe write it; empty without one."""
    for path in (folder / "metadata.json", folder / "tilejson.json"):
        if not path.is_file():
            continue
        with raised_as(RasterError, f"{path} is not JSON", "correct or remove it", OSError, ValueError):
            found = parse_json(path.read_text(encoding="utf-8-sig"))
        return found if isinstance(found, dict) else {}
    return {}


def _resource(path: Path) -> dict[str, Any]:
    """Read CRS, profile, and the bounds that may be meant, of a tilemapresource.xml; empty without one."""
    if not path.is_file():
        return {}
    with unreadable(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    crs = re.search(r"<SRS>\s*([^<]*?)\s*</SRS>", text)
    profile = re.search(r"""<TileSets[^>]*\sprofile\s*=\s*["']([^"']*)""", text)
    box = re.search(r"<BoundingBox([^>]*)", text)
    ends = dict(re.findall(r"""\b(minx|miny|maxx|maxy)\s*=\s*["']([^"']*)""", box[1])) if box else {}
    names = ("minx", "miny", "maxx", "maxy")
    # gdal2tiles wrote latitude first for years.
    orders = (
        [",".join(ends[names[i]] for i in order) for order in ((0, 1, 2, 3), (1, 0, 3, 2))] if len(ends) == 4 else []
    )
    return {"crs": crs and crs[1], "profile": profile and profile[1], "bounds": orders}
