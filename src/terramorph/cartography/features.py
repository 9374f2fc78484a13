"""Features: vector geometry with a class and what is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One thing on the ground.

    Attributes:
        geometry: A shapely geometry in the CRS of the grid it is drawn on, in metres.
        kind: What it is: a class name of the palette (land, building, road, highway, arterial, park, water),
            or another
            word that the style knows (rail).
        attributes: What else is known: ``width_m`` (metres, lines), ``height_m`` (metres, buildings) ...
    """

    geometry: BaseGeometry
    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width_m(self) -> float | None:
        """Width of a line in metres, where it is known."""
        value = self.attributes.get("width_m")
        return None if value is None else float(value)

    @property
    def height_m(self) -> float | None:
        """Height of a building in metres, where it is known."""
        value = self.attributes.get("height_m")
        return None if value is None else float(value)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCollection:
    """Features in a fixed order, all in one CRS.

    Attributes:
        features: The features.
    """

    features: tuple[Feature, ...] = ()

    @classmethod
    def of(cls, features: Iterable[Feature]) -> FeatureCollection:
        """The collection of any features."""
        return cls(tuple(features))

    def __iter__(self) -> Iterator[Feature]:
        """The features in order."""
        return iter(self.features)

    def __len__(self) -> int:
        """Number of features."""
        return len(self.features)

    def kind(self, *kinds: str) -> FeatureCollection:
        """The features of these kinds, in order."""
        return FeatureCollection(tuple(f for f in self.features if f.kind in kinds))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that occur, in order of first appearance."""
        return tuple(dict.fromkeys(f.kind for f in self.features))
