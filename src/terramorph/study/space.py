"""What `tune` may change: settings by their dotted key, each with a range or choices, some only under a condition.

A space is a TOML file (`space.toml` beside this file is the default one):

    "optimizer.learning_rate" = { low = 3e-5, high = 3e-3, log = true }
    "loss.adversarial"        = { choices = ["bce", "lsgan", "hinge"] }
    "discriminator.layers"    = { low = 1, high = 4, when = { "discriminator.network" = "patchgan" } }

A range of two whole numbers stays whole. What `when` names is another key of the space, or a setting of the preset; a
parameter's own key stands for what the preset has there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from terramorph.errors import ConfigError, did_you_mean
from terramorph.study.run import flat_settings
from terramorph.tables import Table, checked, read_toml
from terramorph.training import TrainConfig, known_keys, load_config

if TYPE_CHECKING:
    from optuna import Trial

RATIO = "optimizer.discriminator_ratio"
"""The one key that is no setting: the discriminator's learning rate over the generator's. A ratio is searched better
than two rates, for what makes a GAN unstable is their proportion (Heusel et al. 2017, two time-scale update rule)."""

_GENERATOR_RATE, _DISCRIMINATOR_RATE = "optimizer.learning_rate", "optimizer.discriminator_learning_rate"


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; evenly in their logarithm if `log`."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, key: str) -> Any:
        """A number of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna import distributions

        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def label(self, value: Any) -> Any:
        """A setting's value as a trial keeps it; None if it is not in the range."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all others where settings are checked."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return (self.low, self.high)
        # The ends may be whole; what lies at this share between them hardly ever is.
        return (self.low, self.low + 0.381966 * (self.high - self.low), self.high)

    def kept(self, fits: Callable[[Any], bool]) -> Range | None:
        """The part of it that fits, from its first to its last whole number; None if there is nothing to choose."""
        if not (isinstance(self.low, int) and isinstance(self.high, int)):
            return self if all(fits(value) for value in self.samples()) else None
        fitting = [value for value in range(self.low, self.high + 1) if fits(value)]
        return Range(fitting[0], fitting[-1], self.log) if len(fitting) > 1 else None


@dataclass(frozen=True)
class Choices:
    """A few values; a list among them is kept as JSON, for a trial's storage takes plain values only."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, key: str) -> Any:
        """A choice of a trial."""
        labels = [self.label(value) for value in self.values]
        return self.values[labels.index(trial.suggest_categorical(key, labels))]

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna import distributions

        return distributions.CategoricalDistribution([self.label(value) for value in self.values])

    def label(self, value: Any) -> Any:
        """A setting's value as a trial keeps it; None if it is not among the choices."""
        if value not in self.values:
            return None
        return json.dumps(value) if isinstance(value, list) else value

    def samples(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    def kept(self, fits: Callable[[Any], bool]) -> Choices | None:
        """Those that fit; None if there is nothing to choose between."""
        fitting = tuple(value for value in self.values if fits(value))
        return Choices(fitting) if len(fitting) > 1 else None


@dataclass(frozen=True)
class Parameter:
    """A key, what it may be, and what other settings have to be for it to matter."""

    key: str
    domain: Range | Choices
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def applies(self, settings: Mapping[str, Any]) -> bool:
        """Whether its condition holds."""
        return all(settings.get(key) in allowed for key, allowed in self.when.items())


@dataclass(frozen=True)
class Space:
    """Parameters, each after those that its condition names."""

    parameters: tuple[Parameter, ...]

    def suggest(self, trial: Trial, preset: TrainConfig) -> dict[str, Any]:
        """The settings of a trial that differ from the preset's, by dotted key."""
        settings = _settings(preset)
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.applies(settings | values):
                values[parameter.key] = parameter.domain.suggest(trial, parameter.key)
        return values

    def values_of(self, preset: TrainConfig) -> dict[str, Any]:
        """The preset's own values, for those parameters that matter to it and in whose domain they lie."""
        settings = _settings(preset)
        return {
            p.key: settings[p.key]
            for p in self.parameters
            if p.applies(settings) and p.domain.label(settings.get(p.key)) is not None
        }

    def labels(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as a trial keeps them."""
        return {p.key: p.domain.label(values[p.key]) for p in self.parameters if p.key in values}

    def samples(self, key: str) -> tuple[Any, ...]:
        """Values that stand for all of a key; none if it is not in the space."""
        return next((p.domain.samples() for p in self.parameters if p.key == key), ())

    def check(self, preset: TrainConfig, where: str) -> None:
        """Raises ConfigError for the first value that the configuration refuses beside the preset's others.

        What the condition of a parameter asks for is set first; one whose condition can never hold is not looked at.
        """
        for parameter in self.parameters:
            domain, ways = parameter.domain, self._ways(parameter, preset)
            for value in domain.samples():
                error = _refusal(preset, ways, {parameter.key: value})
                if error is None:
                    continue
                if isinstance(domain, Range) and value not in (domain.low, domain.high):
                    raise ConfigError(
                        f"{where}, {parameter.key}: the range from {domain.low} to {domain.high} holds numbers that "
                        f"the setting does not take ({str(error).rstrip('.')}); for whole numbers write low = "
                        f"{round(domain.low)}, high = {round(domain.high)}."
                    ) from error
                raise ConfigError(f"{where}, {parameter.key}: {error}") from error

    def fitted(self, preset: TrainConfig) -> Space:
        """Without values that cannot be used with a preset, and without parameters that this leaves no choice of."""
        kept: list[Parameter] = []
        for parameter in self.parameters:
            ways = Space(tuple(kept))._ways(parameter, preset)

            def fits(value: Any, key: str = parameter.key, ways: Sequence[Mapping[str, Any]] = ways) -> bool:
                return _refusal(preset, ways, {key: value}) is None

            domain = parameter.domain.kept(fits) if ways else None
            if domain is not None:
                kept.append(replace(parameter, domain=domain))
        return Space(tuple(kept))

    def _ways(self, parameter: Parameter, preset: TrainConfig) -> list[dict[str, Any]]:
        """What has to be changed of a preset for the condition of a parameter to hold: each way to do it, or none."""
        settings = _settings(preset)
        ways: list[dict[str, Any]] = [{}]
        for key, allowed in parameter.when.items():
            if settings.get(key) in allowed:
                continue
            other = next((p for p in self.parameters if p.key == key != parameter.key), None)
            if other is None:
                return []
            usable = [value for value in allowed if other.domain.label(value) is not None]
            before = self._ways(other, preset)
            ways = [way | first | {key: value} for way in ways for first in before for value in usable]
        return ways

    def plain(self) -> dict[str, dict[str, Any]]:
        """As entries that `space_of` reads."""
        return {
            p.key: {
                **({"choices": list(p.domain.values)} if isinstance(p.domain, Choices) else vars(p.domain)),
                "when": {key: list(allowed) for key, allowed in p.when.items()},
            }
            for p in self.parameters
        }


def changed(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """A configuration with some settings changed, `RATIO` among them.

    Raises:
        ConfigError: if a value does not fit.
    """
    settings = {key: value for key, value in values.items() if key != RATIO}
    if RATIO in values:
        rate = settings.get(_GENERATOR_RATE, config.optimizer.learning_rate)
        settings[_DISCRIMINATOR_RATE] = values[RATIO] * rate
    return load_config(config.model_dump(mode="json"), settings)


def _refusal(preset: TrainConfig, ways: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> ConfigError | None:
    """Why a configuration refuses values in every one of some ways; None if it takes them in one."""
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
    """Reads a space, or the default one.

    Raises:
        ConfigError: if the file cannot be read, holds nothing, names an unknown key, or a range or condition makes no
            sense.
    """
    where = "The default space" if path is None else f"The space {path}"
    default = Path(str(resources.files("terramorph.study"))) / "space.toml"
    return space_of(_entries(read_toml(default if path is None else Path(path), where), ""), where)


def space_of(entries: Mapping[str, Any], where: str) -> Space:
    """A space from its keys and what stands under them.

    Raises:
        ConfigError: as `load_space`; `where` begins its sentence.
    """
    if not entries:
        raise ConfigError(f'{where} is empty; give a key at least, such as "loss.l1_weight" = {{ low = 1, high = 9 }}.')
    if {RATIO, _DISCRIMINATOR_RATE} <= entries.keys():
        raise ConfigError(
            f"{where} has both {RATIO} and {_DISCRIMINATOR_RATE}, and one follows from the other; keep one."
        )
    return Space(_in_order([_parameter(key, entry, where) for key, entry in entries.items()], where))


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = flat_settings(config)
    rate = settings[_GENERATOR_RATE]
    return settings | {RATIO: (settings[_DISCRIMINATOR_RATE] or rate) / rate}


def _entries(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Keys and what stands under them, whether the dots of a key are quoted or open tables."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            found |= _entries(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


class _Entry(Table):
    """What stands under a key."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Any] | None = Field(None, min_length=1)
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> _Entry:
        if self.choices is not None:
            if not {"low", "high", "log"}.isdisjoint(self.model_fields_set):
                raise ValueError("choices stand alone; leave out low, high and log")
            if len({json.dumps(value) for value in self.choices}) < len(self.choices):
                raise ValueError(f"a value occurs twice among {self.choices!r}")
        elif self.low is None or self.high is None:
            raise ValueError("give { low = ..., high = ... } or { choices = [...] }")
        elif not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must be the smaller one")
        elif self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range cannot begin at {self.low}; give a low above 0, or log = false")
        return self

    @property
    def domain(self) -> Range | Choices:
        """What the key may be."""
        if self.choices is not None:
            return Choices(tuple(self.choices))
        assert self.low is not None
        assert self.high is not None
        return Range(self.low, self.high, self.log)


def _parameter(key: str, values: Any, where: str) -> Parameter:
    _known(key, where)
    entry = checked(_Entry, values, f"{where}, {key}")
    for other in entry.when:
        _known(other, f"{where}, {key}, when")
    return Parameter(key, entry.domain, {k: tuple(v) if isinstance(v, list) else (v,) for k, v in entry.when.items()})


def _known(key: str, where: str) -> None:
    known = [*known_keys(), RATIO]
    if key not in known:
        raise ConfigError(f"{where}: there is no setting {key!r}; {did_you_mean(key, known)}")


def _in_order(parameters: list[Parameter], where: str) -> tuple[Parameter, ...]:
    """Each parameter after those that its condition names."""
    waiting, ordered = list(parameters), list[Parameter]()
    while waiting:
        keys = {p.key for p in waiting}
        ready = [p for p in waiting if not keys & (p.when.keys() - {p.key})]
        if not ready:
            raise ConfigError(f"{where}: the conditions of {' and '.join(sorted(keys))} wait for each other.")
        ordered += ready
        waiting = [p for p in waiting if p not in ready]
    return tuple(ordered)
