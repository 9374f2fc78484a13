"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from terramorph.errors import StorageError, raised_as


def cache_folder() -> Path:
    """Return `TERRAMORPH_CACHE`, else `terramorph` in `XDG_CACHE_HOME` (an absolute path), else in `~/.cache`.

    Raises:
        StorageError: If it is in the user's home folder, and the user has none.
    """
    own, shared = os.environ.get("TERRAMORPH_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    with raised_as(StorageError, "There is no place for the cache", "set TERRAMORPH_CACHE to a folder", RuntimeError):
        if own:
            return Path(own).expanduser().absolute()
        return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "terramorph"
