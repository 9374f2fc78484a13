"""Files on object storage (S3 and its like) and on web servers, by URL.

Pixels are read by GDAL, in ranges of bytes; everything else goes through fsspec. Both find credentials by themselves,
in the same places. Where a server of one's own stands in for Amazon's, GDAL is told what botocore has found out
(AWS_ENDPOINT_URL, or a profile), so that it is said once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import urlsplit

from terramorph.errors import InputError, MissingPackageError, RasterError, StorageError, TerramorphError, converted
from terramorph.imports import needs

_URL = re.compile(r"(?i)(s3|gs|az|https?)://?([^/].*)")
_GDAL = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "http": "/vsicurl/", "https": "/vsicurl/"}
_ADVICE = {"gs": "pip install gcsfs", "az": "pip install adlfs"}
_CONNECT, _SILENCE, _TRIES = 5, 60, 3
"""Seconds until a server must have answered, and may then be silent; and how often it is asked."""
_GDAL_OPTIONS = {
    # Files beside an image are not looked for: to list a bucket, or to ask for each, takes longer than to read.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # Else what was once not there would never be, nor change, for this process.
    "CPL_VSIL_CURL_NON_CACHED": ":".join(sorted(set(_GDAL.values()))),
    "GDAL_HTTP_CONNECTTIMEOUT": _CONNECT,
    "GDAL_HTTP_LOW_SPEED_TIME": _SILENCE,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
    "GDAL_HTTP_MAX_RETRY": _TRIES - 1,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
}


@dataclass(frozen=True)
class Remote:
    """A file behind a URL, or a folder (a prefix of names). Methods are named as those of `Path`.

    Failures are StorageErrors; those of `identity` and `read_bytes`, which read an input, RasterErrors.

    Attributes:
        url: s3://bucket/key, gs://bucket/key, az://container/key or https://host/path, with its query.

    Raises:
        InputError: If it is no URL, or names nothing inside its bucket or on its host.
        RasterError: By `identity` and `read_bytes`, if it is not there or cannot be asked for.
        StorageError: By all others, if the server does not do it.
        MissingPackageError: By all, if the package for such URLs is not installed.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            path = urlsplit(self.url).path
        except ValueError as error:
            raise InputError(f"{self.url} is no URL ({error}); correct it.") from error
        if not path.strip("/"):
            raise InputError(f"{self} names no file; give one, such as {str(self).rstrip('/')}/map.tif.")

    def __str__(self) -> str:
        """Return the URL without its query, which may hold a signature, and without a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __truediv__(self, name: str) -> Self:
        """Return a file of this folder."""
        return type(self)(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> Self:
        """Return a file beside it."""
        return type(self)(f"{str(self).rstrip('/').rpartition('/')[0]}/{name}")

    @property
    def gdal_name(self) -> str:
        """GDAL's name of it."""
        scheme = urlsplit(self.url).scheme
        return _GDAL[scheme] + (self.url if scheme.startswith("http") else self.url.partition("://")[2])

    @cached_property
    def gdal_options(self) -> dict[str, Any]:
        """GDAL's settings for reading it."""
        return _GDAL_OPTIONS | (_s3_endpoint() if self.url.startswith("s3:") else {})

    def identity(self) -> str:
        """Return the server's checksum, else its date, and the size in bytes: they change with the content."""
        with self._errors("read", RasterError):
            info = self._system.info(self._key)
            mark = next((info[key] for key in ("ETag", "etag", "Last-Modified") if info.get(key)), "")
            return f"{mark} {info.get('size')}"

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """Read the content, or its bytes from ``start`` to before ``end``."""
        with self._errors("read", RasterError):
            return bytes(self._system.cat_file(self._key, start=start, end=end))

    def find_bytes(self) -> bytes | None:
        """Read the content; None if there is no such file."""
        with self._errors("read", StorageError), suppress(FileNotFoundError):
            return bytes(self._system.cat_file(self._key))
        return None

    def exists(self) -> bool:
        """Return whether there is such a file."""
        with self._errors("read", StorageError), suppress(FileNotFoundError):
            return bool(self._system.info(self._key)["type"] == "file")
        return False

    def write_bytes(self, data: bytes) -> None:
        """Write or replace it in one request."""
        with self._errors("written", StorageError):
            self._system.pipe_file(self._key, data)

    def create(self, data: bytes) -> bool:
        """Write it unless it exists; return whether it was written.

        One of several concurrent attempts succeeds, on servers that know conditional requests (If-None-Match), as all
        large ones do. On others all of them may.
        """
        with self._errors("written", StorageError), suppress(FileExistsError):
            self._system.pipe_file(self._key, data, mode="create")
            return True
        return False

    def modified(self) -> datetime:
        """Return its time of writing by the server's clock."""
        with self._errors("read", StorageError):
            at: datetime = self._system.modified(self._key)
            return at

    def unlink(self) -> None:
        """Remove it, if it exists."""
        with self._errors("removed", StorageError), suppress(FileNotFoundError):
            self._system.rm_file(self._key)

    def names(self) -> list[str]:
        """List the names in this folder; empty if there is no such folder."""
        with self._errors("listed", StorageError), suppress(FileNotFoundError):
            return [PurePosixPath(key).name for key in self._system.ls(self._key, detail=False)]
        return []

    def remove_all(self) -> None:
        """Remove the folder's content."""
        keys = [f"{self._key}/{name}" for name in self.names()]
        with self._errors("removed", StorageError):
            if keys:
                self._system.rm(keys)

    def upload(self, path: Path) -> None:
        """Upload a file, which appears whole, or a folder, file by file."""
        with self._errors("written", StorageError):
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                keys = [f"{self._key}/{file.relative_to(path).as_posix()}" for file in files]
                self._system.put([str(file) for file in files], keys)
            else:
                self._system.put_file(str(path), self._key)

    @property
    def _key(self) -> str:
        """fsspec's name of it."""
        return self.url if self.url.startswith("http") else self.url.partition("://")[2]

    @property
    def _system(self) -> Any:
        """fsspec's file system, which fsspec caches by arguments and process."""
        scheme = urlsplit(self.url).scheme
        tries = {"total_max_attempts": _TRIES, "mode": "standard"}
        config = {"connect_timeout": _CONNECT, "read_timeout": _SILENCE, "retries": tries}
        try:
            import fsspec

            # Others write there too, so that a listing that was kept may be of what was.
            return fsspec.filesystem(
                scheme, use_listings_cache=False, **({"config_kwargs": config} if scheme == "s3" else {})
            )
        except ImportError as error:
            advice = _ADVICE.get(scheme, "pip install 'terramorph[s3]'")
            raise MissingPackageError(
                f"What {scheme}:// URLs are read and written with is not installed; install it with {advice}."
            ) from error

    def _errors(self, doing: str, kind: type[TerramorphError]) -> AbstractContextManager[None]:
        """Convert any error of a file system to one sentence; classes of botocore and aiohttp share no base."""
        return converted(lambda reason: kind(sentence(self, doing, reason)))


