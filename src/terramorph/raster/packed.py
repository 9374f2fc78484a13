"""Images inside other files: members of ZIP archives, and GDAL sub-datasets of NetCDF, HDF and TIFF files.

Each becomes a file in a temporary folder, a member of an archive together with what lies beside it, and is read there.
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from terramorph.errors import RasterError, raised_as
from terramorph.raster.dataset import gdal_session

_IMAGES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".img", ".vrt", ".gif"})
_ZIPPED = re.compile(r"(?i)(?:/vsizip/|zip://?|zip\+file://?)(.+)")
_SUBDATASET = re.compile(r"(?i)(?:netcdf|hdf4(?:_\w+)?|hdf5|gtiff_dir|nitf_im|zarr|bag|gpkg):.+")


def is_subdataset(spec: str | Path) -> bool:
    """Return whether a name is GDAL's name of a sub-dataset, such as NETCDF:"scene.nc":B4."""
    return _SUBDATASET.fullmatch(str(spec)) is not None


def is_packed(spec: str | Path) -> bool:
    """Return whether a name is of a sub-dataset, a ZIP archive (a.zip), or a member of one (zip://a.zip!b.tif,
    /vsizip/a.zip/b.tif, /vsizip/{a.zip}/b.tif)."""
    return is_subdataset(spec) or zipped(spec) is not None


@contextmanager
def unpacked(spec: str | Path) -> Iterator[tuple[Path, str, list[Path]]]:
    """Extract an image from another file to a temporary folder, which the block's end removes.

    Args:
        spec: A name as in `is_packed`; an archive without a member's name must hold one image.

    Yields:
        The image's path, alone with its companions in its folder; its name; and files that it is made of beside it.

    Raises:
        RasterError: If the file cannot be read, or holds no such image, or several of which none is named.
    """
    with TemporaryDirectory(prefix="terramorph-packed-", ignore_cleanup_errors=True) as folder:
        found = zipped(spec)
        if found is None:
            yield Path(folder, "part.vrt"), str(spec), _write_vrt(str(spec), Path(folder, "part.vrt"))
        else:
            archive, name = found
            image, name = _unzip(archive, name, Path(folder))
            yield image, f"zip://{archive}!{name}", []


@contextmanager
def named_as(name: str, path: Path) -> Iterator[None]:
    """Name the image inside another file in errors, in place of the temporary file at ``path``."""
    try:
        yield
    except RasterError as error:
        raise RasterError(str(error).replace(str(path), name)) from error


def zipped(spec: str | Path) -> tuple[Path, str | None] | None:
    """Split a name into archive and member (None: the only image); None for other names."""
    match = _ZIPPED.fullmatch(str(spec))
    if match is None:
        return (Path(spec), None) if Path(spec).suffix.lower() == ".zip" and Path(spec).is_file() else None
    parts = re.fullmatch(r"\{(.+?)\}[!/]*(.*)", match[1]) or re.fullmatch(r"(.+?\.zip)[!/]*(.*)", match[1], re.I)
    name, inside = parts.groups() if parts else (match[1], "")
    archive = Path(name)
    if not archive.is_file() and Path("/", name).is_file():  # a `Path` made of zip:///a.zip has lost two of its slashes
        archive = Path("/", name)
    return archive, inside or None


def _write_vrt(name: str, path: Path) -> list[Path]:
    """Write a VRT of a sub-dataset; return the files that hold it."""
    kinds = (RasterioError, CPLE_BaseError, OSError, ValueError)
    failed = raised_as(RasterError, f"{name} cannot be opened", "gdalinfo lists the parts of a file", *kinds)
    with failed, gdal_session(), rasterio.open(name) as dataset:
        rasterio.shutil.copy(dataset, path, driver="VRT")
        return [Path(file) for file in dataset.files]


def _unzip(archive: Path, name: str | None, folder: Path) -> tuple[Path, str]:
    """Extract a member, or the only image, and its companions of the same stem (world file, .prj, .aux.xml)."""
    if not archive.is_file():
        raise RasterError(f"{archive} does not exist; check the path of the archive.")
    # RuntimeError: a password, or a method of packing that zipfile does not know.
    kinds = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)
    damaged = raised_as(RasterError, f"{archive} cannot be unpacked", "copy it again, or unpack it yourself", *kinds)
    with damaged, zipfile.ZipFile(archive) as content:
        name = name or _only_image(archive, content.namelist())
        wanted, beside = PurePosixPath(name), {}
        for info in content.infolist():
            path = PurePosixPath(info.filename)
            if path.parent == wanted.parent and path.name.split(".")[0] == wanted.name.split(".")[0]:
                beside[info.filename] = info
        if name not in beside:
            raise RasterError(f"{archive} holds no {name}; it holds {', '.join(content.namelist()[:5])}.")
        size, free = sum(info.file_size for info in beside.values()), shutil.disk_usage(folder).free
        if size > free:
            raise RasterError(
                f"{archive} unpacks to {size:,} bytes and {folder} has {free:,}; set TMPDIR to a larger disk."
            )
        for info in beside.values():
            if not info.is_dir():
                with content.open(info) as packed, (folder / PurePosixPath(info.filename).name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
    return folder / wanted.name, name


def _only_image(archive: Path, names: list[str]) -> str:
    images = [name for name in names if PurePosixPath(name).suffix.lower() in _IMAGES]
    if not images:
        raise RasterError(f"{archive} holds no image; it holds {', '.join(names[:5]) or 'nothing'}.")
    if len(images) > 1:
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        raise RasterError(
            f"{archive} holds {len(images)} images; name one, such as zip://{archive}!{images[0]}: "
            f"{', '.join(images[:5])}{more}."
        )
    return images[0]
