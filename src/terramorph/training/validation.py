"""Validation of a run on held-out pairs: scores, sample sheets of the same pairs every time, and early stopping by a
score that has not improved for some validations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from terramorph.data import DecodedPairs, decode
from terramorph.errors import ConfigError, DatasetError
from terramorph.imports import is_outside, resolve, running
from terramorph.metrics import METRICS, Metric, with_own
from terramorph.networks.generator import translated
from terramorph.pairs import has_split, open_pairs
from terramorph.pixels import BYTE, Scaling, unit_to_image
from terramorph.raster.resample import centred
from terramorph.training.config import StopConfig, TrainConfig

_BATCH = 8
"""Pairs per batch."""
SCORED = tuple(one for one in METRICS.values() if one.main and one.per_image and one.needs == "pixels")
"""Main metrics that need only pixels."""


@dataclass(frozen=True)
class Validation:
    """Outputs and scores of a network on held-out pairs.

    Attributes:
        step: Optimizer steps done.
        metrics: The metrics that were computed.
        scores: Means over the pairs by key of metric, on 256 levels of the target's range.
        translated, truth: float32 (N, C, H, W) in [-1, 1].
        sheet: uint8 (N * H, 3 * W, 3), rows of source | output | truth; None without one.
    """

    step: int
    metrics: tuple[Metric, ...]
    scores: dict[str, float]
    translated: Tensor
    truth: Tensor
    sheet: np.ndarray | None

    @property
    def said(self) -> str:
        """Format the scores, as `SSIM 0.512, PSNR 18.20 dB`."""
        return ", ".join(one.told(self.scores[one.key]) for one in self.metrics if one.key in self.scores)


class Validator:
    """Pairs spread evenly over the val split (or test, without one), whole images at the size of the crops.

    Attributes:
        source, target: float32 (N, C, H, W) in [-1, 1].
        mask: bool (N, 1, H, W), True where both sides hold data; None where all do.
        sheet: Indices of the pairs on the sample sheet.
        metrics: Metrics to compute, which need only pixels.
    """

    def __init__(
        self, source: Tensor, target: Tensor, mask: Tensor | None, sheet: int, metrics: tuple[Metric, ...] = SCORED
    ) -> None:
        self.source, self.target, self.mask, self.metrics = source, target, mask, metrics
        self.sheet = _spread(len(source), sheet)

    @torch.no_grad()
    def validate(self, network: nn.Module, step: int) -> Validation:
        """Translate and score the pairs; the network's training mode is restored."""
        was = network.training
        network.eval()
        random = torch.Generator(self.source.device).manual_seed(0)
        outputs = torch.cat([translated(network, one, random).float() for one in torch.split(self.source, _BATCH)])
        network.train(was)
        made, truth = (BYTE.from_unit(images) for images in (outputs, self.target))
        scores = {}
        for metric in self.metrics:
            with running(f"The metric {metric.key}"):
                values = [value for value in metric.compute(made, truth, self.mask).tolist() if math.isfinite(value)]
            if values:
                scores[metric.key] = math.fsum(values) / len(values)
        shown = self.source[self.sheet], outputs[self.sheet], self.target[self.sheet]
        return Validation(
            step, self.metrics, scores, outputs, self.target, sample_sheet(*shown) if self.sheet else None
        )


