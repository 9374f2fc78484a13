"""What trials are ranked by: metrics of held-out pairs, and whether they can be computed at all.

Losses do not rank GANs: the discriminator's says how the two networks stand to each other, and the generator's is
measured by a discriminator that differs from trial to trial.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from terramorph.bundle import Bands, Bundle
from terramorph.errors import ConfigError, did_you_mean
from terramorph.evaluation import evaluate
from terramorph.metrics import MAIN, METRICS
from terramorph.networks import build_generator
from terramorph.pairs import open_pairs
from terramorph.pixels import Scaling
from terramorph.study.splits import Splits, link_pairs
from terramorph.training import TrainConfig
from terramorph.translate import Model

_LOOK = 8  # pairs of the untrained trial


def choose_objectives(
    asked: Sequence[str],
    dataset: Path,
    splits: Splits,
    preset: TrainConfig,
    weights: Path | None,
    allowed: Collection[str] = (),
) -> tuple[str, ...]:
    """The metrics asked for, or the best one that can be computed, found out by scoring an untrained network.

    Args:
        asked: metrics; empty to choose.
        dataset, splits: what trials are scored on.
        preset: says direction, size and network.
        weights: folder with the weights of deep features.
        allowed: modules from outside that the network may be of.

    Raises:
        ConfigError: if a metric is unknown, named twice, or cannot be computed here.
        InputError: if the weights are damaged.
        DatasetError: if the pairs do not fit the network.
    """
    for name in asked:
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {did_you_mean(name, METRICS)}")
    if len(set(asked)) < len(asked):
        raise ConfigError(f"The objectives {', '.join(asked)} name a metric twice; name each once.")
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs"
        link_pairs(dataset, replace(splits, tuning=splits.tuning[:_LOOK]), pairs)
        document = _look(pairs, "val", preset, weights, allowed)
    _require(asked, document)
    return tuple(asked) or (next(name for name in MAIN if document[name] is not None),)


def require_objectives(
    objectives: Sequence[str],
    dataset: Path,
    split: str,
    preset: TrainConfig,
    weights: Path | None,
    allowed: Collection[str] = (),
) -> None:
    """Finds out in the same way whether the objectives can be computed on a split; arguments and errors likewise."""
    _require(objectives, _look(dataset, split, preset, weights, allowed))


def _look(
    dataset: Path, split: str, preset: TrainConfig, weights: Path | None, allowed: Collection[str]
) -> dict[str, Any]:
    model = Model(_untrained(dataset, split, preset, allowed), device=preset.device)
    return evaluate(model, dataset, split=split, weights=weights, limit=_LOOK)


def _require(objectives: Sequence[str], document: Mapping[str, Any]) -> None:
    for name in objectives:
        if document[name] is None:
            raise ConfigError(f"The objective {name} cannot be computed here: {document['reasons'][name]}")


def _untrained(dataset: Path, split: str, preset: TrainConfig, allowed: Collection[str]) -> Bundle:
    """A bundle as a trial ends with, in everything but its weights."""
    pair = open_pairs(dataset, split, nodata=preset.data.nodata).read(0)
    sides = (pair.a, pair.b) if preset.direction == "AtoB" else (pair.b, pair.a)
    given = (preset.data.source_range, preset.data.target_range)
    bands = []
    for side, limits in zip(sides, given, strict=True):
        whole = (0.0, 255.0) if side.pixels.dtype == "uint8" else (float(side.pixels.min()), float(side.pixels.max()))
        low, high = limits or whole
        bands.append(Bands.of(side.bands, Scaling(side.dtype.name, low, max(high, low + 1e-6)), side.units))
    network = build_generator(preset.generator, bands[0].count, bands[1].count, allowed)
    return Bundle.of(
        network,
        preset.generator.network,
        source=bands[0],
        target=bands[1],
        direction=preset.direction,
        size=preset.data.crop_size,
        recipe=preset.model_dump(mode="json"),
    )
