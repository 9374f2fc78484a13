"""Styles: the draw order of kinds and their look, as values and as TOML files."""

from __future__ import annotations

import dataclasses
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from terramorph.cartography.palette import CLASSES, MapClass, Palette
from terramorph.cartography.table import Kind, Number, Shape, load_toml
from terramorph.tables import checked

RGB = tuple[int, int, int]


def _colour(value: Any) -> Any:
    """Parse "#rrggbb" to RGB; other values are returned as they are."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError('a colour is written "#rrggbb"')
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def _by_zoom(value: Any) -> Any:
    """Parse (zoom, pixels) in rising order, from a table or from one number for all zooms."""
    if isinstance(value, dict):
        try:
            pairs = sorted((float(zoom), pixels) for zoom, pixels in value.items())
        except ValueError:
            raise ValueError("its keys must be zooms, such as 14 = 3.0") from None
        if not pairs:
            raise ValueError("give at least one zoom, such as 14 = 3.0")
        return tuple(pairs)
    return ((0.0, value),) if isinstance(value, int | float) else value


Colour = Annotated[RGB, BeforeValidator(_colour)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class StyleRule:
    """How one kind of feature is drawn.

    Attributes:
        kind: The kind it applies to.
        fill: Colour of polygons and of lines, 0-255.
        width_m: Width of lines in metres, where the feature states none.
        min_width_px: Lines are drawn at least this wide, in pixels, so that they survive at coarse scales.
        casing: Colour of an outline under lines or around polygons, or None.
        casing_m: Width of the casing on each side, in metres.
        width_px: Width of lines in pixels by zoom, as (zoom, pixels) in rising order; between two zooms it is
            interpolated, beyond them it stays. It wins over every width in metres. Empty: metres count.
        min_casing_px: The casing is drawn at least this wide on each side, in pixels.
        geometry: ``line`` or ``area`` where the rule applies to these only, otherwise ``any``.
    """

    kind: Kind
    fill: Colour
    width_m: Number = 8.0
    min_width_px: Number = 1.0
    casing: Colour | None = None
    casing_m: Number = 0.0
    width_px: Annotated[tuple[tuple[float, Number], ...], BeforeValidator(_by_zoom)] = ()
    min_casing_px: Number = 0.0
    geometry: Shape = "any"


def _rules_of(entry: Any) -> Any:
    """Expand a table [[rule]] to one rule for each of its kinds."""
    if not isinstance(entry, dict):
        return entry
    values = {key: value for key, value in entry.items() if key != "kinds"}
    kinds = entry.get("kinds")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds or "kind" in values:
        raise ValueError('give its kinds, such as kinds = ["road"]')
    if "width_m" in values and "width_px" in values:
        raise ValueError("width_m and width_px are both there; give one of them")
    return [{"kind": kind, **values} for kind in kinds]


class _StyleFile(BaseModel):
    """A style as TOML."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    background: Colour
    antialias: StrictBool = True
    rule: list[Annotated[tuple[StyleRule, ...], BeforeValidator(_rules_of)]] = Field(min_length=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """A background and rules in draw order (the first is drawn first, the last lies on top).

    Attributes:
        background: Colour where no feature is.
        rules: Draw order. Kinds without a rule are not drawn. A kind may have one rule for its areas and one for its
            lines, at different places of the order.
        name: Name for people.
        antialias: Smooth edges. Without it every pixel has exactly a colour of the style.
    """

    background: RGB
    rules: tuple[StyleRule, ...]
    name: str = "custom"
    antialias: bool = True


@lru_cache(maxsize=1)
def classic() -> Style:
    """Return the style of the "maps" pairs: flat fills in the palette's colours."""
    return load_style("classic")


def palette_of(style: Style) -> Palette:
    """Return the palette of a style: its colours, each with the class that classic draws the kind as.

    Kinds that classic leaves out (paths, ground of special use) are land. Where kinds of two classes have one colour,
    the classes' own kinds come first, then the order of the style.
    """
    like = {rule.fill: rule.kind for rule in reversed(classic().rules) if rule.kind in CLASSES}
    class_of = {rule.kind: like.get(rule.fill, "land") for rule in classic().rules}
    rules = sorted(style.rules, key=lambda rule: rule.kind not in CLASSES)
    colours = {style.background: "land"}
    own = {"land": style.background}
    for rule in rules:
        kind = class_of.get(rule.kind, "land")
        colours.setdefault(rule.fill, kind)
        own.setdefault(kind, rule.fill)
        if rule.casing is not None:
            colours.setdefault(rule.casing, kind)
    places = {name: place for place, name in enumerate(CLASSES)}
    return Palette(
        style.name,
        tuple(MapClass(name, own.get(name, style.background)) for name in CLASSES),
        np.array(list(colours), np.uint8),
        np.array([places[kind] for kind in colours.values()], np.uint8),
    )


def load_style(name_or_path: str | Path) -> Style:
    """Load a style of the package, or a user's own.

    Args:
        name_or_path: ``classic``, ``osm``, ``classes``, or the path of a .toml file: ``background``, ``name``,
            ``antialias``, and in draw order tables ``[[rule]]`` with ``kinds`` (one or several), ``fill`` and the other
            fields of `StyleRule`. Colours are "#rrggbb"; ``width_px`` is a table of zoom = pixels, where
            zoom = log2(156543.034 / metres a pixel).

    Raises:
        ConfigError: If there is no such style, it is not TOML, or it holds an unknown key or kind or an impossible
            value.
    """
    values, where = load_toml(name_or_path, "styles")
    file = checked(_StyleFile, values, f"Style {where}")
    rules = tuple(rule for entry in file.rule for rule in entry)
    return Style(file.background, rules, file.name or Path(name_or_path).stem, file.antialias)
