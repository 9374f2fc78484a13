"""GDAL's handles of one file, shared out among threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio.enums import ColorInterp
from rasterio.enums import Resampling as GdalResampling
from rasterio.vrt import WarpedVRT

from terramorph.errors import RasterError
from terramorph.raster.dataset import gdal_session
from terramorph.raster.storage import Remote


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
        gcp_resampling: GdalResampling | None = None,
        overview: int | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: of the file.
            single: whether there is one handle for all.
            gcp_resampling: how to warp by the file's ground control points; None reads it as it is stored.
            overview: number of the overview that is read, from 0; None reads the image itself.
        """
        self._path = path
        self._options = path.gdal_options if isinstance(path, Remote) else {}
        self._gcp_resampling = gcp_resampling
        self._overview = overview
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
                handle = _Handle(self._path, self._gcp_resampling, self._overview)
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
    """One open dataset, warped by its ground control points if asked."""

    def __init__(self, path: Path | Remote, gcp_resampling: GdalResampling | None, overview: int | None) -> None:
        """Opens it."""
        name = path.gdal_name if isinstance(path, Remote) else path
        level = {} if overview is None else {"OVERVIEW_LEVEL": overview}
        with ExitStack() as stack:
            self.dataset = stack.enter_context(rasterio.open(name, **level))
            if gcp_resampling is not None:
                self.dataset = stack.enter_context(_by_control_points(self.dataset, gcp_resampling))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Closes it."""
        self._stack.close()


def _by_control_points(dataset: Any, resampling: GdalResampling) -> WarpedVRT:
    """A dataset on the upright grid that GDAL lays around its ground control points."""
    # Without a CRS the points lie on a plane, which any projected one stands for.
    crs = dataset.gcps[1] or "EPSG:3857"
    with_alpha = ColorInterp.alpha in dataset.colorinterp
    return WarpedVRT(
        dataset,
        src_crs=crs,
        crs=crs,
        resampling=resampling,
        tolerance=0,
        add_alpha=not with_alpha and dataset.nodata is None,
    )
