"""What a sweep may write, looked at before its first window: a refusal after a night of computing is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from terramorph.bundle import Header
from terramorph.errors import InputError
from terramorph.geo import Grid
from terramorph.raster import Source
from terramorph.raster.save import check_format
from terramorph.raster.storage import Remote, location
from terramorph.raster.tiles.write import check_tiles
from terramorph.translate.assemble import Kind

_SUFFIXES: dict[str, tuple[str, ...]] = {"cog": (".tif", ".tiff"), "mbtiles": (".mbtiles",), "pmtiles": (".pmtiles",)}
_CALLED = {"cog": "A Cloud Optimized GeoTIFF", "mbtiles": "An MBTiles archive", "pmtiles": "A PMTiles archive"}


def check_outputs(
    output: Path | Remote,
    spread: Path | None,
    kind: Kind,
    source: Source,
    header: Header,
    grid: Grid,
    overwrite: bool,
) -> None:
    """Refuses outputs that cannot be written as asked, or would replace what they are made from.

    Args:
        output: of `location`.
        spread: the GeoTIFF of the draws' standard deviation.
        kind: of the output.
        source: what is translated.
        header: of the bundle.
        grid: on which the network sees the source.
        overwrite: files that are there may be replaced.

    Raises:
        InputError: if a name does not fit its kind, two are one, a folder of tiles is not empty, or a file is there
            and may not be replaced.
        RasterError: if the kind cannot hold the bundle's target.
    """
    _check_name(output, kind)
    target = header.target
    if kind == "cog":
        check_format(output.name, bands=target.count, dtype=target.dtype)
    else:
        check_tiles(source.name, grid.crs, target.count, np.dtype(target.dtype))
    if kind == "xyz" and _holds_something(output):
        raise InputError(f"{output} is there already and not empty; remove it or name another folder.")
    given = {_real(file) for file in (source.name, *getattr(source, "files", ()))}
    places = [output]
    if spread is not None:
        _check_name(Path(spread), "cog")
        places.append(location(spread))
    for place in places:
        if _real(place) in given:
            raise InputError(f"{place} is what is translated, and would be replaced; choose another output.")
    if len({_real(place) for place in places}) < len(places):
        raise InputError(f"{output} cannot be the output and its uncertainty too; give the latter a name of its own.")
    if not overwrite and kind != "xyz":
        refuse_present(places)


def refuse_present(outputs: Sequence[Path | Remote]) -> None:
    """Refuses outputs that are there already.

    Raises:
        InputError: naming the first, and how many there are.
    """
    there = [output for output in outputs if output.exists()]
    if there:
        others = f" and {len(there) - 1} other{'s' * (len(there) > 2)}" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}{others} would be replaced; choose another output, or allow it with --overwrite "
            "(in Python overwrite=True)."
        )


def _check_name(output: Path | Remote, kind: Kind) -> None:
    """Refuses a name that says another kind."""
    suffix = output.suffix.lower()
    wanted = _SUFFIXES.get(kind)
    if wanted is not None and suffix not in wanted:
        raise InputError(f"{_CALLED[kind]} is called {wanted[0]}, and {output} is not; give such a name.")
    others = {end for other in get_args(Kind) if other != kind for end in _SUFFIXES.get(other, ())}
    if kind == "xyz" and suffix in others:
        raise InputError(f"A folder of tiles is not called {suffix}, as {output} is; choose another name.")


def _holds_something(folder: Path | Remote) -> bool:
    if isinstance(folder, Remote):
        return bool(folder.names())
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def _real(place: str | Path | Remote) -> str:
    """One name for what may have several."""
    text = str(place)
    if isinstance(place, Remote) or "://" in text:
        return text
    return str(Path(text).resolve())
