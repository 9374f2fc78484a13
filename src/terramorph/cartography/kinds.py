"""Kinds of features, and the TOML files that use them: tables assign kinds, styles say how a kind is drawn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from terramorph.cartography.palette import CLASSES
from terramorph.documents import parse_toml
from terramorph.errors import ConfigError, did_you_mean
from terramorph.tables import read_toml

GROUND = (
    "residential",
    "commercial",
    "industrial",
    "institution",
    "airport",
    "parking",
    "farmland",
    "grass",
    "scrub",
    "forest",
    "wetland",
    "sand",
    "rock",
    "glacier",
    "cemetery",
    "pitch",
    "pier",
)
"""Areas that are none of the seven classes."""

WAYS = ("secondary", "ramp", "service", "pedestrian", "track", "path", "runway", "rail", "tram")
"""Lines that are none of the seven classes; a pedestrian way or a runway may be an area too."""

KINDS: tuple[str, ...] = (*CLASSES, *GROUND, *WAYS, "coastline")
"""Every kind: the seven classes of the palette, what the styles draw in one of their colours or in its own, and
coastlines, which make water on their right."""

COASTLINE = KINDS.index("coastline")


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no such kind; {did_you_mean(kind, KINDS)}".rstrip("."))
    return kind


Kind = Annotated[str, AfterValidator(_kind)]
"""A kind that is known."""

Number = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A finite number from 0 on."""

Shape = Literal["any", "line", "area"]
"""Geometries that a rule or an entry applies to."""


def load_toml(name_or_path: str | Path, folder: str) -> tuple[dict[str, Any], str]:
    """Read a TOML file of the package, by name, or a user's own, by path.

    Args:
        name_or_path: ``classic``, or the path of a .toml file.
        folder: ``styles`` or ``tables``.

    Returns:
        The values, and what messages call the file.

    Raises:
        ConfigError: If there is neither such a name nor such a file, or it is not TOML.
    """
    text, home = str(name_or_path), resources.files("terramorph.cartography").joinpath(folder)
    names = sorted(f.name.removesuffix(".toml") for f in home.iterdir() if f.name.endswith(".toml"))
    if text in names:
        return parse_toml(home.joinpath(f"{text}.toml").read_text("utf-8")), text
    path = Path(name_or_path)
    word = folder.removesuffix("s")
    if path.suffix.lower() != ".toml" and not path.exists():
        raise ConfigError(f"There is no {word} {text!r}; {did_you_mean(text, names, ', or give a .toml file')}")
    return read_toml(path, f"The {word} {path}"), text
