"""The definition of a study: a base configuration, named changes of it, a budget and seeds; a TOML file or by name.

seeds = 3                      # optional, as are split (val, or test where there is no val) and metrics
[base]
preset = "pix2pix"             # or a TOML file
settings.data.crop_size = 128
[budget]
images = 100_000               # seen in training by every run; or minutes = 20
[[change]]
name = "lsgan"
settings.loss.adversarial = "lsgan"
adds_to = "another-change"     # optional: on top of an earlier change
share = 1.0                    # optional: of the budget
source = "Mao et al. 2017, arXiv:1611.04076"
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from terramorph.documents import flat
from terramorph.errors import ConfigError, did_you_mean
from terramorph.metrics import FROZEN, MAIN, METRICS, added_metrics
from terramorph.study.run import flat_settings
from terramorph.tables import Table, checked, read_toml
from terramorph.training import TrainConfig, load_config

_FOLDER = Path(str(resources.files("terramorph.study"))) / "studies"
STUDIES: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))
BASE = "base"
WEIGHTS = "{weights}"
"""Placeholder for the folder of feature weights in a setting; without a folder such a change is left out."""
UNENDING = 10**9
"""Steps in the schedule of a run with a budget of time."""
_LOGGED = 40  # points of a training curve


class _Base(Table):
    preset: str = "pix2pix"
    settings: dict[str, Any] = Field(default_factory=dict)


class _Budget(Table):
    images: int | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0)


class _Change(Table):
    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    adds_to: str = ""
    share: float | None = Field(None, gt=0)
    source: str = ""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise ValueError("name must have letters, digits and . _ + - only, for it names a folder")
        return name


class _File(Table):
    seeds: int = Field(3, ge=1)
    split: str = ""
    metrics: list[str] | None = Field(None, min_length=1)
    base: _Base = _Base()
    budget: _Budget = _Budget()
    change: list[_Change] = Field(min_length=1)

    @field_validator("metrics")
    @classmethod
    def _known_and_different(cls, metrics: list[str] | None) -> list[str] | None:
        for metric in metrics or ():
            if metric not in METRICS:
                raise ValueError(f"there is no metric {metric!r}; {did_you_mean(metric, METRICS)}")
        if metrics is not None and len(set(metrics)) < len(metrics):
            raise ValueError(f"metrics must differ, got {', '.join(metrics)}")
        return metrics

    @model_validator(mode="after")
    def _names_differ(self) -> _File:
        names = [BASE, *(change.name for change in self.change)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the name {twice!r} occurs twice; every change needs its own, other than 'base'")
        return self


@dataclass(frozen=True)
class Variant:
    """The base or a change.

    Attributes:
        name: Name of the variant, and part of the names of its runs' folders.
        config: Resolved configuration, with the schedule fitted to the budget, and the first seed.
        settings: Settings that differ from the base, by dotted key.
        adds_to: The change that it is on top of, or "".
        share: Share of the budget.
        source: Publication of the change.
    """

    name: str
    config: TrainConfig
    settings: dict[str, Any]
    adds_to: str = ""
    share: float = 1.0
    source: str = ""


@dataclass(frozen=True)
class Study:
    """A study, resolved.

    Attributes:
        name: Name of the shipped study, or of the file.
        variants: All variants, the base first.
        images: Budget of every run in training images, or None.
        minutes: Budget of every run in minutes of training, or None.
        seeds: Number of runs of every variant; run k has the seed of the configuration plus k.
        split: Split that runs are scored on; "" for val, or test of a dataset without val.
        metrics: Metrics to compare; their verdicts are corrected together.
        left_out: A sentence for each change that is left out: it needs weights that are not given, or, in a shipped
            study, does not fit the settings of the base.
        secondary: Further metrics, corrected apart, so that they cost the others no power.
    """

    name: str
    variants: tuple[Variant, ...]
    images: int | None
    minutes: float | None
    seeds: int
    split: str
    metrics: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    secondary: tuple[str, ...] = ()

    @property
    def budget(self) -> str:
        """Budget in words."""
        return f"{self.images:,} images" if self.images is not None else f"{self.minutes:g} minutes"

    def jobs(self, out: Path) -> list[Job]:
        """Return all runs in their order: seed by seed, the base first."""
        return [
            Job(variant, seed, out / "runs" / f"{variant.name}-seed{seed}")
            for seed in range(self.seeds)
            for variant in self.variants
        ]


@dataclass(frozen=True, eq=False)  # hashed by identity
class Job:
    """One run of a study: its variant, the index of its seed, and its folder OUT/runs/NAME-seedN."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> TrainConfig:
        config = self.variant.config
        return config.model_copy(update={"seed": config.seed + self.seed})


