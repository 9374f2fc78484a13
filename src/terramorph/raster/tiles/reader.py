"""TileReader: the base of everything that gives the bytes of tiles."""

from __future__ import annotations

import hashlib
import html
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.errors import RasterError, raised_as, unreadable, warn
from terramorph.geo.mercator import MAX_ZOOM, TileBox, degrees_of_corner, tiles_of_degrees
from terramorph.raster.source import Closing
from terramorph.raster.storage import Remote

VECTOR_ADVICE = "holds vector tiles, which are drawn from an .mbtiles or .pmtiles file here; make one of them."
"""End of the sentence that refuses vector tiles."""


_MERCATORS = frozenset({"3857", "900913", "41001", "3785", "102100", "102113", "3395"})
MOST_BYTES = 64 << 20
"""Limit on decompressed bytes of one tile or directory; the largest in real archives have some MiB."""


class TileReader(Closing, ABC):
    """Tiles as bytes, numbered as on the web (rows from the north). May be asked from several threads at once.

    Attributes:
        name: Path or URL, as messages call it.
        licence: What is known of the terms of use, or None.
        zooms: The zooms that there are tiles of, ascending; at least one.
        counts: Number of tiles by zoom; empty where it is not known.
        bounds: West, south, east, north in degrees as it states them, as numbers or as text; None where it does not.
        stated_in: What of it states them, for messages.
        crs: The CRS that it states; None for web mercator.
    """

    name: str
    licence: str | None = None
    zooms: tuple[int, ...]
    counts: Mapping[int, int] = MappingProxyType({})
    bounds: object = None
    stated_in = "the metadata"
    crs: CRS | None = None
    _path: Path | Remote

    @property
    def vectors(self) -> bool:
        """Whether the tiles are vectors and no images."""
        return False

    def default_zoom(self) -> int:
        """Return the finest zoom that covers half of what any coarser zoom with more tiles does, or more.

        Warn of finer zooms, which are strays, and of stated bounds that do not fit the tiles.
        """
        if not self.counts:
            return self.zooms[-1]
        strays: list[str] = []
        for zoom in sorted(self.counts, reverse=True):
            if not any(
                coarser < zoom and count > self.counts[zoom] and 2 * self.parents(zoom, coarser) < count
                for coarser, count in self.counts.items()
            ):
                break
            strays.append(f"zoom {zoom} ({self.counts[zoom]} of them)")
        if strays:
            warn(
                f"{self.name}: tiles of {', '.join(strays)} cover little of the ground; those of zoom {zoom} "
                f"({self.counts[zoom]}) are read: name a `zoom` to read another."
            )
        tell_bounds(f"{self.name}: {self.stated_in}", self.bounds, zoom, self.box(zoom))
        return zoom

    def parents(self, zoom: int, coarser: int) -> int:
        """Count the tiles of a coarser zoom over the tiles of a zoom; asked only where there are `counts`."""
        raise NotImplementedError

    @abstractmethod
    def box(self, zoom: int) -> TileBox:
        """Return the box around the tiles of one of the zooms."""

    @abstractmethod
    def first(self, zoom: int) -> tuple[int, int] | None:
        """Return (x, y) of some tile of one of the zooms; None where only a server knows."""

    @abstractmethod
    def has(self, zoom: int, x: int, y: int) -> bool:
        """Return whether there may be such a tile."""

    @abstractmethod
    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """Read the bytes of a tile, decompressed; None where there is none.

        Raises:
            RasterError: If it is there and cannot be had.
        """

    def unpacked(self, data: bytes, zoom: int, x: int, y: int) -> bytes:
        """Decompress the bytes of a tile.

        Raises:
            RasterError: If they are damaged.
        """
        with raised_as(RasterError, f"{self.name}: tile {zoom}/{x}/{y} is damaged", "copy it again", OSError):
            return unpacked(data)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the content."""
        return file_fingerprint(self._path)


def is_picture(data: bytes) -> bool:
    """Return whether a tile begins as PNG, JPEG or WebP do."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def looks_like_vectors(tile: bytes) -> bool:
    """Return whether a decompressed tile begins with a layer, as Mapbox vector tiles do."""
    return tile[:1] == b"\x1a"


