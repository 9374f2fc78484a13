"""Inputs of a run: decoded training pairs, their batches, and the held-out pairs that are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from terramorph.bundle import Bands
from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.errors import DatasetError
from terramorph.metrics import Metric
from terramorph.pairs import open_pairs, warn_if_few
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.validation import open_validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FITTED = 256
"""Number of training pairs from which the colours of a palette are fitted."""


class Inputs:
    """The pairs of a run.

    Attributes:
        pairs: Decoded training pairs.
        source, target: Sides of the pairs.
        bands: Bands of source and target, as a bundle states them.
        validator: Validator of held-out pairs; None without any.
        per_step: Pairs per step, all processes together.
    """

    def __init__(
        self,
        dataset: Path,
        config: TrainConfig,
        fabric: Fabric,
        skip_bad: bool,
        cache: Path,
        metric: Metric,
        progress: Callable[[int, int], None],
    ) -> None:
        data = config.data
        self._config, self._fabric = config, fabric
        self.pairs = decode(
            open_pairs(dataset, "train", skip_bad=skip_bad, nodata=data.nodata),
            size=data.load_size or None,
            resampling=data.resampling,
            at_least=data.crop_size,
            cache=cache,
            skip_bad=skip_bad,
            progress=progress,
        )
        if fabric.is_global_zero:
            warn_if_few(len(self.pairs), "Some hundred are usual; prepare more ground, smaller or overlapping tiles.")
        sides = self.pairs.a, self.pairs.b
        self.source, self.target = sides if config.direction == "AtoB" else sides[::-1]
        scalings = (self.source.scaling(data.source_range, robust=True), self.target.scaling(data.target_range))
        self.bands = (
            Bands.of(self.source.bands, scalings[0], self.source.units),
            Bands.of(self.target.bands, scalings[1], self.target.units),
        )
        self.validator = open_validation(dataset, config, self.pairs, scalings, skip_bad, cache, fabric.device, metric)
        if config.stop.patience and self.validator is None:
            raise DatasetError(
                f"stop.patience needs held-out pairs, and {dataset} has no val and no test split; add one, or set "
                "stop.patience=0."
            )
        augmentation = Augmentation(data.crop_size, data.mirror, data.eightfold, data.jitter, data.cast, data.shrink)
        self._batches = TrainingBatches(
            self.pairs, self.source, self.target, scalings, augmentation, config.seed, fabric.device
        )
        self.per_step = config.per_step * fabric.world_size

    def of_step(self, step: int) -> list[Batch]:
        """Return this process's batches of a step."""
        size, processes = self._config.batch_size, self._fabric.world_size
        first = step * self.per_step + self._fabric.global_rank * size
        return [self._batches.batch(first + n * size * processes, size) for n in range(self._config.accumulate)]

    def targets(self) -> Iterator[Tensor]:
        """Yield the valid pixels of some training targets, float (1, C, 1, P) in [-1, 1]; the same at every call."""
        for number in range(min(len(self.pairs), _FITTED)):
            batch = self._batches.batch(number, 1)
            valid = slice(None) if batch.mask is None else batch.mask.flatten().bool()
            yield batch.target.flatten(2)[:, :, None, valid]

    def calibration(self, most: int | None = None) -> Iterator[Tensor]:
        """Yield batches of `recalibrate` sources, at most ``most``, over which statistics are averaged."""
        size, wanted = self._config.batch_size, self._config.recalibrate
        images = min(wanted, len(self.pairs), most or wanted)
        return (self._batches.batch(n * size, size).source for n in range(max(1, images // size)))
