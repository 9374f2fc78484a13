"""Scores of protocol maps-256 from images, for predictions and floor alike, and verdicts of one against the other.

A `Tally` takes 8-bit images batch by batch and returns their scores at the end. It keeps a few numbers and features per
image, no pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph.cartography import ROADS
from terramorph.errors import InputError
from terramorph.evaluation.classes import Classes
from terramorph.evaluation.statistics import SURE, bootstrap, mean_interval
from terramorph.imports import running
from terramorph.metrics import (
    FROZEN,
    INCEPTION_FILE,
    METRICS,
    Features,
    InceptionFeatures,
    Lpips,
    Metric,
    confusions,
    named_iou,
)
from terramorph.pixels import BYTE
from terramorph.report.numbers import Interval

_SMALLEST = 17  # least side in pixels that SqueezeNet takes

View = dict[str, Any]
"""Views of a batch of images, by the need of metrics (`Metric.needs`)."""
NOT_SHOWN = "no difference shown"


@dataclass
class Instruments:
    """Functions that make the views that metrics need, and reasons for missing ones.

    Attributes:
        look: Functions by need: uint8 images ``(N, C, H, W)`` and their views so far -> argument of `Metric.compute`.
        missing: Sentences by need, for views that cannot be made.
        palette: Class names of the targets; empty where they are no map.
    """

    look: dict[str, Callable[[Tensor, View], Any]] = field(default_factory=lambda: {"pixels": lambda images, _: images})
    missing: dict[str, str] = field(default_factory=dict)
    palette: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, weights: str | Path | None, classes: Classes, *, bands: int, size: int, device: torch.device
    ) -> Instruments:
        """Load the networks whose weights are given and that take images of these bands and pixels.

        Args:
            weights: Folder with the SqueezeNet and LPIPS weights, and optionally the Inception weights.
            classes: Classes of the target.
            bands: Bands of the target; networks take 3, or 1 as grey.
            size: Side of the compared images in pixels.
            device: Device of the networks.
        """
        made = cls()
        made._open_classes(classes)
        if bands not in (1, 3):
            reason = f"SqueezeNet and Inception need a target of 1 or 3 bands, got {bands}."
            made.missing |= dict.fromkeys(FROZEN, reason)
            return made
        if size < _SMALLEST:
            made.missing["features"] = f"SqueezeNet needs images of {_SMALLEST} px or more, got {size} px."
        elif weights is None:
            made.missing["features"] = (
                "The SqueezeNet and LPIPS weights are needed; --weights names the folder that holds them."
            )
        else:
            squeezenet = Lpips.from_folder(weights).to(device)
            made.look["features"] = lambda images, _: squeezenet.look(BYTE.to_unit(_colour(images)))
        if weights is None or not (Path(weights) / INCEPTION_FILE).is_file():
            where = "--weights names the folder that holds them" if weights is None else f"they are not in {weights}"
            made.missing["inception"] = f"The Inception weights {INCEPTION_FILE} are needed; {where}."
        else:
            inception = InceptionFeatures.from_folder(weights).to(device)
            made.look["inception"] = lambda images, _: inception(_colour(images))
        return made

    def _open_classes(self, classes: Classes) -> None:
        palette = classes.palette
        if palette is None:
            self.missing |= {"classes": classes.why, "roads": classes.why}
            return

        def planes(images: Tensor, _: View) -> Tensor:
            found = torch.stack([torch.from_numpy(palette.classify(image)) for image in images.cpu().numpy()])
            return (found[:, None] == torch.arange(len(palette.classes))[:, None, None]).to(images.device)

        self.palette = palette.names
        self.look["classes"] = planes
        if palette.named:
            self.look["roads"] = lambda _, seen: seen["classes"][:, list(ROADS)].any(dim=1, keepdim=True)
        else:
            self.missing["roads"] = f"The palette {palette.name} does not say which colours are roads."

    @torch.inference_mode()
    def view(self, images: Tensor, truth: Tensor | None = None, mask: Tensor | None = None) -> View:
        """Make the views of a batch, uint8 ``(N, C, H, W)``; in predictions, networks get the truth where the mask is
        False."""
        shown = images if mask is None or truth is None else torch.where(mask, images, truth)
        seen: View = {}
        for need, look in self.look.items():
            seen[need] = look(shown if need in FROZEN else images, seen)
        return seen

    def view_constant(self, seen: View, plain: Tensor, truth: Tensor, mask: Tensor | None) -> View:
        """Make the views of one image, uint8 ``(1, C, H, W)``, as the prediction of all images of a batch."""
        if mask is not None and set(FROZEN) & set(self.look):
            return self.view(plain.expand_as(truth), truth, mask)
        count = len(truth)
        return {
            need: one.repeated(count) if isinstance(one, Features) else one.expand(count, *one.shape[1:])
            for need, one in seen.items()
        }


class Tally:
    """Scores of a set of predictions, added batch by batch.

    Args:
        instruments: Shared by tallies of the same truths.
        metrics: Metrics by key; those without an instrument have no score.

    Attributes:
        count: Number of images so far.
    """

    def __init__(self, instruments: Instruments, metrics: Mapping[str, Metric] = METRICS) -> None:
        self.instruments, self.metrics = instruments, metrics
        self.count = 0
        self._computed = {key: one for key, one in metrics.items() if one.needs in instruments.look}
        # Metrics of the same values share them.
        self._kept: dict[Any, list[Tensor]] = {one.compute: [] for one in self._computed.values()}

    @torch.inference_mode()
    def add(self, prediction: View, truth: View, mask: Tensor | None) -> None:
        """Add a batch: `Instruments.view` of both sides, and a mask, bool ``(N, 1, H, W)``, or ``None``."""
        count = len(truth["pixels"])
        for compute, metric in {one.compute: one for one in self._computed.values()}.items():
            with running(f"The metric {metric.key}"):
                # Copies, for code that writes into what it is given.
                given = (prediction[metric.needs], truth[metric.needs], mask)
                found = compute(*(one.clone() if isinstance(one, Tensor) else one for one in given))
            if not isinstance(found, Tensor) or not found.ndim or len(found) != count:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise InputError(
                    f"compute of the metric {metric.key} must return a tensor with a row per image, got {shape} for "
                    f"{count} images."
                )
            if metric.per_image and found.ndim > 1:
                raise InputError(
                    f"compute of the metric {metric.key} must return one value per image, got {tuple(found.shape)} "
                    f"for {count} images; give the metric a figure for other shapes."
                )
            self._kept[compute].append(found.cpu())
        self.count += count

    def kept(self, metric: Metric) -> Tensor | None:
        """Return the values of a metric, ``(N, ...)``; ``None`` where it is not computed."""
        parts = self._kept.get(metric.compute)
        return torch.cat(parts) if parts else None

    @property
    def per_image(self) -> dict[str, list[float]]:
        """Values of each image in the order of arrival, by key of the metrics that have them."""
        columns = {key: self.kept(one) for key, one in self._computed.items() if one.per_image}
        return {key: values.tolist() for key, values in columns.items() if values is not None}

    def scores(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """Return all scores, and the reasons for missing ones.

        Returns:
            Key -> value or ``None``, of all metrics, and key -> sentence for each ``None``.
        """
        found: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for key, metric in self.metrics.items():
            found[key] = None
            if metric.needs not in self.instruments.look:
                reasons[key] = self.instruments.missing[metric.needs]
                continue
            try:
                value = self._score(metric)
            except InputError as error:
                reasons[key] = str(error)
                continue
            if math.isfinite(value):
                found[key] = value
            else:
                reasons[key] = "No image has a value."
        return found, reasons

    def _score(self, metric: Metric) -> float:
        kept = self.kept(metric)
        if kept is None:
            return math.nan
        if metric.figure is not None:
            with running(f"The metric {metric.key}"):
                return float(metric.figure(kept.sum(dim=0) if metric.summed else kept))
        values = [value for value in kept.tolist() if not math.isnan(value)]
        return math.fsum(values) / len(values) if values else math.nan

    def confusion(self) -> Tensor | None:
        """Return the confusion matrix of the set, int64 ``(K, K)``, rows truth, columns prediction; ``None`` without
        classes."""
        parts = self._kept.get(confusions)
        return torch.cat(parts).sum(dim=0) if parts else None

    def iou(self) -> dict[str, float | None] | None:
        """Return the IoU of each class, ``None`` for a class that does not occur; ``None`` without classes."""
        confusion = self.confusion()
        return None if confusion is None else named_iou(confusion, self.instruments.palette)


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def against_floor(model: Tally, floor: Tally) -> dict[str, dict[str, Any]]:
    """Compare model and floor in every score: the difference, paired by image, with its 95 % interval (bootstrap).

    Distances between sets of features are left out: their bias depends on the number of images.

    Returns:
        By key of score: ``difference`` (model minus floor), ``low``, ``high`` and ``verdict``: better, worse or not
        shown (always with fewer than six images).
    """
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, Any]] = {}
    for key, metric in model.metrics.items():
        interval, verdict = _interval(metric, model.kept(metric), floor.kept(metric), generator), NOT_SHOWN
        if interval is None:
            continue
        if model.count >= SURE and interval.beyond_zero():
            verdict = "better" if (interval.mean > 0) == metric.higher_is_better else "worse"
        found[key] = {"difference": interval.mean, "low": interval.low, "high": interval.high, "verdict": verdict}
    return found


def _interval(
    metric: Metric, own: torch.Tensor | None, other: torch.Tensor | None, generator: np.random.Generator
) -> Interval | None:
    """Return the interval of the difference; ``None`` where there is no score or no interval."""
    figure = metric.figure
    if own is None or other is None or not (metric.per_image or metric.summed):
        return None
    sides = own.double(), other.double()
    if figure is None:
        differences = (sides[0] - sides[1]).numpy()
        differences = differences[np.isfinite(differences)]
        return mean_interval(differences, generator) if len(differences) else None

    def difference(often: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = [torch.tensordot(torch.from_numpy(often).double(), kept, dims=1) for kept in sides]
        gain: NDArray[np.float64] = torch.sub(*(torch.as_tensor(figure(one)) for one in sums)).numpy()
        return gain[:, None]

    return bootstrap(difference, len(own), generator)[0]
