"""Where the error lies: over the kinds of ground, and over the place within the image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.pieces import in_blocks
from terramorph.evaluation.discuss.section import Cell, Figure, Pictured, Section, Sentence, between, percent, signed
from terramorph.evaluation.discuss.views import css, heat
from terramorph.evaluation.statistics import FEW, mean_interval, ratio_intervals
from terramorph.report.charts import gradient
from terramorph.report.pages import picture_uri

_BLOCKS = 32
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
    """Error by class of ground, and by place in the image.

    Args:
        counts: Of all images.
        side: ``truth`` or ``source``, whichever is the map; ``None`` where neither is.
        generator: Draws the resamplings.
    """
    rim, data = _rim(counts, generator)
    figures = [_map(counts)]
    sentences = [rim]
    if side is not None:
        said, table, rows = _regions(counts, side, generator)
        sentences, figures = [*said, *sentences], [table, *figures]
        data["by_class"] = rows
    return Section("places", "Where the error lies", sentences, figures, data)


def _regions(
    counts: PlaceCounts, side: str, generator: np.random.Generator
) -> tuple[list[Sentence], Figure, dict[str, dict[str, object]]]:
    error, pixels = np.stack(counts.error), np.stack(counts.pixels)
    found = ratio_intervals(error, pixels, generator)
    shares = pixels.sum(axis=0) / pixels.sum()
    whole, body, data = float(error.sum() / pixels.sum()), [], {}
    for kind, interval, share in zip(MAP_CLASSES, found, shares, strict=True):
        if interval is None:
            continue
        body.append(
            [
                Cell(kind.name, kind.name, css=css(kind.rgb)),
                Cell(percent(share), share),
                Cell(between(interval, "{:.1f}".format), interval.mean),
                Cell(percent(interval.mean / whole * share) if whole else "–", interval.mean * share),
            ]
        )
        data[kind.name] = {"share": float(share), "error": asdict(interval)}
    known = [
        (one, kind.name) for kind, one, share in zip(MAP_CLASSES, found, shares, strict=True) if one and share >= _LEAST
    ]
    said = []
    if len(known) > 1:
        (least, best), (most, worst) = (choose(known, key=lambda item: item[0].mean) for choose in (min, max))
        text = (
            f"By the classes of the {side}, the mean absolute error is largest on {worst}, "
            f"{between(most, '{:.1f}'.format)} grey levels, and smallest on {best}, "
            f"{between(least, '{:.1f}'.format)}; over all it is {whole:.1f}."
        )
        values = {"largest": worst, "error": most.mean, "smallest": best, "least": least.mean, "all": whole}
        said.append(Sentence(text, values, "regions"))
    elif known:
        text = (
            f"The {side} shows one class, {known[0][1]}, on {percent(float(shares.max()))} of its pixels, with a mean "
            f"absolute error of {between(known[0][0], '{:.1f}'.format)} grey levels; there is nothing to compare it "
            "with."
        )
        said.append(Sentence(text, {"class": known[0][1], "error": known[0][0].mean}, "regions"))
    caption = (
        f"Mean absolute error (mean over bands, grey levels) on the pixels of each class of the {side}, and its share "
        "of all error. Brackets: 95 %, images resampled."
    )
    head = [f"Class of the {side}", "Share of pixels", "Mean error", "Share of error"]
    return said, Figure("regions", "table", caption, head=head, body=body), data


def _rim(counts: PlaceCounts, generator: np.random.Generator) -> tuple[Sentence, dict[str, object]]:
    rims = np.array([value for value in counts.rims if np.isfinite(value)])
    data: dict[str, object] = {"ring_px": counts.ring, "n": len(rims)}
    if len(rims) < FEW:
        text = (
            f"Whether the borders of the images are worse than their middles is not tested: that takes {FEW} images, "
            f"not {len(rims)}."
        )
        return Sentence(text, {"n": len(rims), "needed": FEW}, "error-places"), data
    found = mean_interval(rims, generator)
    data["ring_less_inside"] = asdict(found)
    assert found.low is not None
    assert found.high is not None
    amount = f"{between(found, signed)} grey levels over {len(rims)} images"
    verdict = (
        "The outer ring is worse than the middle"
        if found.low > 0
        else "The outer ring is better than the middle"
        if found.high < 0
        else "No difference is shown between the outer ring and the middle"
    )
    text = f"{verdict}: in the ring of {counts.ring} px along the border the mean absolute error differs by {amount}."
    return Sentence(text, {"ring_px": counts.ring, **asdict(found)}, "error-places"), data


def _map(counts: PlaceCounts) -> Figure:
    below = in_blocks(counts.valid_at, _BLOCKS)
    mean = np.divide(in_blocks(counts.error_at, _BLOCKS), below, out=np.full(below.shape, np.nan), where=below > 0)
    low, high = float(np.nanmin(mean)), float(np.nanmax(mean))
    picture = picture_uri(heat(mean - low, (high - low) or 1.0))
    caption = (
        f"Mean absolute error by place within the image, in {_BLOCKS} x {_BLOCKS} cells over all images: dark is "
        f"{low:.1f} grey levels, light is {high:.1f}."
    )
    gallery = [Pictured("", [(f"{low:.1f} to {high:.1f} grey levels", picture)])]
    return Figure("error-places", "gallery", caption, gallery=gallery, legend=[("low to high", gradient())])
