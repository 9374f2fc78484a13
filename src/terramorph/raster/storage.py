"""Files on object storage (S3 and its like) and on web servers, named by their URLs.

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

from terramorph.errors import InputError, MissingPackageError, RasterError, StorageError, TerramorphError, raised_as

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
    """A file behind a URL, or a folder: what such names begin with. Its methods are named as those of `Path`.

    What cannot be done there is a StorageError; of `identity` and `read_bytes`, which read an input, a RasterError.

    Attributes:
        url: s3://bucket/key, gs://bucket/key, az://container/key or https://host/path, with its query.

    Raises:
        InputError: If the URL names nothing inside its bucket or on its host.
        RasterError: By `identity` and `read_bytes`, if it is not there or cannot be asked for.
        StorageError: By all others, if the server does not do it.
        MissingPackageError: By all, if the package for such URLs is not installed.
    """

    url: str

    def __post_init__(self) -> None:
        if not urlsplit(self.url).path.strip("/"):
            raise InputError(f"{self} names no file; give one, such as {str(self).rstrip('/')}/map.tif.")

    def __str__(self) -> str:
        """The URL without its query, which may hold a signature, and without a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __truediv__(self, name: str) -> Self:
        """A file of this folder."""
        return type(self)(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL's path; `stem` and `suffix` are its own."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """What the name ends in, with its point."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> Self:
        """What lies beside it."""
        return type(self)(f"{str(self).rstrip('/').rpartition('/')[0]}/{name}")

    @property
    def gdal_name(self) -> str:
        """What GDAL calls it."""
        scheme = urlsplit(self.url).scheme
        return _GDAL[scheme] + (self.url if scheme.startswith("http") else self.url.partition("://")[2])

    @cached_property
    def gdal_options(self) -> dict[str, Any]:
        """GDAL's settings while it reads there."""
        return _GDAL_OPTIONS | (_s3_endpoint() if self.url.startswith("s3:") else {})

    def identity(self) -> str:
        """The server's checksum or else date of it, and its size in bytes: another content has another."""
        with self._told("read", RasterError):
            info = self._system.info(self._key)
            mark = next((info[key] for key in ("ETag", "etag", "Last-Modified") if info.get(key)), "")
            return f"{mark} {info.get('size')}"

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """The content, or its bytes from ``start`` to before ``end``."""
        with self._told("read", RasterError):
            return bytes(self._system.cat_file(self._key, start=start, end=end))

    def find_bytes(self) -> bytes | None:
        """The content; None if there is no such file."""
        with self._told("read", StorageError), suppress(FileNotFoundError):
            return bytes(self._system.cat_file(self._key))
        return None

    def exists(self) -> bool:
        """Whether there is such a file."""
        with self._told("read", StorageError), suppress(FileNotFoundError):
            return bool(self._system.info(self._key)["type"] == "file")
        return False

    def write_bytes(self, data: bytes) -> None:
        """Writes or replaces it, in one request."""
        with self._told("written", StorageError):
            self._system.pipe_file(self._key, data)

    def create(self, data: bytes) -> bool:
        """Writes it unless it is there; whether it was written.

        One of several that try at once succeeds, on servers that know conditional requests (If-None-Match), as all of
        the large ones do. One that ignores the condition lets all of them.
        """
        with self._told("written", StorageError), suppress(FileExistsError):
            self._system.pipe_file(self._key, data, mode="create")
            return True
        return False

    def modified(self) -> datetime:
        """When it was written, by the server's clock."""
        with self._told("read", StorageError):
            at: datetime = self._system.modified(self._key)
            return at

    def unlink(self) -> None:
        """Removes it, if it is there."""
        with self._told("removed", StorageError), suppress(FileNotFoundError):
            self._system.rm_file(self._key)

    def names(self) -> list[str]:
        """The names of what lies in this folder; none if there is no such folder."""
        with self._told("listed", StorageError), suppress(FileNotFoundError):
            return [PurePosixPath(key).name for key in self._system.ls(self._key, detail=False)]
        return []

    def remove_all(self, but: str | None = None) -> None:
        """Removes what lies in this folder, except what is called ``but``."""
        keys = [f"{self._key}/{name}" for name in self.names() if name != but]
        with self._told("removed", StorageError):
            if keys:
                self._system.rm(keys)

    def upload(self, path: Path) -> None:
        """Makes it the copy of a file, which appears when all of it is there; or of a folder, file by file."""
        with self._told("written", StorageError):
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                keys = [f"{self._key}/{file.relative_to(path).as_posix()}" for file in files]
                self._system.put([str(file) for file in files], keys)
            else:
                self._system.put_file(str(path), self._key)

    @property
    def _key(self) -> str:
        """What fsspec calls it."""
        return self.url if self.url.startswith("http") else self.url.partition("://")[2]

    @property
    def _system(self) -> Any:
        """fsspec's file system, of which it keeps one for each set of arguments, and for each process."""
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

    def _told(self, doing: str, kind: type[TerramorphError]) -> AbstractContextManager[None]:
        """Turns whatever a file system raises into one sentence; classes of botocore and aiohttp share no base."""
        return raised_as(lambda reason: kind(sentence(self, doing, reason)))


def sentence(remote: Remote, doing: str, reason: str) -> str:
    """Why something cannot be read or written."""
    return (
        f"{remote} cannot be {doing} ({reason.rstrip('.')}); check the name, the credentials and the network, and run "
        "again."
    )


def as_remote(spec: str | Path) -> Remote | None:
    """A URL; None for a path. A `Path` made of a URL has lost one of its slashes, which is given back.

    Raises:
        InputError: If the URL names no file.
    """
    match = _URL.fullmatch(str(spec))
    return Remote(f"{match[1].lower()}://{match[2]}") if match else None


def from_gdal(name: str) -> Path | Remote:
    """What GDAL calls by a name: a path, or `Remote.gdal_name` read backwards."""
    for scheme, prefix in _GDAL.items():
        rest = name.removeprefix(prefix)
        if rest != name:
            return Remote(rest if scheme.startswith("http") else f"{scheme}://{rest}")
    return Path(name)


def location(output: str | Path) -> Path | Remote:
    """Where an output goes: a path, or an object (s3://bucket/map.tif) as text or as the `Path` that was made of it.

    Raises:
        InputError: If it is on a web server, or only a bucket is named.
    """
    remote = as_remote(output)
    if remote is not None and remote.url.startswith("http"):
        raise InputError(f"{remote} is on a web server, which takes no files; give a path or s3://bucket/name.")
    return remote or Path(output)


@contextmanager
def placed(output: Path | Remote, scratch: Path) -> Iterator[Path]:
    """Where to write an output: at its own place, or in a folder here from which it is uploaded after the block.

    Args:
        output: of `location`.
        scratch: a folder with room for it.

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
    """GDAL's settings for the server and region that botocore would ask."""
    try:
        from botocore.session import get_session
    except ImportError as error:
        raise MissingPackageError(
            "s3:// URLs need more than is installed; install it with pip install 'terramorph[s3]'."
        ) from error
    meta = get_session().create_client("s3").meta
    server = urlsplit(meta.endpoint_url)
    options = {"AWS_REGION": str(meta.region_name)}
    if not server.netloc.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options["AWS_S3_ENDPOINT"] = server.netloc + server.path.rstrip("/")
        options["AWS_HTTPS"] = "YES" if server.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # a bucket's own host name is rarely known to a server of one's own
    return options
