"""TOML files of styles and tables: found, read, and what they say of kinds, widths and geometries."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from terramorph.cartography.kinds import KINDS
from terramorph.documents import parse_toml
from terramorph.errors import ConfigError, did_you_mean
from terramorph.tables import read_toml


def builtin_names(folder: str) -> tuple[str, ...]:
    """Names of the files that come with the package.

    Args:
        folder: ``styles`` or ``tables``.
    """
    files = resources.files("terramorph.cartography").joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_toml(name_or_path: str | Path, folder: str) -> tuple[dict[str, Any], str]:
    """Read a file that comes with the package, by name, or a user's own, by path.

    Args:
        name_or_path: ``classic``, or the path of a .toml file.
        folder: ``styles`` or ``tables``.

    Returns:
        The values, and what messages call the file.

    Raises:
        ConfigError: If there is neither such a name nor such a file, or it is not TOML.
    """
    text, names = str(name_or_path), builtin_names(folder)
    if text in names:
        content = resources.files("terramorph.cartography").joinpath(folder, f"{text}.toml").read_text("utf-8")
        return parse_toml(content), text
    path = Path(name_or_path)
    word = folder.removesuffix("s")
    if path.suffix.lower() != ".toml" and not path.exists():
        raise ConfigError(f"There is no {word} {text!r}; {did_you_mean(text, names, ', or give a .toml file')}")
    return read_toml(path, f"The {word} {path}"), text


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no such kind; {did_you_mean(kind, KINDS)}".rstrip("."))
    return kind


Kind = Annotated[str, AfterValidator(_kind)]
"""A kind that is known."""

Number = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A finite number from 0 on."""

Shape = Literal["any", "line", "area"]
"""Which geometries a rule or an entry speaks of."""
