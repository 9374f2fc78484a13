"""Places of the error: over the kinds of ground, and within the image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.section import Section
from terramorph.evaluation.pictures import css
from terramorph.evaluation.statistics import FEW, mean_interval, ratio_intervals
from terramorph.report.charts import heat_map
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.tables import Cell, Table

BLOCKS = 32
"""Cells a side of maps over the place within the image, at most."""
_LEAST = 0.001  # share of the pixels of a class, for a sentence about it


@dataclass
class PlaceCounts:
    """Absolute errors (mean over bands, grey levels), by class of the map side and by place.

    Attributes:
        size: Side of the images.
        error, pixels: float64 ``(7,)`` an image: sum of errors over the pixels of each class, and their number.
        rims: For each image the mean error in the outer ring less that inside it; NaN where one is without pixels.
        error_at, valid_at: float64 ``(size, size)``: sums over images.
    """

    size: int
    error: list[NDArray[np.float64]] = field(default_factory=list)
    pixels: list[NDArray[np.float64]] = field(default_factory=list)
    rims: list[float] = field(default_factory=list)
    error_at: NDArray[np.float64] = field(init=False)
    valid_at: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.error_at = np.zeros((self.size, self.size))
        self.valid_at = np.zeros((self.size, self.size))

    @property
    def ring(self) -> int:
        """Width of the outer ring in pixels, a sixteenth of the side."""
        return max(1, self.size // 16)

    def add(self, error: NDArray[np.float32], mask: NDArray[np.bool_], classes: NDArray[np.uint8] | None) -> None:
        """Count one image: float32 ``(H, W)``, bool ``(H, W)``, and the classes of its map side, uint8 ``(H, W)``."""
        self.error_at += np.where(mask, error, 0.0)
        self.valid_at += mask
        inside = np.zeros_like(mask)
        inside[self.ring : -self.ring, self.ring : -self.ring] = True
        parts = [error[mask & where] for where in (~inside, inside)]
        self.rims.append(float(parts[0].mean() - parts[1].mean()) if all(len(p) for p in parts) else np.nan)
        if classes is not None:
            count = len(CLASSES)
            self.error.append(np.bincount(classes[mask], error[mask], minlength=count).astype(np.float64))
            self.pixels.append(np.bincount(classes[mask], minlength=count).astype(np.float64))


def places_section(counts: PlaceCounts, side: str | None, generator: np.random.Generator) -> Section:
    """Error by class of the map side, if there is one, and by place in the image."""
    rim, data = _rim(counts, generator)
    facts, table = [rim], None
    if side is not None:
        fact, table, data["by_class"] = _regions(counts, side, generator)
        facts.insert(0, fact)
    chart = heat_map(_mean_in_blocks(counts.error_at, counts.valid_at), "grey levels")
    return Section(
        "places", "Where the error lies", facts, data, table, charts=[("Mean absolute error within the image", chart)]
    )


def _regions(counts: PlaceCounts, side: str, generator: np.random.Generator) -> tuple[str, Table, dict[str, Any]]:
    error, pixels = np.stack(counts.error), np.stack(counts.pixels)
    found = ratio_intervals(error, pixels, generator)
    shares = (pixels.sum(axis=0) / pixels.sum()).tolist()
    whole, body, data, known = float(error.sum() / pixels.sum()), [], {}, []
    for kind, interval, share in zip(MAP_CLASSES, found, shares, strict=True):
        if interval is None:
            continue
        part = interval.mean / whole * share if whole else None
        body.append(
            [
                Cell(kind.name, kind.name, colour=css(kind.rgb)),
                Cell(percent(share), share),
                Cell(interval.said("{:.1f}".format), interval.mean),
                Cell(percent(part), part),
            ]
        )
        data[kind.name] = {"share": share, "error": asdict(interval)}
        known += [(interval, kind.name)] if share >= _LEAST else []
    (least, best), (most, worst) = (choose(known, key=lambda item: item[0].mean) for choose in (min, max))
    fact = (
        f"By the classes of the {side}, the mean absolute error is largest on {worst}, {most.mean:.1f} grey "
        f"levels, and smallest on {best}, {least.mean:.1f}; over all it is {whole:.1f}."
        if len(known) > 1
        else f"The {side} shows one class, {best}, with a mean absolute error of {least.mean:.1f} grey levels."
    )
    caption = (
        f"Mean absolute error (mean over bands, grey levels) on the pixels of each class of the {side}, and its share "
        "of all error. Brackets: 95 %, images resampled."
    )
    return fact, Table([f"Class of the {side}", "Share of pixels", "Mean error", "Share of error"], body, caption), data


def _rim(counts: PlaceCounts, generator: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """The ring along the border against what is inside."""
    rims = np.array([value for value in counts.rims if np.isfinite(value)])
    data: dict[str, Any] = {"ring_px": counts.ring, "n": len(rims)}
    ring = f"the outer ring of {counts.ring} px"
    if len(rims) < FEW:
        return f"Whether {ring} is worse than the middle is not tested with {counted(len(rims), 'image')}.", data
    found = mean_interval(rims, generator)
    data["ring_less_inside"] = asdict(found)
    verdict = "differs" if found.beyond_zero() else "is not shown to differ"
    return f"In {ring} the error {verdict} from the middle, by {found.said(signed)} grey levels.", data


def _mean_in_blocks(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of two maps, each summed over cells; NaN where the second is 0."""
    below = in_blocks(whole, BLOCKS)
    share: NDArray[np.float64] = np.divide(
        in_blocks(part, BLOCKS), below, out=np.full(below.shape, np.nan), where=below > 0
    )
    return share


def in_blocks(values: NDArray[np.int64] | NDArray[np.float64], blocks: int) -> NDArray[np.float64]:
    """Sums over a grid of at most so many cells a side: ``(S, S)`` -> float64 ``(cells, cells)``."""
    side = -(-len(values) // blocks)
    starts = range(0, len(values), side)
    rows = np.add.reduceat(values.astype(np.float64), starts, axis=0)
    summed: NDArray[np.float64] = np.add.reduceat(rows, starts, axis=1)
    return summed
