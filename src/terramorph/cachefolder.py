"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `TERRAMORPH_CACHE`, else `terramorph` in `XDG_CACHE_HOME` (an absolute path), else in `~/.cache`."""
    own, shared = os.environ.get("TERRAMORPH_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own).expanduser().absolute()
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "terramorph"
