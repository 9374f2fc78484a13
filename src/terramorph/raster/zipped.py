"""Images in ZIP archives: unpacked into a temporary folder together with what lies beside them, and read there."""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from terramorph.errors import RasterError, raised_as

_IMAGES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".img", ".vrt", ".gif"})
_NAMES = re.compile(r"(?i)(?:/vsizip/|zip://?|zip\+file://?)(.+)")


def as_zipped(spec: str | Path) -> tuple[Path, str | None] | None:
    """An archive and what is meant inside it.

    Args:
        spec: a path of an archive, /vsizip/a.zip/b.tif, /vsizip/{a.zip}/b.tif, or zip://a.zip!b.tif.

    Returns:
        The archive, and the name of a member or None; None where the name is of another kind.
    """
    match = _NAMES.fullmatch(str(spec))
    if match is None:
        return (Path(spec), None) if Path(spec).suffix.lower() == ".zip" and Path(spec).is_file() else None
    parts = re.fullmatch(r"\{(.+?)\}[!/]*(.*)", match[1]) or re.fullmatch(r"(.+?\.zip)[!/]*(.*)", match[1], re.I)
    name, inside = parts.groups() if parts else (match[1], "")
    archive = Path(name)
    if not archive.is_file() and Path("/", name).is_file():  # a `Path` made of zip:///a.zip has lost two of its slashes
        archive = Path("/", name)
    return archive, inside or None


@contextmanager
def unpacked(archive: Path, member: str | None) -> Iterator[tuple[Path, str]]:
    """An image and what lies beside it, in a temporary folder that is gone after the block.

    Args:
        archive: the ZIP file.
        member: name of the image; None takes the only one.

    Yields:
        The image's path, alone with its companions in its folder, and its name in the archive.

    Raises:
        RasterError: if the archive cannot be read, holds no such image, or several of which none is named.
    """
    if not archive.is_file():
        raise RasterError(f"{archive} does not exist; check the path of the archive.")
    with TemporaryDirectory(prefix="terramorph-zip-", ignore_cleanup_errors=True) as folder:

        def damaged(reason: str) -> RasterError:
            return RasterError(f"{archive} cannot be unpacked ({reason}); copy it again, or unpack it yourself.")

        # RuntimeError: a password, or a method of packing that zipfile does not know.
        kinds = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)
        with raised_as(damaged, *kinds), zipfile.ZipFile(archive) as content:
            name = member or _only_image(archive, content)
            image = _unpack(archive, content, name, Path(folder))
        yield image, name


def _only_image(archive: Path, content: zipfile.ZipFile) -> str:
    images = [name for name in content.namelist() if PurePosixPath(name).suffix.lower() in _IMAGES]
    if not images:
        raise RasterError(f"{archive} holds no image; it holds {', '.join(content.namelist()[:5]) or 'nothing'}.")
    if len(images) > 1:
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        raise RasterError(
            f"{archive} holds {len(images)} images; name one, such as zip://{archive}!{images[0]}: "
            f"{', '.join(images[:5])}{more}."
        )
    return images[0]


def _unpack(archive: Path, content: zipfile.ZipFile, member: str, folder: Path) -> Path:
    """Write a member and what lies beside it under its stem (world file, .prj, .aux.xml) into a folder."""
    wanted = PurePosixPath(member)
    beside = [
        info
        for info in content.infolist()
        if PurePosixPath(info.filename).parent == wanted.parent
        and not info.is_dir()
        and PurePosixPath(info.filename).name.split(".")[0] == wanted.name.split(".")[0]
    ]
    if member not in {info.filename for info in beside}:
        raise RasterError(f"{archive} holds no {member}; it holds {', '.join(content.namelist()[:5])}.")
    size, free = sum(info.file_size for info in beside), shutil.disk_usage(folder).free
    if size > free:
        raise RasterError(
            f"{archive} unpacks to {size:,} bytes and {folder} has {free:,}; set TMPDIR to a larger disk."
        )
    for info in beside:
        with content.open(info) as packed, (folder / PurePosixPath(info.filename).name).open("wb") as file:
            shutil.copyfileobj(packed, file)
    return folder / wanted.name
