"""TileReader: where the bytes of tiles come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from terramorph.errors import RasterError, warn
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.scheme import TileBox

VECTOR_ADVICE = "holds vector tiles; give it as --target to be drawn."
"""How the sentence ends that refuses vector tiles."""


class TileReader(Protocol):
    """Encoded tiles, numbered as on the web (rows from the north). May be asked from several threads at once.

    Attributes:
        name: Path or URL, as messages call it.
        licence: What is known of the terms of use, or None.
        zooms: The zooms that there are tiles of, ascending; at least one.
    """

    name: str
    licence: str | None
    zooms: tuple[int, ...]

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
        """The encoded image of a tile, or None where there is none.

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
