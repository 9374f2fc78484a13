"""The words for what a feature is. Tables give them to features, styles say how each is drawn."""

from __future__ import annotations

from terramorph.cartography.palette import CLASSES

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
