"""Catalog of metrics: name, direction, needs and function of each.

A new metric is one entry here. One's own, from outside, is a `Metric` too, and is given to whatever scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from terramorph.errors import ConfigError, raised_as
from terramorph.metrics.distribution import frechet_distance, kernel_distance
from terramorph.metrics.mapwise import (
    TOLERANCE,
    boundary_f1,
    boundary_hits,
    centre_line_hits,
    class_accuracy,
    confusions,
    line_f1,
    mean_iou,
)
from terramorph.metrics.perceptual import Features, lpips
from terramorph.metrics.pixelwise import accuracy_within, psnr, rmse, ssim

Needs = Literal["pixels", "classes", "roads", "features", "inception"]
FROZEN: tuple[Needs, ...] = ("features", "inception")
"""Needs that are networks with frozen weights, from a folder of the user's."""


@dataclass(frozen=True)
class Metric:
    """A metric of translations.

    Attributes:
        key: In files and settings, a Python name.
        name: What people say, in the middle of a sentence.
        higher_is_better: Whether higher values are better, or lower ones.
        compute: ``(prediction, truth, mask) -> Tensor (N, ...)``: of each image of a batch its value ``(N,)``, ``nan``
            where it has none, or what the figure of the set is made from. What it is given:

            - ``pixels``: uint8 ``(N, C, H, W)``
            - ``classes``: bool ``(N, K, H, W)``, a plane a map class, one of them True at each pixel
            - ``roads``: bool ``(N, 1, H, W)``, True on roads of all kinds
            - ``features``: `Features` of SqueezeNet, of predictions that show the truth where the mask is False
            - ``inception``: float32 ``(N, 2048)``, of the same

            and of all of them the mask, bool ``(N, 1, H, W)``, True where a pixel counts; ``None`` where all do.
        figure: Of the set. ``None``: the mean of the values. Else made from the sums over images of what `compute`
            gives, ``(..., counts) -> (...)``; where a frozen network is needed, from all of it, ``(N, ...) -> ()``.
        needs: Input of `compute`.
        unit: Unit; empty for none.
        format: As of `format`; with ``%`` for shares.
        note: What it is, for a table.
        main: Whether it is among the few that are shown first and that studies compare by default.
    """

    key: str
    name: str
    higher_is_better: bool
    compute: Callable[[Any, Any, Tensor | None], Tensor]
    figure: Callable[[Tensor], Tensor | float] | None = None
    needs: Needs = "pixels"
    unit: str = ""
    format: str = ".3f"
    note: str = ""
    main: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", self.key):
            raise ConfigError(f"The key of a metric must be a Python name, got {self.key!r}; the rest is its name.")
        if self.needs not in get_args(Needs):
            raise ConfigError(f"The metric {self.key} needs {self.needs!r}; known are {', '.join(get_args(Needs))}.")
        with raised_as(ConfigError, f"The format {self.format!r} of the metric {self.key} fits no number", "give .3f"):
            format(0.0, self.format)

    @property
    def per_image(self) -> bool:
        """Whether each image has a value, of which the score is the mean."""
        return self.figure is None

    @property
    def summed(self) -> bool:
        """Whether the figure of a set is made from sums over its images."""
        return self.figure is not None and self.needs not in FROZEN

    @property
    def label(self) -> str:
        """Name and unit, for the head of a table or an axis."""
        plain = self.name.partition(" ")[0].islower()  # and no name such as clDice
        name = self.name[0].upper() + self.name[1:] if plain else self.name
        return f"{name}, {self.unit}" if self.unit else name

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↑" if self.higher_is_better else "↓"

    def said(self, value: float | None) -> str:
        """Format a value without its unit; a dash for none."""
        if value is None:
            return "–"
        text = format(value, self.format)
        return f"{text[:-1]} %" if text.endswith("%") else text

    def told(self, value: float | None) -> str:
        """Format name, value and unit, as `PSNR 26.02 dB`."""
        return f"{self.name} {self.said(value)} {self.unit}".rstrip()


