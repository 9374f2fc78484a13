"""The files that a VRT is made of: whether they can be opened where a window needs them.

GDAL tells once of a file that it cannot open, and remembers that it has told as long as another VRT is open: from then
on it reads zeros without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from terramorph.errors import RasterError, raised_as

_EVERYWHERE = (-np.inf, -np.inf, np.inf, np.inf)
_MOST_NESTED = 8
"""Depth to which VRTs in VRTs are looked through."""
_NAME = re.compile(r"/vsi|<|\w{2,}:")
"""Beginning of what is no path: GDAL's names of files elsewhere and of parts of files, and a VRT written in place."""


class VrtFiles:
    """The files of a VRT, each with the box that it fills; none of them is open.

    Args:
        path: The VRT; one that cannot be parsed has none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = dict.fromkeys(_sources(path))
        self._names = [name for name, _ in found]
        self._boxes = np.array([box for _, box in found], np.float64).reshape(-1, 4)
        self._unseen = np.ones(len(found), np.bool_)

    def check(self, left: float, top: float, right: float, bottom: float) -> None:
        """Open, once, each file that a window of the VRT needs (columns and rows).

        Raises:
            RasterError: If one cannot be opened.
        """
        boxes = self._boxes
        needed = (boxes[:, 0] < right) & (left < boxes[:, 2]) & (boxes[:, 1] < bottom) & (top < boxes[:, 3])
        for number in np.flatnonzero(needed & self._unseen):
            self._open(self._names[number])
            self._unseen[number] = False

    def _open(self, name: str) -> None:
        failed, advice = f"{self._path} is made of files, of which {name} cannot be read", "put it where it says, or "
        with raised_as(RasterError, failed, f"{advice}build {self._path.name} again (gdalbuildvrt)", RasterioError):
            rasterio.open(name).close()
        for missing in _missing(Path(name)):
            raise RasterError(f"{failed}: it is made of {missing}, which does not exist; {advice}build it again.")


def _sources(path: Path) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """Give what a VRT names, as GDAL opens it, with its box: left, top, right, bottom."""
    with suppress(ElementTree.ParseError, OSError, ValueError):
        for _, node in ElementTree.iterparse(path):
            named = node.find("SourceFilename")
            name = "" if named is None else (named.text or "").strip()
            if node.tag == "VRTRasterBand" or node.find("OpenOptions") is not None:
                continue  # bytes without a header, or what a plain name does not open
            if named is None or not name or name.startswith("<"):
                continue
            relative = any(key.lower() == "relativetovrt" and value == "1" for key, value in named.attrib.items())
            box, at = _EVERYWHERE, node.find("DstRect")
            if at is not None:
                x, y, wide, high = (float(at.get(key, "nan")) for key in ("xOff", "yOff", "xSize", "ySize"))
                box = (x, y, x + wide, y + high) if np.isfinite(x + y + wide + high) else _EVERYWHERE
            yield (str(path.parent / name) if relative and not _NAME.match(name) else name), box
            node.clear()


def _missing(path: Path, depth: int = 0) -> Iterator[Path]:
    """Give the files here that a VRT and those in it name and that do not exist."""
    if path.suffix.lower() != ".vrt" or depth == _MOST_NESTED:
        return
    for name in dict.fromkeys(name for name, _ in _sources(path)):
        if _NAME.match(name):
            continue
        if not Path(name).exists():
            yield Path(name)
        yield from _missing(Path(name), depth + 1)
