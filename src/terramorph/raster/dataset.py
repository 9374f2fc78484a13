"""GDAL datasets: opening them, their georeference, and handles that threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import rasterio
from affine import Affine
from odc.geo.crs import CRS
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT

from terramorph.errors import RasterError, converted
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.quiet import quiet
from terramorph.raster.storage import Remote, sentence
from terramorph.raster.worldfile import read_crs, read_place, text_place

GDAL_OPTIONS = {
    # World files and .tab are left to `read_place`: GDAL takes a damaged number in one for 0. Its drivers of PNG, JPEG
    # and BMP read them all the same, which is why `dataset_place` does not ask those.
    "GDAL_GEOREF_SOURCES": "PAM,INTERNAL",
    # GDAL's way of decoding a whole PNG at once takes a truncated one for whole, and holds it in memory.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # Datum parameters of a file count though GDAL knows the datum's name.
    "OSR_STRIP_TOWGS84": "NO",
    "GDAL_CACHEMAX": 64 * 2**20,
}
"""GDAL's settings while we read. Its cache of decoded blocks, bytes, is one for the process and not one for each file;
left alone it would grow to a twentieth of the machine's memory."""

_PLACELESS = frozenset({"PNG", "JPEG", "BMP", "GIF", "WEBP", "PNM"})
"""Drivers that are not asked for a place: they read world files, and PNM's gives whatever lies in memory."""
DEM = "dem"
"""Key of the DEM among warp options; all other keys are `WarpedVRT`'s."""


class NoImageError(RasterError):
    """A file is of no kind that GDAL reads images of."""


@contextmanager
def named_errors(path: Path | Remote) -> Iterator[None]:
    """Convert errors of PIL, GDAL and PROJ, whose classes share no base, to a RasterError that names the file."""

    def unreadable(reason: str) -> RasterError:
        if "supported file format" in reason:
            return NoImageError(
                f"{path} is not an image of a kind that is read; if it is one (ECW, MrSID, OZF), convert it to GeoTIFF "
                f"with a program that reads it: gdal_translate {path.name} converted.tif"
            )
        if "libjpeg to allocate" in reason:
            return RasterError(
                f"{path} is a progressive JPEG, which can only be decoded whole, and too large for that; save it as a "
                "baseline JPEG or as a GeoTIFF."
            )
        if isinstance(path, Remote):
            return RasterError(sentence(path, "read", reason))
        return RasterError(
            f"{path} cannot be read as an image, it is damaged, truncated or of an unknown kind ({reason}); "
            "copy it again or remove it."
        )

    def too_large(_: str) -> RasterError:
        return RasterError(f"{path} does not fit into memory; cut it into smaller pieces.")

    with converted(unreadable), converted(too_large, MemoryError):
        yield


@contextmanager
def gdal_session(options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Run GDAL with our settings in this thread."""
    with quiet(), rasterio.Env(**GDAL_OPTIONS, **(options or {})):
        yield


@contextmanager
def open_dataset(path: Path) -> Iterator[Any]:
    """Open a dataset with rasterio, with our GDAL settings."""
    with gdal_session(), rasterio.open(path) as dataset:
        yield dataset


def block_count(dataset: Any) -> int:
    """Return in how many blocks a band is stored."""
    rows, columns = dataset.block_shapes[0]
    return int(-(-dataset.height // rows) * -(-dataset.width // columns))


def check_blocks(path: Path | Remote, dataset: Any) -> None:
    """Refuse a TIFF that lists fewer blocks than it claims: GDAL reads those that are missing as 0.

    A file that leaves out blocks without data lists them all the same, each in two bytes at least.
    """
    if dataset.driver != "GTiff" or not (isinstance(path, Path) and path.is_file()):
        return
    blocks, size = block_count(dataset), path.stat().st_size
    if 2 * blocks > size:
        raise RasterError(
            f"{path} claims {dataset.height} x {dataset.width} pixels in {blocks:,} blocks, more than a file of "
            f"{size:,} bytes can list; copy it again."
        )


def dataset_place(dataset: Any, path: Path | Remote) -> tuple[Affine, CRS | None] | None:
    """Return affine and CRS of a dataset: its own, else those of files beside it, else of a PNG's text chunks.

    Raises:
        RasterError: If a file beside it is damaged.
    """
    crs = to_odc_crs(dataset.crs) if dataset.crs else None
    if dataset.driver not in _PLACELESS and dataset.transform != Affine.identity():
        return dataset.transform, crs or (read_crs(path) if isinstance(path, Path) else None)
    place = None if isinstance(path, Remote) else read_place(path, (dataset.height, dataset.width))
    if place is None and dataset.driver == "PNG":
        place = text_place(path, dataset.tags())
    return None if place is None else (place[0], place[1] or crs)


class Handles:
    """Dataset handles of one file, each lent to one reader at a time and reused.

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
        """Set up without opening the file.

        Args:
            single: Whether there is one handle for all.
            warping: Options of `WarpedVRT`, and a `DEM`, where the file is warped while it is read; None: it is read as
                stored.
            overview: Number of the overview that is read, from 0; None reads the image itself.
            driver: See `ReadOptions`.
            name: GDAL's name, if it is not the file's path.
        """
        self._path = path
        self._name = name or (path.gdal_name if isinstance(path, Remote) else path)
        self._options = path.gdal_options if isinstance(path, Remote) else {}
        self._warping = warping
        self._how = {"driver": driver} | ({} if overview is None else {"OVERVIEW_LEVEL": overview})
        self._turn = threading.Lock() if single else nullcontext()
        self._lock = threading.Lock()
        self._idle: list[tuple[Any, ExitStack]] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Any]:
        """Lend a dataset to one reader, with GDAL's settings in place.

        Raises:
            RasterError: If the file cannot be used, or the handles were closed.
        """
        with self._turn, gdal_session(self._options):
            with self._lock:
                if self._closed:
                    raise RasterError(f"{self._path} was closed; open it again.")
                handle = self._idle.pop() if self._idle else None
            if handle is None:
                handle = self._opened()
            dataset, held = handle
            try:
                yield dataset
            except BaseException:
                # GDAL may have told of several errors, of which rasterio raises one and keeps the next for whatever
                # this thread does next, on whichever file: it is heard here.
                with suppress(Exception):
                    _ = dataset.colorinterp
                held.close()  # a decoder that failed may be anywhere in its file
                raise
            with self._lock:
                if not self._closed:
                    self._idle.append(handle)
                    return
            held.close()

    def close(self) -> None:
        """Close idle handles; lent ones are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, held in idle:
            held.close()

    def _opened(self) -> tuple[Any, ExitStack]:
        """Open a dataset, warped if asked, and return it with what closes it."""
        with ExitStack() as stack:
            dataset = stack.enter_context(rasterio.open(self._name, **self._how))
            if self._warping is not None:
                how = {key: value for key, value in self._warping.items() if key != DEM}
                dataset = stack.enter_context(WarpedVRT(dataset, **how))
                if DEM in self._warping:
                    heights = _on_heights(dataset, self._name, self._warping[DEM])
                    dataset = stack.enter_context(rasterio.open(heights))
            return dataset, stack.pop_all()


def _on_heights(warped: WarpedVRT, name: str | Path, dem: str) -> str:
    """Return the text of a VRT that warps a scene by RPCs at the heights of a DEM.

    `WarpedVRT` could do this, but writes the DEM's path in capitals.
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
