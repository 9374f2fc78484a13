"""Kinds of features, and tables that assign kinds and widths by tags and layers, read from TOML files.

A style (`style.py`), a TOML file too, says how a kind is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from terramorph.cartography.palette import CLASSES
from terramorph.documents import parse_toml
from terramorph.errors import ConfigError, did_you_mean
from terramorph.tables import checked, read_toml

GROUND = (
    *("residential", "commercial", "industrial", "institution", "airport", "parking", "farmland", "grass", "scrub"),
    *("forest", "wetland", "sand", "rock", "glacier", "cemetery", "pitch", "pier"),
)
"""Areas that are none of the seven classes."""

WAYS = ("secondary", "ramp", "service", "pedestrian", "track", "path", "runway", "rail", "tram")
"""Lines that are none of the seven classes; a pedestrian way or a runway may be an area too."""

KINDS: tuple[str, ...] = (*CLASSES, *GROUND, *WAYS, "coastline")
"""Every kind: the seven classes of the palette, what the styles draw in one of their colours or in its own, and
coastlines, which make water on their right."""

COASTLINE = KINDS.index("coastline")
Number = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A finite number from 0 on."""
Shape = Literal["any", "line", "area"]
"""Geometries that a rule or an entry applies to."""
ANY = "*"
"""Stands for any value of an attribute."""
NO_KIND = -1
Column = Sequence[Any] | NDArray[Any]
"""Values of an attribute, one a feature: text or None."""


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no such kind; {did_you_mean(kind, KINDS)}".rstrip("."))
    return kind


Kind = Annotated[str, AfterValidator(_kind)]
"""A kind that is known."""


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


class Match(BaseModel):
    """One entry of a table.

    Attributes:
        layers: Patterns of layer names, in lower case; empty for every layer.
        geometry: ``line``, ``area`` or ``any``.
        keys: Attributes that are asked in this order.
        kinds: Kind by value of the attribute; `ANY` for every value that is not named.
        widths_m: Width of a line in metres by value.
        kind: Kind of every feature of the layers; None where ``kinds`` decides.
        width_m: Width of all lines in metres, where ``widths_m`` has none.
        without: Values by attribute; a feature that has one of them is left out for good.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[Annotated[str, AfterValidator(str.lower)], ...] = ()
    geometry: Shape = "any"
    keys: tuple[str, ...] = ()
    kinds: dict[str, Kind] = {}
    widths_m: dict[str, Number] = {}
    kind: Kind | None = None
    width_m: Number | None = None
    without: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="before")
    @classmethod
    def _widths(cls, entry: Any) -> Any:
        """Split ``width_m``, which a file gives as a number or as a table of widths by value."""
        if not isinstance(entry, dict) or not isinstance(entry.get("width_m"), dict):
            return entry
        return {key: value for key, value in entry.items() if key != "width_m"} | {"widths_m": entry["width_m"]}

    @model_validator(mode="after")
    def _decides(self) -> Match:
        if (self.kind is not None) == bool(self.keys) or bool(self.keys) != bool(self.kinds):
            raise ValueError("it must have either kind, or keys and [match.kinds]")
        return self

    def can_match(self, layer: str, fields: Iterable[str]) -> bool:
        """Return whether a feature of this layer, with these attributes, may get a kind here."""
        named = not self.layers or any(fnmatchcase(layer.lower(), pattern) for pattern in self.layers)
        return named and (self.kind is not None or bool(set(self.keys) & set(fields)))


class Table(BaseModel):
    """Entries in the order in which they are tried; the first that knows a feature's value decides.

    Attributes:
        name: Name for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    match: tuple[Match, ...] = Field(min_length=1)

    @property
    def keys(self) -> frozenset[str]:
        """All attributes that the entries read."""
        return frozenset(k for m in self.match for k in (*m.keys, *m.without))

    def values_of(self, kind: str) -> list[tuple[str, str]]:
        """Return the (attribute, value) pairs that give a kind."""
        return [(key, value) for m in self.match for value, k in m.kinds.items() if k == kind for key in m.keys]

    def can_match(self, layer: str, fields: Iterable[str]) -> bool:
        """Return whether a feature of this layer, with these attributes, may get a kind."""
        fields = tuple(fields)
        return any(m.can_match(layer, fields) for m in self.match)

    def assign(
        self, layer: str, columns: Mapping[str, Column], areas: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign kinds and widths to the features of a layer.

        Args:
            columns: Values by attribute, N each: text or None.
            areas: bool (N,): True for polygons, False for lines.

        Returns:
            int64 (N,), places in `KINDS`, or `NO_KIND`; float64 (N,), widths in metres, NaN where the table has none.
        """
        kinds = np.full(len(areas), NO_KIND, np.int64)
        widths = np.full(len(areas), np.nan)
        open_rows = np.ones(len(areas), np.bool_)
        for match in self.match:
            if not match.can_match(layer, columns):
                continue
            rows = np.flatnonzero(
                open_rows if match.geometry == "any" else open_rows & (areas == (match.geometry == "area"))
            )
            for row in rows.tolist():
                found = _kind_of(match, columns, row)
                if found is not None:
                    open_rows[row] = False
                    kinds[row], widths[row] = found
        return kinds, widths


def _kind_of(match: Match, columns: Mapping[str, Column], row: int) -> tuple[int, float] | None:
    """Return (index in KINDS or NO_KIND, width in metres or NaN) of a feature; None where the entry does not know
    it."""
    kind, width = match.kind, match.width_m
    if kind is None:
        for key in match.keys:
            value = columns[key][row] if key in columns else None
            if value is None or value == "":
                continue
            kind = match.kinds.get(value) or match.kinds.get(ANY)
            if kind is not None:
                width = match.widths_m.get(value, width)
                break
        else:
            return None
    for key, values in match.without.items():
        if key in columns and columns[key][row] in values:
            return NO_KIND, np.nan
    return KINDS.index(kind), np.nan if width is None else width


def one_kind(kind: str) -> Table:
    """Return the table that gives all features one kind.

    Raises:
        ConfigError: If the kind is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no kind {kind!r}; {did_you_mean(kind, KINDS)}")
    return Table(name=kind, match=(Match(kind=kind),))


def load_table(name_or_path: str | Path) -> Table:
    """Load a table of the package, or a user's own.

    Args:
        name_or_path: ``osm``, ``protomaps``, ``plain``, or the path of a .toml file of the same form.

    Raises:
        ConfigError: If there is no such table, it is not TOML, or it holds an unknown key or kind or an impossible
            value.
    """
    values, where = load_toml(name_or_path, "tables")
    return checked(Table, {"name": Path(name_or_path).stem} | values, f"Table {where}")
