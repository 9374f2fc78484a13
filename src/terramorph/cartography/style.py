"""Styles: in which order kinds of features are drawn, and how. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from terramorph.cartography.palette import MAP_CLASSES

RGB = tuple[int, int, int]
_COLOUR: dict[str, RGB] = {c.name: c.rgb for c in MAP_CLASSES}


@dataclass(frozen=True, slots=True)
class StyleRule:
    """How one kind of feature is drawn.

    Attributes:
        kind: The kind it applies to.
        fill: Colour of polygons and of lines, 0-255.
        width_m: Width of lines in metres, where the feature states none.
        min_width_px: Lines are drawn at least this wide, in pixels, so that they survive at coarse scales.
        casing: Colour of an outline under lines or around polygons, or None.
        casing_m: Width of the casing on each side, in metres.
    """

    kind: str
    fill: RGB
    width_m: float = 8.0
    min_width_px: float = 1.0
    casing: RGB | None = None
    casing_m: float = 0.0


@dataclass(frozen=True, slots=True)
class Style:
    """A background and rules in draw order (the first is drawn first, the last lies on top).

    Attributes:
        background: Colour where no feature is.
        rules: Draw order. Kinds without a rule are not drawn.
        name: For people.
    """

    background: RGB
    rules: tuple[StyleRule, ...]
    name: str = "custom"

    def rule(self, kind: str) -> StyleRule | None:
        """The rule of a kind, or None."""
        return next((r for r in self.rules if r.kind == kind), None)


def classic(casing: bool = False) -> Style:
    """The look of the "maps" pairs: flat fills in the palette's colours.

    Args:
        casing: Draw thin darker outlines along roads. They read as roads on old web maps, but their colours
            are outside
            the palette, so maps that are scored by class leave them off.
    """
    line: RGB | None = (214, 208, 196) if casing else None
    orange: RGB | None = (226, 142, 38) if casing else None
    yellow: RGB | None = (228, 200, 92) if casing else None
    return Style(
        name="classic",
        background=_COLOUR["land"],
        rules=(
            StyleRule("land", _COLOUR["land"]),
            StyleRule("park", _COLOUR["park"]),
            StyleRule("water", _COLOUR["water"], width_m=20.0),
            StyleRule("building", _COLOUR["building"]),
            StyleRule("rail", (218, 214, 208), width_m=2.0, min_width_px=1.0),
            StyleRule("road", _COLOUR["road"], width_m=9.0, casing=line, casing_m=0.8),
            StyleRule("arterial", _COLOUR["arterial"], width_m=18.0, casing=yellow, casing_m=1.0),
            StyleRule("highway", _COLOUR["highway"], width_m=30.0, casing=orange, casing_m=1.2),
        ),
    )
