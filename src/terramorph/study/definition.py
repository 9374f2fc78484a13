"""What a study compares: a base recipe, named changes of it, a budget and seeds; read from TOML, or shipped by name.

seeds = 3                      # optional, as are split (val, or test where there is no val) and metrics
[base]
preset = "pix2pix"             # a preset, or a TOML file of one's own
settings.data.crop_size = 128
[budget]
images = 100_000               # seen in training by every run; or minutes = 20
[[change]]
name = "lsgan"
settings.loss.adversarial = "lsgan"
adds_to = "another-change"     # optional: on top of one that stands before
share = 1.0                    # optional: of the budget
source = "Mao et al. 2017, arXiv:1611.04076"
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from terramorph.documents import parse_toml
from terramorph.errors import ConfigError
from terramorph.metrics import FROZEN, MAIN, METRICS, require_metric
from terramorph.study.run import flat_settings
from terramorph.training import TrainConfig, load_config

_FOLDER = resources.files("terramorph.study") / "studies"
STUDIES: tuple[str, ...] = tuple(
    sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name.endswith(".toml"))
)
BASE = "base"
WEIGHTS = "{weights}"
"""In a setting: the folder of feature weights. A change that has it is left out where no folder is given."""
UNENDING = 10**9
"""Steps in the schedule of a run that the clock ends."""

_KEYS = ("seeds", "split", "metrics", "base", "budget", "change")
_BASE_KEYS = ("preset", "settings")
_BUDGET_KEYS = ("images", "minutes")
_CHANGE_KEYS = ("name", "settings", "adds_to", "share", "source")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LOGGED = 40  # points of a training curve


@dataclass(frozen=True)
class Variant:
    """The base or a change.

    Attributes:
        name: also of its runs' folders.
        config: resolved, with the schedule fitted to the budget, and the first seed.
        settings: what differs from the base, by dotted key.
        adds_to: the change that it stands on, or "".
        share: of the budget that it trains for.
        source: where the change is from.
    """

    name: str
    config: TrainConfig
    settings: dict[str, Any]
    adds_to: str = ""
    share: float = 1.0
    source: str = ""

    @property
    def per_step(self) -> int:
        """Images of an optimizer step."""
        return self.config.batch_size * self.config.accumulate


@dataclass(frozen=True)
class Study:
    """A study, resolved.

    Attributes:
        name: as it was asked for.
        variants: the base first.
        images: the budget of every run in training images, or None.
        minutes: the budget of every run in minutes of training, or None.
        seeds: runs of every variant; run k has the seed of the configuration plus k.
        split: what runs are scored on; "" for val, or test of a dataset without val.
        metrics: what is compared.
        left_out: a sentence for each change that cannot be made: it needs weights that are not given, or, in a study
            that comes along, does not go together with the base's settings.
    """

    name: str
    variants: tuple[Variant, ...]
    images: int | None
    minutes: float | None
    seeds: int
    split: str
    metrics: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def budget(self) -> str:
        """In words."""
        return f"{self.images:,} images" if self.images is not None else f"{self.minutes:g} minutes"


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
    """Reads a study and resolves all its configurations.

    Args:
        study: a name in `STUDIES`, or the path of a TOML file.
        settings: dotted keys and values for the base, and so for all.
        images, minutes, seeds: in place of those of the file.
        weights: folder of feature weights, for settings that hold `{weights}`, and for LPIPS and FD.
        split: what runs are scored on, in place of that of the file.

    A change of a study that comes along is left out where it cannot be used with `settings`; one in a file is an error.

    Raises:
        ConfigError: one sentence about the first thing that is wrong; for an unknown key it names the nearest.
    """
    where, values = _read(study)
    _check_keys(values, _KEYS, where, "")
    base, budget = _table(values, "base", where), _table(values, "budget", where)
    _check_keys(base, _BASE_KEYS, where, "base.")
    _check_keys(budget, _BUDGET_KEYS, where, "budget.")
    if images is None and minutes is None:
        images, minutes = budget.get("images"), budget.get("minutes")
    if (images is None) == (minutes is None):
        raise ConfigError(f"The budget of {where} must be either images or minutes; write [budget] images = 100000.")
    amount = images if images is not None else minutes
    if isinstance(amount, bool) or not isinstance(amount, int if images is not None else (int, float)) or amount <= 0:
        raise ConfigError(f"The budget of {where} cannot be {amount!r}; give a number above 0, of images a whole one.")
    count = values.get("seeds", 3) if seeds is None else seeds
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"seeds of {where} cannot be {count!r}; give 1 or more, and 3 for verdicts.")
    given = None if weights is None else str(Path(weights).resolve())
    shared = {**_flat(_table(base, "settings", where)), **(settings or {})}
    comes_along = str(study) in STUDIES
    variants, left_out = _variants(
        values.get("change", []), base.get("preset", "pix2pix"), shared, given, where, comes_along
    )
    fitted = tuple(_fitted(variant, images, where) for variant in variants)
    fitted, same = _different(fitted, where, comes_along)
    if len(fitted) < 2:
        raise ConfigError(f"No change of {where} can be made: {(left_out + same)[0]}")
    return Study(
        Path(study).stem if str(study).endswith(".toml") else str(study),
        fitted,
        images,
        None if minutes is None else float(minutes),
        count,
        str(values.get("split", "")) if split is None else split,
        _metrics(values, weights, where),
        left_out + same,
    )


def _read(study: str | Path) -> tuple[str, dict[str, Any]]:
    where = str(study)
    if where in STUDIES:
        text = (_FOLDER / f"{where}.toml").read_text(encoding="utf-8")
    elif where.endswith(".toml"):
        try:
            text = Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"The study {where} cannot be read ({reason}); give a TOML file in UTF-8.") from error
    else:
        close = get_close_matches(where, STUDIES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(STUDIES)}, or give a .toml file."
        raise ConfigError(f"There is no study {where!r}; {hint}")
    try:
        return f"the study {where}", parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"The study {where} is not valid TOML ({error}); correct it there.") from error


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str, prefix: str) -> None:
    for key in values:
        if key not in known:
            close = get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {prefix + close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise ConfigError(f"There is no key {prefix + key!r} in {where}; {hint}")


def _table(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key} in {where} must be a table, not {table!r}; write [{key}] above its keys.")
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _metrics(values: Mapping[str, Any], weights: str | Path | None, where: str) -> tuple[str, ...]:
    """Those of the file, which must be computable; or the main ones, of which the page says what is missing.

    Few, as every metric more makes the correction for their number stricter.
    """
    if "metrics" not in values:
        return MAIN
    asked = values["metrics"]
    if not isinstance(asked, list) or not asked or len(set(map(str, asked))) != len(asked):
        raise ConfigError(f"metrics of {where} must be a list of different names, such as ['miou', 'ssim'].")
    for metric in asked:
        require_metric(metric, f" for {where}")
        if METRICS[metric].needs in FROZEN and weights is None:
            raise ConfigError(
                f"The metric {metric} of {where} needs feature weights; give --weights DIR or leave it out."
            )
    return tuple(asked)


def _variants(
    changes: Any, preset: str, shared: dict[str, Any], weights: str | None, where: str, comes_along: bool
) -> tuple[list[Variant], tuple[str, ...]]:
    """The base and every change that can be made, and sentences about those that cannot."""
    if not isinstance(changes, list) or not changes:
        raise ConfigError(f"There is nothing to compare in {where}; add a [[change]] with a name and settings.")
    made = {BASE: Variant(BASE, load_config(preset, shared), {})}
    left_out: dict[str, str] = {}
    for change in changes:
        name, own, adds_to = _change(change, where)
        if name in made or name in left_out:
            raise ConfigError(f"The name {name!r} stands twice in {where}; every change needs its own, and not 'base'.")
        if weights is None and any(WEIGHTS in str(value) for value in own.values()):
            left_out[name] = f"{name} is left out: it needs feature weights, given by --weights DIR."
            continue
        if adds_to in left_out:
            left_out[name] = f"{name} is left out: it adds to {adds_to}."
            continue
        if adds_to and adds_to not in made:
            close = get_close_matches(adds_to, made, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "name a change that stands before it."
            raise ConfigError(f"{name!r} in {where} adds to {adds_to!r}, which does not stand before it; {hint}")
        filled = {
            key: value.replace(WEIGHTS, weights or "") if isinstance(value, str) else value
            for key, value in own.items()
        }
        together = {**(made[adds_to].settings if adds_to else {}), **filled}
        try:
            config = load_config(preset, {**shared, **together})
        except ConfigError as error:
            if not comes_along:
                raise ConfigError(f"The change {name!r} of {where}: {error}") from error
            left_out[name] = f"{name} is left out: {error}"
            continue
        share = change.get("share", made[adds_to].share if adds_to else 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or share <= 0:
            raise ConfigError(
                f"The share {share!r} of {name!r} in {where} is no part of a budget; give a number above 0."
            )
        made[name] = Variant(name, config, together, adds_to, float(share), str(change.get("source", "")))
    return list(made.values()), tuple(left_out.values())


def _change(change: Any, where: str) -> tuple[str, dict[str, Any], str]:
    """Name, settings by dotted key, and what it adds to."""
    if not isinstance(change, dict) or not isinstance(change.get("name"), str):
        raise ConfigError(f"A change in {where} has no name; write [[change]] and name = 'short-name' below it.")
    name = change["name"]
    if not _NAME.fullmatch(name):
        raise ConfigError(f"The name {name!r} in {where} cannot name a folder; use letters, digits and . _ + - only.")
    _check_keys(change, _CHANGE_KEYS, where, "change.")
    return name, _flat(_table(change, "settings", where)), str(change.get("adds_to", ""))


def _fitted(variant: Variant, images: int | None, where: str) -> Variant:
    """The variant with its schedule stretched or shrunk to the budget, and logged often enough for a curve.

    The share of steps over which the rate falls is that of the preset: a run whose rate had not fallen by its end would
    be compared half done. A clock cannot be planned for, so with a budget in minutes the rate stays constant.
    """
    schedule, log = variant.config.schedule, variant.config.log
    if images is None:
        ending = {"unit": "steps", "constant": UNENDING, "decay": 0}
        watching = {}
    else:
        steps = math.ceil(images * variant.share / variant.per_step)
        if images * variant.share < variant.per_step:
            raise ConfigError(
                f"The budget of {images * variant.share:g} images in {where} is less than one step of "
                f"{variant.name!r}, which takes {variant.per_step}; give more images."
            )
        decay = round(steps * schedule.decay / (schedule.constant + schedule.decay))
        ending = {"unit": "steps", "constant": steps - decay, "decay": decay}
        watching = {"scalars": max(1, steps // _LOGGED), "samples": max(1, steps)}
    changed = {"schedule": schedule.model_copy(update=ending), "log": log.model_copy(update=watching), "max_steps": 0}
    return replace(variant, config=variant.config.model_copy(update=changed))


def _different(
    variants: tuple[Variant, ...], where: str, comes_along: bool
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """The variants, and sentences about those left out: no two may be one configuration, or nothing is compared."""
    seen: dict[str, Variant] = {}
    same = []
    for variant in variants:
        content = json.dumps([variant.share, flat_settings(variant.config)], sort_keys=True)
        other = seen.setdefault(content, variant)
        if other is variant:
            continue
        if not comes_along:
            raise ConfigError(
                f"{variant.name!r} in {where} is the same configuration as {other.name!r}; change a setting of it, or "
                "take it out."
            )
        same.append(f"{variant.name} is left out: it is the same configuration as {other.name}.")
    return tuple(seen.values()), tuple(same)