def sentence(remote: Remote, doing: str, reason: str) -> str:
    """Return the error sentence for a file that cannot be read or written."""
    return (
        f"{remote} cannot be {doing} ({reason.rstrip('.')}); check the name, the credentials and the network, and run "
        "again."
    )


def as_remote(spec: str | Path) -> Remote | None:
    """Return a URL as a `Remote`; None for a path. The slash that `Path` removes from a URL is restored.

    Raises:
        InputError: If it is no URL, or names no file.
    """
    match = _URL.fullmatch(str(spec))
    return Remote(f"{match[1].lower()}://{match[2]}") if match else None


def from_gdal(name: str) -> Path | Remote:
    """Return the path or `Remote` of a GDAL name, the inverse of `Remote.gdal_name`."""
    for scheme, prefix in _GDAL.items():
        rest = name.removeprefix(prefix)
        if rest != name:
            return Remote(rest if scheme.startswith("http") else f"{scheme}://{rest}")
    return Path(name)


def location(output: str | Path) -> Path | Remote:
    """Return where an output goes: a path, or an object (s3://bucket/map.tif), given as text or `Path`.

    Raises:
        InputError: If it is on a web server, or only a bucket is named.
    """
    remote = as_remote(output)
    if remote is not None and remote.url.startswith("http"):
        raise InputError(f"{remote} is on a web server, which takes no files; give a path or s3://bucket/name.")
    return remote or Path(output)


@contextmanager
def placed(output: Path | Remote, scratch: Path) -> Iterator[Path]:
    """Yield the path to write an output to: its own, or one in ``scratch`` that is uploaded after the block.

    Args:
        output: Returned by `location`.
        scratch: A folder with room for it.

    Raises:
        RasterError: If there is a folder of that name on object storage.
        StorageError: If it cannot be uploaded.
    """
    if isinstance(output, Path):
        yield output
        return
    if output.names() not in ([], [output.name]):  # a file is listed as itself
        raise RasterError(f"{output} is a folder and not empty; remove it or give another name.")
    local = scratch / output.name
    yield local
    output.upload(local)


def _s3_endpoint() -> dict[str, str]:
    with needs("What s3:// URLs are read with", "s3"):
        from botocore.session import get_session
    meta = get_session().create_client("s3").meta
    server = urlsplit(meta.endpoint_url)
    options = {"AWS_REGION": str(meta.region_name)}
    if not server.netloc.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options["AWS_S3_ENDPOINT"] = server.netloc + server.path.rstrip("/")
        options["AWS_HTTPS"] = "YES" if server.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # a bucket's own host name is rarely known to a server of one's own
    return options