def load_study(
    study: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    images: int | None = None,
    minutes: float | None = None,
    seeds: int | None = None,
    weights: str | Path | None = None,
    split: str | None = None,
) -> Study:
    """Read a study and resolve its configurations.

    Args:
        study: A name in `STUDIES`, or the path of a TOML file.
        settings: Settings of the base by dotted key, and so of all variants.
        images, minutes, seeds, split: Values in place of those of the file.
        weights: Folder of feature weights, for settings with `{weights}`, and for LPIPS and FD.

    A change of a shipped study that does not fit `settings` is left out; in a file it is an error.

    Raises:
        ConfigError: If the study is invalid; for an unknown key the message names the nearest.
    """
    where, shipped = f"The study {study}", str(study) in STUDIES
    if not shipped and not str(study).endswith(".toml"):
        raise ConfigError(f"There is no study {str(study)!r}; {did_you_mean(study, STUDIES, ', or give a .toml file')}")
    values = read_toml(_FOLDER / f"{study}.toml" if shipped else Path(study), where)
    values |= {"seeds": seeds} if seeds is not None else {}
    values |= {"budget": {"images": images, "minutes": minutes}} if images is not None or minutes is not None else {}
    file = checked(_File, values, where)
    if (file.budget.images is None) == (file.budget.minutes is None):
        raise ConfigError(f"{where}: the budget must be either images or minutes; write [budget] images = 100000.")
    frozen = next((key for key in file.metrics or () if METRICS[key].needs in FROZEN), None)
    if frozen is not None and weights is None:
        raise ConfigError(f"{where}: the metric {frozen} needs feature weights; give their folder as `weights`.")
    variants, left_out = _variants(file, settings or {}, weights, where, shipped)
    if len(variants) < 2:
        raise ConfigError(f"No change of {where[0].lower() + where[1:]} can be made: {left_out[0]}")
    compared = MAIN if file.metrics is None else tuple(file.metrics)
    return Study(
        name=str(study) if shipped else Path(study).stem,
        variants=variants,
        images=file.budget.images,
        minutes=file.budget.minutes,
        seeds=file.seeds,
        split=file.split if split is None else split,
        metrics=compared,
        left_out=left_out,
        secondary=tuple(metric.key for metric in added_metrics() if metric.key not in compared),
    )


def _variants(
    file: _File, shared: Mapping[str, Any], weights: str | Path | None, where: str, shipped: bool
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """Return the base and every possible change, and a sentence about each change that is left out."""
    given = "" if weights is None else str(Path(weights).resolve())
    base = load_config(file.base.preset, {**flat(file.base.settings), **shared})
    made = {BASE: _fitted(Variant(BASE, base, {}), file.budget.images, where)}
    seen = {_content(made[BASE]): BASE}
    left_out: dict[str, str] = {}
    for change in file.change:
        name, below, own = change.name, change.adds_to, flat(change.settings)
        if not given and any(WEIGHTS in str(value) for value in own.values()):
            left_out[name] = "it needs feature weights; give their folder as `weights`."
            continue
        if below and below not in made:
            if below not in left_out:
                raise ConfigError(
                    f"{where}: {name!r} must add to an earlier change, got {below!r}; {did_you_mean(below, made)}"
                )
            left_out[name] = f"it adds to {below}."
            continue
        under = made[below or BASE]
        together = under.settings | {k: v.replace(WEIGHTS, given) if isinstance(v, str) else v for k, v in own.items()}
        try:
            config = load_config(base.model_dump(mode="json"), together)
        except ConfigError as error:
            if not shipped:
                raise ConfigError(f"{where}, change {name!r}: {error}") from error
            left_out[name] = str(error)
            continue
        variant = Variant(name, config, together, below, change.share or under.share, change.source)
        made[name] = _fitted(variant, file.budget.images, where)
        other = seen.setdefault(_content(made[name]), name)
        if other != name:  # equal configurations cannot be compared
            if not shipped:
                raise ConfigError(
                    f"{where}: {name!r} is the same configuration as {other!r}; change a setting of it, or remove it."
                )
            left_out[name] = f"it is the same configuration as {other}."
    variants = tuple(variant for name, variant in made.items() if name not in left_out)
    return variants, tuple(f"{name} is left out: {reason}" for name, reason in left_out.items())


def _content(variant: Variant) -> str:
    return json.dumps([variant.share, flat_settings(variant.config)], sort_keys=True)


def stretched(config: TrainConfig, steps: int) -> TrainConfig:
    """Return a configuration with its schedule fitted to a number of steps and the same share of decay.

    A run whose learning rate has not decayed at the end of its budget would be at a disadvantage.
    """
    schedule = config.schedule
    decay = round(steps * schedule.decay / (schedule.constant + schedule.decay))
    return _scheduled(config, steps - decay, decay)


def _scheduled(config: TrainConfig, constant: int, decay: int) -> TrainConfig:
    ending = {"unit": "steps", "constant": constant, "decay": decay}
    return config.model_copy(update={"schedule": config.schedule.model_copy(update=ending), "max_steps": 0})


def _fitted(variant: Variant, images: int | None, where: str) -> Variant:
    """Return the variant with its schedule fitted to the budget, and logged often enough for a curve."""
    if images is None:  # the steps are unknown beforehand, so the rate stays constant
        return replace(variant, config=_scheduled(variant.config, UNENDING, 0))
    per_step = variant.config.per_step
    if images * variant.share < per_step:
        raise ConfigError(
            f"{where}: the budget must be >= {per_step} images, one step of {variant.name!r}, got "
            f"{images * variant.share:g}; give more images."
        )
    steps = math.ceil(images * variant.share / per_step)
    log = variant.config.log.model_copy(update={"scalars": max(1, steps // _LOGGED), "samples": max(1, steps)})
    return replace(variant, config=stretched(variant.config, steps).model_copy(update={"log": log}))
