"""GDAL's handles of one file, shared out among threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT

from terramorph.errors import RasterError
from terramorph.raster.dataset import gdal_session
from terramorph.raster.storage import Remote

DEM = "dem"
"""Of what a file is warped by: the raster of heights; all other keys are for `WarpedVRT`."""


class Handles:
    """Datasets of one file, each lent to one reader at a time and used again.

    A handle of GDAL must not be used by two threads at once, but may go from one to the next. So readers of a tiled
    file get one each, as many as read at the same time. A file that is decoded from the top has a single one, for which
    readers queue: a second would begin at the top again, and jump back and forth.
    """

    def __init__(
        self,
        path: Path | Remote,
        *,
        single: bool,
        warping: Mapping[str, Any] | None = None,
        overview: int | None = None,
        driver: str | None = None,
        name: str | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: of the file.
            single: whether there is one handle for all.
            warping: what `WarpedVRT` is given, where the file is warped as it is read; None: it is read as stored.
            overview: number of the overview that is read, from 0; None reads the image itself.
            driver: see `ReadOptions`.
            name: what GDAL opens, if not the file itself.
        """
        self._path = path
        self._name = name or (path.gdal_name if isinstance(path, Remote) else path)
        self._options = path.gdal_options if isinstance(path, Remote) else {}
        self._warping = warping
        self._overview = overview
        self._driver = driver
        self._turn = threading.Lock() if single else nullcontext()
        self._lock = threading.Lock()
        self._idle: list[_Handle] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Any]:
        """A dataset, for this reader alone, with GDAL's settings in place.

        Raises:
            RasterError: If the file cannot be used, or the handles were closed.
        """
        with self._turn, gdal_session(self._options):
            with self._lock:
                if self._closed:
                    raise RasterError(f"{self._path} was closed; open it again.")
                handle = self._idle.pop() if self._idle else None
            if handle is None:
                handle = _Handle(self._name, self._warping, self._overview, self._driver)
            try:
                yield handle.dataset
            except BaseException:
                # GDAL may have told of several errors, of which rasterio raises one and keeps the next for whatever
                # this thread does next, on whichever file: it is heard here.
                with suppress(Exception):
                    _ = handle.dataset.colorinterp
                handle.close()  # a decoder that failed may be anywhere in its file
                raise
            with self._lock:
                if not self._closed:
                    self._idle.append(handle)
                    return
            handle.close()

    def close(self) -> None:
        """Closes the handles; those that are lent are closed as they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()


class _Handle:
    """One open dataset, warped if asked."""

    def __init__(
        self, name: str | Path, warping: Mapping[str, Any] | None, overview: int | None, driver: str | None
    ) -> None:
        level = {} if overview is None else {"OVERVIEW_LEVEL": overview}
        with ExitStack() as stack:
            self.dataset = stack.enter_context(rasterio.open(name, driver=driver, **level))
            if warping is not None:
                how = {key: value for key, value in warping.items() if key != DEM}
                self.dataset = stack.enter_context(WarpedVRT(self.dataset, **how))
                if DEM in warping:
                    heights = _on_heights(self.dataset, name, warping[DEM])
                    self.dataset = stack.enter_context(rasterio.open(heights))
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


def _on_heights(warped: WarpedVRT, name: str | Path, dem: str) -> str:
    """A scene that is warped by RPCs at one height, warped at the heights of a raster instead: the text of a VRT.

    `WarpedVRT` would do it alone, but for writing the raster's path in capitals.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "scene.vrt"
        copy(warped, file, driver="VRT")
        tree = ElementTree.parse(file)
    scene, formula, offset = (tree.find(f".//{tag}") for tag in ("SourceDataset", "RPCTransformer", "HeightOffset"))
    assert scene is not None
    assert formula is not None
    assert offset is not None
    scene.text = str(Path(name).absolute()) if isinstance(name, Path) else name
    scene.set("relativeToVRT", "0")
    for key, value in (("DEMPath", dem), ("DEMInterpolation", "bilinear"), ("DEMMissingValue", offset.text)):
        ElementTree.SubElement(formula, key).text = value
    offset.text = "0"  # it would be added to the heights
    return ElementTree.tostring(tree.getroot(), encoding="unicode")
