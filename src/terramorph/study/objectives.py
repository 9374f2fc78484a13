"""Objectives of `tune`: metrics of held-out pairs that rank trials, and whether they can be computed at all.

Losses do not rank GANs: the discriminator's says how the two networks stand to each other, and the generator's is
measured by a discriminator that differs from trial to trial.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from terramorph.bundle import Bands, Bundle
from terramorph.errors import ConfigError, did_you_mean
from terramorph.evaluation import evaluate
from terramorph.metrics import MAIN, METRICS
from terramorph.networks import build_generator
from terramorph.pairs import open_pairs
from terramorph.pixels import Scaling
from terramorph.training import TrainConfig
from terramorph.translate import Model

_LOOK = 8  # pairs that are scored


def choose_objectives(
    asked: Sequence[str],
    dataset: Path,
    split: str,
    preset: TrainConfig,
    weights: Path | None,
    allowed: Collection[str] = (),
) -> tuple[str, ...]:
    """Validate objectives, or choose the best that can be computed, by scoring an untrained network.

    Raises:
        ConfigError: a metric is unknown, named twice, or cannot be computed here.
        InputError: the weights are damaged.
        DatasetError: the pairs do not fit the network.
    """
    for name in asked:
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {did_you_mean(name, METRICS)}")
    if len(set(asked)) < len(asked):
        raise ConfigError(f"The objectives {', '.join(asked)} name a metric twice; name each once.")
    model = Model(_untrained(dataset, split, preset, allowed), device=preset.device)
    document = evaluate(model, dataset, split=split, weights=weights, limit=_LOOK)
    for name in asked:
        if document[name] is None:
            raise ConfigError(f"The objective {name} cannot be computed here: {document['reasons'][name]}")
    return tuple(asked) or (next(name for name in MAIN if document[name] is not None),)


def _untrained(dataset: Path, split: str, preset: TrainConfig, allowed: Collection[str]) -> Bundle:
    """A trial's bundle but for its weights."""
    data, pair = preset.data, open_pairs(dataset, split, nodata=preset.data.nodata).read(0)
    bands = []
    for side, given in zip(pair.sides(preset.direction), (data.source_range, data.target_range), strict=True):
        whole = (0.0, 255.0) if side.pixels.dtype == "uint8" else (float(side.pixels.min()), float(side.pixels.max()))
        low, high = given or whole
        bands.append(Bands.of(side.bands, Scaling(side.dtype.name, low, max(high, low + 1e-6)), side.units))
    source, target = bands
    return Bundle.of(
        build_generator(preset.generator, source.count, target.count, allowed),
        preset.generator.network,
        source=source,
        target=target,
        direction=preset.direction,
        size=data.crop_size,
        recipe=preset.model_dump(mode="json"),
    )
