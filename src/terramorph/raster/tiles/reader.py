"""TileReader: where the bytes of tiles come from."""

from __future__ import annotations

import hashlib
import html
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from terramorph.errors import RasterError, warn
from terramorph.geo.mercator import MAX_ZOOM, TileBox, degrees_of_corner, tiles_of_degrees
from terramorph.raster.storage import Remote

VECTOR_ADVICE = "holds vector tiles, which are drawn from an .mbtiles or .pmtiles file here; make one of them."
"""How the sentence ends that refuses vector tiles."""


MOST_BYTES = 64 << 20
"""The most that one tile or directory may hold when it is unpacked; the largest of real archives hold some MiB."""


class TileReader(Protocol):
    """Tiles as bytes, numbered as on the web (rows from the north). May be asked from several threads at once.

    Attributes:
        name: Path or URL, as messages call it.
        licence: What is known of the terms of use, or None.
        zooms: The zooms that there are tiles of, ascending; at least one.
    """

    name: str
    licence: str | None
    zooms: tuple[int, ...]

    @property
    def vectors(self) -> bool:
        """Whether the tiles are vectors and no images."""
        ...

    def default_zoom(self) -> int:
        """The finest zoom that covers the ground; warns of finer ones, and of bounds that tiles do not lie in."""
        ...

    def box(self, zoom: int) -> TileBox:
        """The tiles of one of the zooms, or a box around them."""
        ...

    def first(self, zoom: int) -> tuple[int, int] | None:
        """(x, y) of some tile of one of the zooms; None where that is not known without asking a server."""
        ...

    def has(self, zoom: int, x: int, y: int) -> bool:
        """Whether there may be such a tile."""
        ...

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """The bytes of a tile, not compressed, or None where there is none.

        Raises:
            RasterError: If it is there and cannot be had.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digest (blake2b, 16 bytes) of the content."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


def looks_like_vectors(tile: bytes) -> bool:
    """Whether a tile, not compressed, starts as a Mapbox vector tile does: with a layer."""
    return tile[:1] == b"\x1a"


def covering_zoom(name: str, counts: Mapping[int, int], parents: Callable[[int, int], int]) -> int:
    """The finest zoom that is no stray: that covers half of what any coarser zoom with more tiles does, or more.

    Args:
        name: of the archive, for the warning about finer ones.
        counts: number of tiles by zoom.
        parents: of a zoom and a coarser one, the number of the coarser one's tiles that lie over tiles of the zoom.
    """
    strays: list[str] = []
    for zoom in sorted(counts, reverse=True):
        if not any(
            coarser < zoom and count > counts[zoom] and 2 * parents(zoom, coarser) < count
            for coarser, count in counts.items()
        ):
            break
        strays.append(f"zoom {zoom} ({counts[zoom]} of them)")
    if strays:
        warn(
            f"{name}: tiles of {', '.join(strays)} cover little of the ground; those of zoom {zoom} "
            f"({counts[zoom]}) are read: name a zoom to read another."
        )
    return zoom


def file_fingerprint(path: Path | Remote) -> str:
    """Hex digest (blake2b, 16 bytes) of a file's bytes, or of what a server says of them.

    Raises:
        RasterError: If the file cannot be read.
    """
    if isinstance(path, Remote):
        return hashlib.blake2b(path.identity().encode(), digest_size=16).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise RasterError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def check_tile(where: str, zoom: int, x: int, y: int) -> None:
    """Refuses numbers that no tile has.

    Raises:
        RasterError: If the zoom is not in 0 ... `MAX_ZOOM`, or the world of that zoom has no such tile.
    """
    if not 0 <= zoom <= MAX_ZOOM or not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
        raise RasterError(
            f"{where} would be tile x={x} y={y} of zoom {zoom}, and there is no such tile; its layout is another one: "
            "name it, or remove the file."
        )


def likeness(a: TileBox, b: TileBox) -> float:
    """The share, 0 to 1, that two boxes have in common of what they cover together."""
    common = a.meet(b).size
    return common / (a.size + b.size - common)


def stated_degrees(bounds: object) -> tuple[float, float, float, float] | None:
    """Bounds as `stated_box` takes them, as numbers; None where they are no such thing, or have no extent."""
    try:
        values = bounds.split(",") if isinstance(bounds, str) else list(bounds)  # type: ignore[call-overload]
        west, south, east, north = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not (max(abs(west), abs(east)) <= 180 and west != east and -90 <= south < north <= 90):
        return None
    return west, south, east, north


def stated_box(bounds: object, zoom: int) -> TileBox | None:
    """The tiles in bounds as an archive states them: west, south, east, north in degrees, as numbers or as text.

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


def tell_bounds(name: str, bounds: object, zoom: int, box: TileBox) -> None:
    """Warns where the bounds that an archive states are not those of its tiles.

    Args:
        name: what states them.
        bounds: as `stated_box` takes them.
        zoom, box: the tiles that there are.
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
    """Data without their compression (gzip or zlib), which is told by the first bytes; others are given back.

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


def plain_text(markup: Any) -> str | None:
    """Text without HTML tags; None where there is none."""
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", str(markup or ""))).split())
    return text or None
