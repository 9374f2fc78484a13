"""Models by name: the published ones (registry.toml), and their files on this machine.

A published model is kept under the digest of its content and checked against it; its name is only a pointer.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from terramorph.atomic import locked
from terramorph.cachefolder import cache_folder
from terramorph.documents import parse_toml
from terramorph.errors import BundleError, RunError, StorageError, raised_as

REGISTRY = Path(__file__).with_name("registry.toml")
MODELS_FOLDER = Path("models")
"""Folder of a user's own models, in the working folder."""
_PACKAGE = Path(__file__).parent  # has the models of the town
_REPOSITORY = Path(__file__).parents[3]  # where terramorph runs from a clone of it
_SUFFIX = ".safetensors"
_PATIENCE = 600.0
"""Seconds that another process may fetch the same model."""


class Entry(BaseModel):
    """A published model.

    Attributes:
        name: Its name, which only points to the file of this digest.
        about: One line on what it does.
        file: Path in the project's repository.
        sha256: Of its file, hexadecimal.
        bytes: Size of its file.
        urls: Addresses of its file; empty if it is not published yet.
        licence: Licence of the weights.
        trained_on: The data.
        rights: Whose rights lie in the data.
        ground_resolution: Metres a pixel.
        date: Date of the training.
        scores: Figures by name, `n` and `protocol` among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    urls: tuple[str, ...] = ()
    licence: str
    trained_on: str
    rights: str
    ground_resolution: float = Field(gt=0)
    date: datetime.date
    scores: dict[str, int | float | str] = {}


@cache
def registry() -> dict[str, Entry]:
    """Return the entries by name, in the order of the file."""
    document = parse_toml(REGISTRY.read_text(encoding="utf-8"))
    return {name: Entry.model_validate({"name": name, **values}) for name, values in document.items()}


def require_entry(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        BundleError: If there is none.
    """
    if name not in registry():
        raise BundleError(f"There is no published model {name}; there are {', '.join(registry())}.")
    return registry()[name]


def stored(sha256: str) -> Path:
    """Return the cache path of a model of this digest, whether it exists or not."""
    return cache_folder() / "models" / "sha256" / f"{sha256}{_SUFFIX}"


@contextmanager
def fetching(sha256: str, name: str) -> Iterator[Path]:
    """Yield the cache path of a model, to be written by this process alone; others wait.

    Args:
        sha256: Of its content.

    Raises:
        RunError: If another process has been at it for ten minutes.
        OSError: If the cache cannot be written.
    """
    target = stored(sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    busy = f"Another process has been fetching {name} for {_PATIENCE:.0f} s; end it, then fetch {name} again."
    with locked(target.with_suffix(".lock"), RunError(busy), _PATIENCE):
        yield target


def not_written(reason: str) -> StorageError:
    """Return the error for a cache that cannot be written."""
    return StorageError(
        f"The cache {cache_folder()} cannot be written ({reason}); mend its rights, free some space, or set "
        "TERRAMORPH_CACHE to another folder."
    )


def places(entry: Entry) -> list[Path]:
    """List the files of a published model on this machine: in the cache, in this package, in the repository around
    it."""
    candidates = stored(entry.sha256), _PACKAGE / Path(entry.file).name, _REPOSITORY / entry.file
    return [path for path in dict.fromkeys(candidates) if path.is_file()]


def known() -> list[str]:
    """List the names of models: of the folder `models`, and of the registry."""
    return sorted({path.stem for path in MODELS_FOLDER.glob(f"*{_SUFFIX}")} | set(registry()))


def named(name: str) -> Path | None:
    """Return the file of a bare name: in the folder `models`, or a published model; None if the name is unknown.

    Raises:
        BundleError: If a published model is not on this machine, or its file is not the one that was published.
    """
    stem = name.removesuffix(_SUFFIX)
    if (own := MODELS_FOLDER / f"{stem}{_SUFFIX}").is_file():
        return own
    entry = registry().get(stem)
    if entry is None:
        return None
    found = places(entry)
    if not found:
        raise not_here(entry)
    for path in found:
        if verify(path, entry):
            return path
    raise BundleError(
        f"{found[0]} is not the published file of the model {stem} (its sha256 is another); remove it, then pull "
        f"{stem} again or {where_to(entry)}."
    )


def not_here(entry: Entry) -> BundleError:
    """Return the error for a published model that is not on this machine."""
    return BundleError(
        f"The model {entry.name} is not on this machine; `terramorph models pull {entry.name}` fetches it, or "
        f"{where_to(entry)}."
    )


def where_to(entry: Entry) -> str:
    """Return the end of a sentence on placing the file by hand."""
    return (
        f"put its file ({entry.file} of the project's repository, {entry.bytes / 1e6:.1f} MB, sha256 "
        f"{entry.sha256[:12]}...) at {stored(entry.sha256)}"
    )


def verify(path: Path, entry: Entry) -> bool:
    """Return whether a file is the published one, byte for byte.

    Raises:
        BundleError: If it cannot be read.
    """
    return holds(path, entry.sha256, entry.bytes)


def published(path: Path) -> Entry | None:
    """Return the entry whose published file this is, byte for byte; None for others."""
    return next((entry for entry in registry().values() if verify(path, entry)), None)


def holds(path: Path, sha256: str, size: int | None = None) -> bool:
    """Return whether a file has this content.

    Args:
        sha256: Of the content, hexadecimal.
        size: bytes, if they are known: a file of another size is not read.

    Raises:
        BundleError: If it cannot be read.
    """
    with raised_as(BundleError, f"{path} cannot be read", "mend its rights or remove it", OSError):
        if not path.is_file() or size not in (None, path.stat().st_size):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def require_own(path: str | Path) -> None:
    """Refuse to write over a published model.

    Raises:
        BundleError: If the path is that of one.
    """
    if not Path(path).is_file():
        return
    for entry in registry().values():
        if any(place.samefile(path) for place in places(entry)):
            raise BundleError(f"{path} is the published model {entry.name} and is not changed; write to another file.")
