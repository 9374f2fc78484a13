"""Bands: colours by name, the order in which a model takes them, units of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

RGB = ("red", "green", "blue")


def default_bands(count: int) -> tuple[str, ...]:
    """Return names for ``count`` bands: red, green, blue for three, otherwise band1, band2, ..."""
    return RGB if count == 3 else tuple(f"band{i + 1}" for i in range(count))


def colour_of(name: str) -> str | None:
    """Return red, green, blue or nir if a name says one of them (`B4 (Red)`, `Near Infrared`), else None."""
    words = set(re.findall("[a-z]+", re.sub("infra[ -]red", "infrared", name.lower())))
    if words & {"edge", "rededge"}:
        return None
    found = words & {*RGB}
    if words & {"nir", "infrared"} and not words & {"short", "shortwave", "mid", "thermal"}:
        found.add("nir")
    return found.pop() if len(found) == 1 else None


def band_order(have: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the indices of the wanted bands among those present.

    Names decide, colours by what they say. Of as many bands, those without a name that is known keep their order; of
    more bands, the wanted ones are picked if each is named.

    Returns:
        An index for each wanted band; None where the two do not fit.
    """
    mine, theirs = [_key(name) for name in have], [_key(name) for name in wanted]
    if len(mine) == len(theirs):
        colours = [{colour_of(name) for name in names} for names in (have, wanted)]
        if None not in colours[0] | colours[1] and colours[0] != colours[1]:
            # Three bands without names are called red, green, blue, which says nothing against others.
            return list(range(len(have))) if tuple(have) == default_bands(len(have)) else None
        named = [mine.index(name) if mine.count(name) == theirs.count(name) == 1 else None for name in theirs]
        rest = iter([i for i in range(len(mine)) if i not in named])
        return [next(rest) if i is None else i for i in named]
    if len(mine) < len(theirs) or any(mine.count(name) != 1 or re.fullmatch(r"band\d+", name) for name in theirs):
        return None
    return [mine.index(name) for name in theirs]


def unknown_bands(have: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the names, such as `B02`, by which bands cannot be told to be those wanted.

    None are where only numbers are given (`Band_2` as the second), or are wanted.
    """
    known = {*map(_key, wanted), *RGB, "nir"}
    if all(_is_number(name, place) for place, name in enumerate(wanted, 1)):
        return []
    return [name for place, name in enumerate(have, 1) if _key(name) not in known and not _is_number(name, place)]


def colours_first(names: Sequence[str]) -> list[int]:
    """Return indices that put bands named red, green and blue first; the others keep their order."""
    colours = [colour_of(name) for name in names]
    if any(colours.count(colour) != 1 for colour in RGB):
        return list(range(len(names)))
    first = [colours.index(colour) for colour in RGB]
    return first + [i for i in range(len(names)) if i not in first]


def same_bands(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two sides have bands of the same names, in the same order."""
    return [_key(name) for name in one] == [_key(name) for name in other]


def _is_number(name: str, place: int) -> bool:
    return re.fullmatch(rf"(band|layer|channel)?[ _-]?0*{place}", name.strip(), re.IGNORECASE) is not None


def _key(name: str) -> str:
    return colour_of(name) or name.strip().lower()


@dataclass(frozen=True)
class Units:
    """Scale and offset of stored values, per band: value = stored x scale + offset.

    Attributes:
        scales, offsets: One a band, finite; no scale is 0.

    Raises:
        ValueError: If they are not.
    """

    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    def __post_init__(self) -> None:
        if not np.isfinite([*self.scales, *self.offsets]).all() or 0 in self.scales:
            raise ValueError("scales and offsets must be finite, and no scale 0")
        if len(self.scales) != len(self.offsets):
            raise ValueError("there must be a scale and an offset for each band")

    @classmethod
    def of(cls, scales: Sequence[float], offsets: Sequence[float]) -> Self | None:
        """Make units; None where stored values are the values themselves, or scale and offset are invalid."""
        if not np.isfinite([*scales, *offsets]).all() or 0 in scales:
            return None
        if all(s == 1 for s in scales) and all(o == 0 for o in offsets):
            return None
        return cls(tuple(map(float, scales)), tuple(map(float, offsets)))

    def pick(self, order: Sequence[int]) -> Self:
        """Select the units of some bands."""
        return type(self)(tuple(self.scales[i] for i in order), tuple(self.offsets[i] for i in order))

    def convert(self, stored: NDArray[Any], wanted: Units) -> NDArray[Any]:
        """Convert stored values (C, ...) to other units, in the same dtype.

        Integers are rounded and clipped to their type. Where only offsets differ, and by whole steps, as between two
        processing baselines of Sentinel-2, nothing is lost.
        """
        if self == wanted:
            return stored
        each = (-1,) + (1,) * (stored.ndim - 1)
        scale, offset = (np.reshape(v, each) for v in (self.scales, self.offsets))
        unit, zero = (np.reshape(v, each) for v in (wanted.scales, wanted.offsets))
        values: NDArray[Any] = stored * (scale / unit) + (offset - zero) / unit
        if stored.dtype.kind in "ui":
            limits = np.iinfo(stored.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        converted: NDArray[Any] = values.astype(stored.dtype)
        return converted

    def __str__(self) -> str:
        """Return `scale 0.0001, offset -0.1`, with all values where bands differ."""
        scales, offsets = (
            f"{values[0]:g}" if len(set(values)) == 1 else " ".join(f"{v:g}" for v in values)
            for values in (self.scales, self.offsets)
        )
        return f"scale {scales}, offset {offsets}"
