"""What a discussion gathers while the pairs of an evaluation go through."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import Palette
from terramorph.evaluation.discuss.confusions import ConfusionCounts
from terramorph.evaluation.discuss.covariates import map_covariates, source_covariates
from terramorph.evaluation.discuss.draws import DrawCounts
from terramorph.evaluation.discuss.pieces import KINDS, pieces_of
from terramorph.evaluation.discuss.places import PlaceCounts
from terramorph.evaluation.discuss.roads import count_roads, road_widths

MapSide = Literal["truth", "source"]


@dataclass
class Evidence:
    """Rows of numbers for each image, and sums over the set; no image is kept but three pairs of disagreement maps.

    An image leaves 2 kB behind, one with several draws 4 kB.

    Attributes:
        size: Side of the images in pixels.
        map_side: Which side is a map and supplies the seven classes; ``None`` where neither is.
        palette: Of that side.
        draws: How many draws there are of each image.
        covariates: Key of `COVARIATES` -> one value an image.
        roads, pieces: Counts of each image, as `roads_section` and `pieces_section` take them.
        seconds: Spent here.
    """

    size: int
    map_side: MapSide | None
    palette: Palette | None = None
    draws: int = 1
    covariates: dict[str, list[float]] = field(default_factory=dict)
    confusions: ConfusionCounts = field(default_factory=ConfusionCounts)
    roads: list[NDArray[np.int64]] = field(default_factory=list)
    pieces: list[NDArray[np.int64]] = field(default_factory=list)
    places: PlaceCounts = field(init=False)
    disagreement: DrawCounts = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.places = PlaceCounts(self.size)
        self.disagreement = DrawCounts(self.draws)

    def add(
        self, source: NDArray[np.uint8], truth: NDArray[np.uint8], draws: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> None:
        """Count one image.

        Args:
            source: uint8 ``(C, S, S)``.
            truth: uint8 ``(D, S, S)``.
            draws: uint8 ``(N, D, S, S)``; the first is the prediction that is scored.
            mask: bool ``(S, S)``, True where valid, somewhere.
        """
        started = time.perf_counter()
        prediction = draws[0]
        found = source_covariates(source, mask)
        classes = None
        if self.map_side is not None and self.palette is not None:
            classes = self.palette.classify(truth if self.map_side == "truth" else source)
            roads = road_widths(classes, mask)
            found |= map_covariates(classes, mask, roads)
        if self.map_side == "truth" and self.palette is not None and classes is not None:
            drawn = self.palette.classify(prediction)
            self.confusions.add(classes, drawn, mask)
            self.pieces.append(np.stack([pieces_of(kind, classes, drawn, mask).counts for kind in KINDS]))
            self.roads.append(count_roads(roads, road_widths(drawn, mask)))
        error = np.abs(prediction.astype(np.float32) - truth).mean(axis=0)
        self.places.add(error, mask, classes)
        if self.draws > 1:
            self.disagreement.add(draws, truth, mask)
        for key, value in found.items():
            self.covariates.setdefault(key, []).append(value)
        self.seconds += time.perf_counter() - started