def _stacked(prediction: Features | Tensor, truth: Features | Tensor, mask: Tensor | None) -> Tensor:
    """Stack the features that distances between sets compare, float32 ``(N, 2, D)``: D is 512 for SqueezeNet, 2048 for
    Inception."""
    return torch.stack([side.pooled if isinstance(side, Features) else side for side in (prediction, truth)], dim=1)


def _frechet(sides: Tensor) -> float:
    return frechet_distance(sides[:, 0], sides[:, 1])


def _kernel(sides: Tensor) -> float:
    return kernel_distance(sides[:, 0], sides[:, 1])


_ALL: tuple[Metric, ...] = (
    Metric(
        "lpips", "LPIPS", False, lpips, needs="features", main=True, note="perceptual distance, SqueezeNet v0.1"
    ),
    Metric(
        "miou", "mean IoU of classes", True, confusions, mean_iou, "classes", format=".1%", main=True,
        note="overlap with the true map classes, mean over classes",
    ),
    Metric(
        "fd", "Frechet distance", False, _stacked, _frechet, "features", format=".1f", main=True,
        note="between sets of SqueezeNet features; not FID, and lower with more pairs",
    ),
    Metric("ssim", "SSIM", True, ssim, main=True, note="structural similarity, Gaussian 11, sigma 1.5"),
    Metric("psnr", "PSNR", True, psnr, unit="dB", format=".2f", main=True, note="peak 255, at most 100"),
    Metric(
        "boundary_f1", "boundary F1", True, boundary_hits, boundary_f1, "classes", format=".1%",
        note=f"borders of map classes within {TOLERANCE} px of each other, mean over classes",
    ),
    Metric(
        "cldice", "clDice of roads", True, centre_line_hits, line_f1, "roads", format=".1%",
        note="centre lines of roads that lie on roads of the other side: what is broken or missing, whatever its width",
    ),
    Metric(
        "class_accuracy", "class accuracy", True, confusions, class_accuracy, "classes", format=".1%",
        note="pixels of the right map class",
    ),
    Metric(
        "kd", "kernel distance", False, _stacked, _kernel, "features", format=".2f",
        note="cubic, between sets of SqueezeNet features",
    ),
    Metric(
        "fid", "FID", False, _stacked, _frechet, "inception", format=".1f",
        note="Frechet Inception distance, pool3 of 2015",
    ),
    Metric("rmse", "RMSE", False, rmse, unit="grey levels", format=".2f", note="root of the mean squared error"),
    Metric(
        "acc5", "pixels within 5 levels", True, partial(accuracy_within, threshold=5), format=".1%",
        note="every channel off by under 5 grey levels",
    ),
    Metric(
        "acc10", "pixels within 10 levels", True, partial(accuracy_within, threshold=10), format=".1%",
        note="every channel off by under 10 grey levels",
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""Metrics by key, in the order in which they are shown: the most telling first."""
MAIN: tuple[str, ...] = tuple(metric.key for metric in _ALL if metric.main)


def add_metrics(metrics: Iterable[Metric]) -> None:
    """Add metrics to `METRICS` of this process, for studies to compare and rank by.

    Raises:
        ConfigError: As `with_own`.
    """
    METRICS.update(with_own(metrics))


def added_metrics() -> tuple[Metric, ...]:
    """Return the metrics of `METRICS` that are from outside."""
    return tuple(metric for metric in METRICS.values() if metric not in _ALL)


def with_own(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Return `METRICS` and the given ones, by key.

    Raises:
        ConfigError: One of them is no `Metric`, or has the key of a different one.
    """
    known = dict(METRICS)
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise ConfigError(f"{metric!r} is not a metric; make a terramorph.metrics.Metric of it.")
        if known.setdefault(metric.key, metric) != metric:
            raise ConfigError(f"There is a metric {metric.key!r} already; choose another key for {metric.name}.")
    return known
