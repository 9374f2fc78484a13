"""Options for reading images whose files do not state something."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from terramorph.cli.choices import from_here, option
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.raster import ReadOptions


Asset = Annotated[str | None, option("Asset of STAC items, by name or role (visual), or bands (red,green,blue).")]
Resolution = Annotated[
    float | None,
    option("Metres per pixel at which the model sees the input; needed if the input's own differ too much."),
]
Raw = Annotated[bool, option("Use stored values; ignore the file's scale and offset.", "--raw")]
Height = Annotated[float | None, option("Ground height in metres for scenes placed by RPCs. Default: their mean.")]
Dem = Annotated[str | None, option("Raster of ground heights for scenes placed by RPCs.")]
Terms = Annotated[str | None, option("Licence or terms of use; required for tile servers.")]


Classes = Literal["source", "target", "both", "none"]
"""Sides that hold class values."""


def read_options(
    bands: str | None,
    nodata: str | None,
    raw: bool,
    categorical: bool | None = None,
    height: float | None = None,
    dem: str | None = None,
    asset: str | None = None,
) -> ReadOptions:
    """Return the options of one image; the signer of STAC items is named by the environment."""
    from terramorph.raster import ReadOptions

    try:
        picked = None if bands is None else tuple(int(word) for word in bands.split(","))
    except ValueError:
        raise ConfigError(f"--bands must be numbers from 1, such as 3,2,1, got {bands!r}.") from None
    try:
        value = None if nodata is None else float(nodata)
    except ValueError:
        raise ConfigError(f"--nodata must be a number such as -9999, got {nodata!r}.") from None
    sign = stac_signer()
    how: dict[str, Any] = {"categorical": categorical, "height": height, "dem": dem, "asset": asset, "sign": sign}
    return ReadOptions(bands=picked, nodata=value, raw=raw, **how)


def stac_signer() -> str | None:
    """Return the function, as module:name, that signs addresses of STAC assets; its module may be in the working
    directory."""
    name = os.environ.get("TERRAMORPH_STAC_SIGN") or None
    from_here([name] if name else None)
    return name


def sides(
    bands: Sequence[str],
    nodata: Sequence[str],
    raw: bool,
    categorical: Classes | None,
    height: float | None = None,
    dem: str | None = None,
    asset: str | None = None,
) -> tuple[ReadOptions, ReadOptions]:
    """Return the options of source and target, from words such as `3,2,1` and `target=-9999`.

    Without a side, bands and asset are for the source, and nodata is for both sides.
    """
    picked = _by_side("--bands", bands, ("source",))
    named = _by_side("--asset", [asset] if asset else [], ("source",))
    values = _by_side("--nodata", nodata, ("source", "target"))
    kinds = {side: None if categorical is None else categorical in ("both", side) for side in ("source", "target")}
    source, target = (
        read_options(picked.get(s), values.get(s), raw, kinds[s], height, dem, named.get(s))
        for s in ("source", "target")
    )
    return source, target


def _by_side(option: str, words: Sequence[str], default: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        side, is_sided, value = word.rpartition("=")
        if is_sided and side not in ("source", "target"):
            raise ConfigError(f"{option} must be VALUE, source=VALUE or target=VALUE, got {word!r}.")
        for name in [side] if is_sided else default:
            found[name] = value
    return found