def open_validation(
    dataset: Path,
    config: TrainConfig,
    training: DecodedPairs,
    scalings: tuple[Scaling, Scaling],
    skip_bad: bool,
    cache: Path,
    device: torch.device,
    metric: Metric = METRICS["ssim"],
) -> Validator | None:
    """Open the held-out pairs of a run: config.log.validation of them, and at least config.log.sheet.

    The metric that stops the run is scored beside `SCORED`.

    Returns:
        The validator; None if both are 0 or there is no held-out split.
    """
    split = next((name for name in ("val", "test") if has_split(dataset, name)), None)
    wanted = max(config.log.validation, config.log.sheet)
    if split is None or wanted == 0:
        return None
    found = open_pairs(dataset, split, skip_bad=skip_bad, nodata=config.data.nodata)
    size = config.data.crop_size
    # At the scale of training: crops of whole files are not seen resized.
    fitted = size if config.data.load_size else None
    pairs = decode(found.only(_spread(len(found), wanted), []), size=fitted, cache=cache, skip_bad=skip_bad)
    for name, ours, theirs in (("A", training.a, pairs.a), ("B", training.b, pairs.b)):
        if (len(ours.bands), ours.dtype) != (len(theirs.bands), theirs.dtype):
            raise DatasetError(
                f"Side {name} of {dataset} must have the same bands and dtype in the splits train and {split}, got "
                f"{len(ours.bands)} bands of {ours.dtype} and {len(theirs.bands)} bands of {theirs.dtype}."
            )
    sides = [pairs.a.like(training.a), pairs.b.like(training.b)]
    sides = sides if config.direction == "AtoB" else sides[::-1]
    masks = pairs.masks or [np.ones(image.shape[:2], np.uint8) for image in sides[0]]
    cut = [
        [centred(image.transpose(2, 0, 1), mask > 0, size) for image, mask in zip(side, masks, strict=True)]
        for side in sides
    ]
    stored = [torch.from_numpy(np.stack([image for image, _ in side])) for side in cut]
    source, target = (scaling.to_unit(images).to(device) for scaling, images in zip(scalings, stored, strict=True))
    metrics = SCORED if metric in SCORED else (*SCORED, metric)
    if pairs.masks is None:
        return Validator(source, target, None, config.log.sheet, metrics)
    mask = torch.from_numpy(np.stack([mask for _, mask in cut[0]]))[:, None].to(device)
    return Validator(source * mask, target, mask, config.log.sheet, metrics)


def sample_sheet(source: Tensor, translated: Tensor, truth: Tensor) -> np.ndarray:
    """Make a sample sheet: rows of source | output | truth.

    Args:
        source, translated, truth: float (N, C, H, W) in [-1, 1]; the first three bands are shown, or the first as grey.

    Returns:
        uint8 (N * H, 3 * W, 3).
    """
    columns = []
    for images in (source, translated, truth):
        shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
        columns.append(torch.cat(list(shown.float()), dim=1))
    return unit_to_image(torch.cat(columns, dim=2)).transpose(1, 2, 0)


def _spread(length: int, count: int) -> list[int]:
    """Return at most `count` indices, evenly spread over a length."""
    return [int(i) for i in np.unique(np.linspace(0, length - 1, count).astype(int))] if count else []


def stopping_metric(name: str, allowed: Collection[str] = ()) -> Metric:
    """Return the metric that `stop.metric` names."""
    if not is_outside(name):
        return METRICS[name]
    found = resolve(name, allowed)
    with_own([found])
    if not found.per_image or found.needs != "pixels":
        raise ConfigError(f"stop.metric must be a metric with one value per image, from pixels alone, got {found.key}.")
    metric: Metric = found
    return metric


class EarlyStopping:
    """Counts validations without a better score; its state is plain data for checkpoints.

    Args:
        config: Patience, and a metric of the catalogue.
        metric: From `stopping_metric`; by default the one that `config` names.

    Attributes:
        best: The best score so far; negated for a metric of which lower is better.
        waited: Validations since the best one.
    """

    def __init__(self, config: StopConfig, metric: Metric | None = None) -> None:
        self._config, self._metric = config, metric or METRICS[config.metric]
        self.best, self.waited = -math.inf, 0

    def improved(self, scores: Mapping[str, float]) -> bool:
        """Count a validation, and return whether it is the best so far."""
        value = scores.get(self._metric.key, math.nan)
        score = -math.inf if math.isnan(value) else value if self._metric.higher_is_better else -value
        better = score > self.best
        self.best, self.waited = max(score, self.best), 0 if better else self.waited + 1
        return better

    @property
    def over(self) -> bool:
        return 0 < self._config.patience <= self.waited

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited} if self._config.patience and self.best > -math.inf else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = float(state.get("best", -math.inf)), int(state.get("waited", 0))
