"""Evidence for a discussion, gathered while pairs are scored."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terramorph.evaluation.classes import Classes
from terramorph.evaluation.discuss.confusions import count_confusions
from terramorph.evaluation.discuss.covariates import map_covariates, source_covariates
from terramorph.evaluation.discuss.draws import Disagreement, compare_draws, most_disagreeing
from terramorph.evaluation.discuss.pieces import KINDS, pieces_of
from terramorph.evaluation.discuss.places import BLOCKS, errors_by_place, in_blocks
from terramorph.evaluation.discuss.roads import count_roads, road_widths
from terramorph.evaluation.discuss.section import Columns

MapSide = Literal["truth", "source"]


@dataclass
class Evidence:
    """Numbers of each image, and sums over the set; the only images kept are three pairs of disagreement maps.

    An image takes 2 kB, one with several draws 4 kB.

    Attributes:
        map_side: Side that is a map of the seven classes; ``None`` where neither is.
        classes: Classes of that side.
        draws: Number of draws of each image.
        rows: Values or arrays of each image by key: covariates and counts.
        blocks: Sums over images of errors and of valid pixels in `BLOCKS`, float64 ``(2, cells, cells)``.
        most: The images whose draws disagree most.
        seconds: Time spent here.
    """

    map_side: MapSide | None = None
    classes: Classes | None = None
    draws: int = 1
    rows: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    blocks: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    most: list[Disagreement] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def columns(self) -> Columns:
        return {key: np.stack(values) for key, values in self.rows.items()}

    def add(
        self, source: NDArray[np.uint8], truth: NDArray[np.uint8], draws: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> None:
        """Add an image.

        Args:
            source: uint8 ``(C, S, S)``.
            truth: uint8 ``(D, S, S)``.
            draws: uint8 ``(N, D, S, S)``; the first is the prediction that is scored.
            mask: bool ``(S, S)``, True where valid, somewhere.
        """
        started = time.perf_counter()
        prediction, classes = draws[0], None
        found: dict[str, Any] = dict(source_covariates(source, mask))
        if self.classes is not None and self.classes.palette is not None:
            palette = self.classes.palette
            classes = palette.classify(truth if self.map_side == "truth" else source)
            roads = road_widths(classes, mask)
            found |= map_covariates(classes, mask, roads)
            if self.map_side == "truth":
                drawn = palette.classify(prediction)
                found |= count_confusions(classes, drawn, mask)
                found["roads"] = count_roads(roads, road_widths(drawn, mask))
                found["pieces"] = np.stack([pieces_of(kind, classes, drawn, mask).counts for kind in KINDS])
        error = np.abs(prediction.astype(np.float32) - truth).mean(axis=0)
        found |= errors_by_place(error, mask, classes)
        self.blocks = self.blocks + np.stack([in_blocks(side, BLOCKS) for side in (np.where(mask, error, 0.0), mask)])
        if self.draws > 1:
            numbers, maps = compare_draws(draws, truth, mask)
            found |= numbers
            self.most = most_disagreeing([*self.most, (numbers["spread"], len(self.rows["spread"]), *maps)])
        for key, value in found.items():
            self.rows[key].append(value)
        self.seconds += time.perf_counter() - started