def file_fingerprint(path: Path | Remote) -> str:
    """Return a hex digest (blake2b, 16 bytes) of a file's bytes, or of a server's checksum.

    Raises:
        RasterError: If the file cannot be read.
    """
    if isinstance(path, Remote):
        return hashlib.blake2b(path.identity().encode(), digest_size=16).hexdigest()
    with unreadable(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_tile(where: str, zoom: int, x: int, y: int) -> None:
    """Refuse tile numbers outside the world of a zoom.

    Raises:
        RasterError: If the zoom is not in 0 ... `MAX_ZOOM`, or the world of that zoom has no such tile.
    """
    if not 0 <= zoom <= MAX_ZOOM or not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
        raise RasterError(
            f"{where} would be tile x={x} y={y} of zoom {zoom}, and there is no such tile; its layout is another one: "
            "name it, or remove the file."
        )


def likeness(a: TileBox, b: TileBox) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    common = a.meet(b).size
    return common / (a.size + b.size - common)


def stated_degrees(bounds: object) -> tuple[float, float, float, float] | None:
    """Parse bounds in degrees, given as numbers or text; None where they are invalid or empty."""
    try:
        values = bounds.split(",") if isinstance(bounds, str) else list(bounds)  # type: ignore[call-overload]
        west, south, east, north = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not (max(abs(west), abs(east)) <= 180 and west != east and -90 <= south < north <= 90):
        return None
    return west, south, east, north


def stated_box(bounds: object, zoom: int) -> TileBox | None:
    """Return the tiles in stated bounds (west, south, east, north in degrees, as numbers or text).

    None where they are no such thing, or have no extent. West may be greater than east: ground across 180 degrees.
    """
    degrees = stated_degrees(bounds)
    if degrees is None:
        return None
    west, south, east, north = degrees
    if west < east:
        return tiles_of_degrees(zoom, west, south, east, north)
    before, after = (tiles_of_degrees(zoom, *ends) for ends in ((west, south, 180, north), (-180, south, east, north)))
    return before._replace(right=after.right + (1 << zoom))


def lies_flipped(box: TileBox, bounds: object, zoom: int) -> bool:
    """Return whether tiles fit the stated bounds only with rows counted from the other side."""
    stated = stated_box(bounds, zoom)
    return stated is not None and likeness(flipped(box, zoom), stated) > 2 * likeness(box, stated)


def flipped(box: TileBox, zoom: int) -> TileBox:
    """Return a box of tiles with rows counted from the other side."""
    side = 1 << zoom
    return TileBox(box.left, side - box.bottom, box.right, side - box.top)


def said_crs(name: str, metadata: Mapping[str, Any]) -> CRS | None:
    """Return the CRS of the tiles' pyramid as metadata state it; None where they do not.

    MapTiler, gdal2tiles and GDAL write "profile" and "crs".

    Raises:
        RasterError: If it is another than the web's, or Yandex's.
    """
    profile, crs = (str(metadata.get(key) or "").strip() for key in ("profile", "crs"))
    code = re.fullmatch(r"(?i)(?:EPSG|OSGEO|urn:ogc:def:crs:EPSG:\d*:)?:?(\d+)", crs)
    if (crs and (code is None or code[1] not in _MERCATORS)) or (profile and "mercator" not in profile.lower()):
        raise RasterError(
            f"{name}: its metadata say that the tiles are in {crs or profile}; only tiles of web mercator (EPSG:3857) "
            "are read: cut them again, or give the raster that they were cut from."
        )
    return CRS("EPSG:3395") if code and code[1] == "3395" else None


def tell_bounds(name: str, bounds: object, zoom: int, box: TileBox) -> None:
    """Warn where stated bounds are not those of the tiles.

    Args:
        name: What states them, for messages.
        bounds: Bounds as in `stated_box`.
        zoom, box: Tiles of the archive.
    """
    stated = stated_box(bounds, zoom)
    # Bounds that may not wrap around are the whole world's where ground lies across 180 degrees.
    shown = [box, box._replace(left=0, right=1 << zoom)] if box.right > 1 << zoom else [box]
    if bounds is None or (stated is not None and max(likeness(stated, one) for one in shown) >= 0.5):
        return
    west, north = degrees_of_corner(zoom, box.left, box.top)
    east, south = degrees_of_corner(zoom, box.right, box.bottom)
    tiles = f"{west:.5g}, {south:.5g}, {east:.5g}, {north:.5g}"
    warn(f"{name} gives bounds {str(bounds)[:80]}; the tiles lie in {tiles}, which counts.")


def unpacked(data: bytes) -> bytes:
    """Decompress gzip or zlib data, recognised by the first bytes; other data is returned as it is.

    Raises:
        OSError: If they are damaged, or hold more than `MOST_BYTES`.
    """
    if data[:2] != b"\x1f\x8b" and data[:2] not in (b"\x78\x9c", b"\x78\xda", b"\x78\x01"):
        return data
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib
    try:
        found = unpacker.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise OSError(str(error)) from error
    if not unpacker.eof:
        raise OSError("it ends early" if len(found) < MOST_BYTES else f"it holds more than {MOST_BYTES >> 20} MiB")
    return found


def varints(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Parse Protocol Buffers' variable-length integers, one after the other, to int64; the last must be whole.

    Raises:
        ValueError: If the bytes end within one.
    """
    last = data < 128
    if not len(data):
        return np.zeros(0, np.int64)
    if not last[-1]:
        raise ValueError("it ends early")
    begin = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(begin, np.diff([*begin, len(data)]))
    return np.asarray(np.add.reduceat((data & 127).astype(np.int64) << (7 * np.minimum(place, 8)), begin))


def plain_text(markup: Any) -> str | None:
    """Return text without HTML tags; None without text."""
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", str(markup or ""))).split())
    return text or None
