"""Search space of `tune`: settings by dotted key, each with a range or choices, some under a condition.

    "optimizer.learning_rate" = { low = 3e-5, high = 3e-3, log = true }
    "loss.adversarial"        = { choices = ["bce", "lsgan", "hinge"] }
    "discriminator.layers"    = { low = 1, high = 4, when = { "discriminator.network" = "patchgan" } }

A range between whole numbers holds whole numbers only. `when` names another key of the space, or a setting of the
preset; the parameter's own key means the preset's value of it. The default space is space.toml.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from terramorph.errors import ConfigError, did_you_mean
from terramorph.study.run import flat_settings
from terramorph.tables import Table, checked, read_toml
from terramorph.training import TrainConfig, known_keys, load_config

if TYPE_CHECKING:
    from optuna import Trial

RATIO = "optimizer.discriminator_ratio"
"""Key of the ratio of the discriminator's to the generator's learning rate, the only key that is not a setting. The
ratio decides whether a GAN is stable (Heusel et al. 2017, two time-scale update rule)."""

_GENERATOR_RATE, _DISCRIMINATOR_RATE = "optimizer.learning_rate", "optimizer.discriminator_learning_rate"


class Parameter(Table):
    """Values of a key: a range from low to high, both included, uniform in the logarithm if `log`; or choices.

    Attributes:
        when: Condition under which the parameter applies: key -> allowed values.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Any] | None = Field(None, min_length=1)
    when: dict[str, list[Any]] = Field(default_factory=dict)

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, when: Any) -> Any:
        return {k: v if isinstance(v, list) else [v] for k, v in when.items()} if isinstance(when, dict) else when

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Parameter:
        if self.choices is not None:
            if not {"low", "high", "log"}.isdisjoint(self.model_fields_set):
                raise ValueError("choices exclude a range; leave out low, high and log")
            if len({json.dumps(value) for value in self.choices}) < len(self.choices):
                raise ValueError(f"choices must differ, got {self.choices!r}")
        elif self.low is None or self.high is None:
            raise ValueError("give { low = ..., high = ... } or { choices = [...] }")
        elif not self.low < self.high:
            raise ValueError(f"low must be < high, got {self.low} and {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"low of a logarithmic range must be > 0, got {self.low}; or set log = false")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def whole(self) -> bool:
        """Whether this is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def applies(self, settings: Mapping[str, Any]) -> bool:
        return all(settings.get(key) in allowed for key, allowed in self.when.items())

    def suggest(self, trial: Trial, key: str) -> Any:
        """Return the value that a trial chooses."""
        if self.choices is not None:
            labels = [self.label(value) for value in self.choices]
            return self.choices[labels.index(trial.suggest_categorical(key, labels))]
        suggest: Callable[..., Any] = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(key, *self.ends, log=self.log)

    def distribution(self) -> Any:
        """Return Optuna's distribution."""
        from optuna import distributions

        if self.choices is not None:
            return distributions.CategoricalDistribution([self.label(value) for value in self.choices])
        kind = distributions.IntDistribution if self.whole else distributions.FloatDistribution
        return kind(*self.ends, log=self.log)

    def label(self, value: Any) -> Any:
        """Return a value as Optuna stores it (lists as JSON); None if it is not among the values."""
        if self.choices is not None:
            return None if value not in self.choices else json.dumps(value) if isinstance(value, list) else value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.ends[0] <= value <= self.ends[1] else None

    def samples(self) -> Sequence[Any]:
        """Return the values to validate: all choices, or the ends of a range and a fraction between."""
        if self.choices is not None:
            return self.choices
        low, high = self.ends
        return (low, high) if self.whole else (low, low + 0.381966 * (high - low), high)

    def kept(self, fits: Callable[[Any], bool]) -> Parameter | None:
        """Return the parameter with the values that fit; None if fewer than two are left."""
        if self.choices is not None:
            fitting = [value for value in self.choices if fits(value)]
            return self.model_copy(update={"choices": fitting}) if len(fitting) > 1 else None
        if not self.whole:
            return self if all(fits(value) for value in self.samples()) else None
        low, high = self.ends
        fitting = [value for value in range(int(low), int(high) + 1) if fits(value)]
        return self.model_copy(update={"low": fitting[0], "high": fitting[-1]}) if len(fitting) > 1 else None

    def plain(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude=None if self.choices is None else {"log"})


@dataclass(frozen=True)
class Space:
    """Parameters by key, each after those in its condition."""

    parameters: Mapping[str, Parameter]

    def suggest(self, trial: Trial, preset: TrainConfig) -> dict[str, Any]:
        """Return the settings that a trial chooses and that differ from the preset's, by dotted key."""
        settings, values = _settings(preset), dict[str, Any]()
        for key, parameter in self.parameters.items():
            if parameter.applies(settings | values):
                values[key] = parameter.suggest(trial, key)
        return values

    def values_of(self, preset: TrainConfig) -> dict[str, Any]:
        """Return the preset's values of the parameters that apply to it and include them."""
        settings = _settings(preset)
        return {
            key: settings[key]
            for key, one in self.parameters.items()
            if one.applies(settings) and one.label(settings.get(key)) is not None
        }

    def labels(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as Optuna stores them."""
        return {key: one.label(values[key]) for key, one in self.parameters.items() if key in values}

    def check(self, preset: TrainConfig, where: str) -> None:
        """Raise ConfigError for the first value that the preset's configuration refuses.

        The condition of a parameter is set first; a parameter whose condition can never hold is not checked.
        """
        for key, parameter in self.parameters.items():
            ways = self._ways(key, parameter, preset)
            for value in parameter.samples():
                error = _refusal(preset, ways, {key: value})
                if error is None:
                    continue
                if parameter.choices is None and value not in parameter.ends:
                    low, high = parameter.ends
                    raise ConfigError(
                        f"{where}, {key}: the range from {low} to {high} holds numbers that the setting does not take "
                        f"({str(error).rstrip('.')}); for whole numbers write low = {round(low)}, high = {round(high)}."
                    ) from error
                raise ConfigError(f"{where}, {key}: {error}") from error

    def fitted(self, preset: TrainConfig) -> Space:
        """Return the space without values that a preset's configuration refuses, and parameters without a choice."""
        kept: dict[str, Parameter] = {}
        for key, parameter in self.parameters.items():
            ways = Space(kept)._ways(key, parameter, preset)

            def fits(value: Any, key: str = key, ways: Sequence[Mapping[str, Any]] = ways) -> bool:
                return _refusal(preset, ways, {key: value}) is None

            left = parameter.kept(fits) if ways else None
            if left is not None:
                kept[key] = left
        return Space(kept)

    def _ways(self, key: str, parameter: Parameter, preset: TrainConfig) -> list[dict[str, Any]]:
        """Return the changes of a preset under which the condition of a parameter holds; empty if it never can."""
        settings = _settings(preset)
        ways: list[dict[str, Any]] = [{}]
        for name, allowed in parameter.when.items():
            if settings.get(name) in allowed:
                continue
            other = self.parameters.get(name) if name != key else None
            if other is None:
                return []
            usable = [value for value in allowed if other.label(value) is not None]
            before = self._ways(name, other, preset)
            ways = [way | first | {name: value} for way in ways for first in before for value in usable]
        return ways


def changed(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with settings, or `RATIO`, changed; raise ConfigError if they do not fit."""
    settings = {key: value for key, value in values.items() if key != RATIO}
    if RATIO in values:
        rate = settings.get(_GENERATOR_RATE, config.optimizer.learning_rate)
        settings[_DISCRIMINATOR_RATE] = values[RATIO] * rate
    return load_config(config.model_dump(mode="json"), settings)


def _refusal(preset: TrainConfig, ways: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> ConfigError | None:
    """Return the first error if a configuration refuses the values in all ways; None if it takes them in one."""
    first: ConfigError | None = None
    for way in ways:
        try:
            changed(preset, {**way, **values})
        except ConfigError as error:
            first = first or error
        else:
            return None
    return first


def load_space(path: str | Path | None = None) -> Space:
    """Read a space, or the default one."""
    where = "The default space" if path is None else f"The space {path}"
    default = Path(str(resources.files("terramorph.study"))) / "space.toml"
    return space_of(_entries(read_toml(default if path is None else Path(path), where), ""), where)


def space_of(entries: Mapping[str, Any], where: str) -> Space:
    """Return a space from plain data; errors as in `load_space`, beginning with `where`."""
    if not entries:
        raise ConfigError(f'{where} is empty; give a key, such as "loss.l1_weight" = {{ low = 1, high = 9 }}.')
    if {RATIO, _DISCRIMINATOR_RATE} <= entries.keys():
        raise ConfigError(f"{where} has both {RATIO} and {_DISCRIMINATOR_RATE}, which determine each other; keep one.")
    parameters = {}
    for key, entry in entries.items():
        _require_known(key, where)
        parameters[key] = checked(Parameter, entry, f"{where}, {key}")
        for other in parameters[key].when:
            _require_known(other, f"{where}, {key}, when")
    return Space(_in_order(parameters, where))


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = flat_settings(config)
    rate = settings[_GENERATOR_RATE]
    return settings | {RATIO: (settings[_DISCRIMINATOR_RATE] or rate) / rate}


def _entries(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries by dotted key, whether quoted or nested tables."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            found |= _entries(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _require_known(key: str, where: str) -> None:
    known = [*known_keys(), RATIO]
    if key not in known:
        raise ConfigError(f"{where}: there is no setting {key!r}; {did_you_mean(key, known)}")


def _in_order(waiting: dict[str, Parameter], where: str) -> dict[str, Parameter]:
    """Return the parameters, each after those in its condition."""
    ordered: dict[str, Parameter] = {}
    while waiting:
        ready = {key: one for key, one in waiting.items() if not waiting.keys() & (one.when.keys() - {key})}
        if not ready:
            raise ConfigError(f"{where}: the conditions of {' and '.join(sorted(waiting))} are circular; remove one.")
        ordered |= ready
        waiting = {key: one for key, one in waiting.items() if key not in ready}
    return ordered
