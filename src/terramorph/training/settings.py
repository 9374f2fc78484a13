"""Reading of training configurations from presets, TOML and JSON; an unknown key is an error with a hint."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from terramorph.documents import flat, parse_json, parse_toml
from terramorph.errors import ConfigError, did_you_mean, raised_as
from terramorph.imports import is_outside, name_of
from terramorph.networks.catalog import DEFAULT, KINDS, config_class
from terramorph.networks.generator import OutsideConfig
from terramorph.tables import read_toml
from terramorph.training.config import TrainConfig

_FOLDER = resources.files("terramorph.training") / "presets"
PRESETS: tuple[str, ...] = tuple(
    sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name.endswith(".toml"))
)


def load_config(
    preset: str | Path | Mapping[str, Any] = "pix2pix", overrides: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Resolve a preset and overrides to a configuration.

    Args:
        preset: Name in `PRESETS`, path of a TOML file or of a run's config.json, or the content of such a file.
        overrides: Values by dotted key, such as {"optimizer.learning_rate": 1e-4}.

    Raises:
        ConfigError: If the preset is unknown, a key is unknown (the nearest is named), or a value does not fit.
    """
    values = copy.deepcopy(dict(preset)) if isinstance(preset, Mapping) else _preset(str(preset))
    _change_generator(values, (overrides or {}).get("generator.network"))
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"The setting {key!r} does not exist: {section!r} is a value, not a section.")
        place[name] = value
    return parse_config(values)


def _change_generator(values: dict[str, Any], network: Any) -> None:
    """Remove a preset's generator settings where another kind of generator is asked for."""
    given = values.get("generator", {})
    if isinstance(network, str) and isinstance(given, dict):
        before = given.get("network", DEFAULT)
        same = before == network if is_outside(network) else config_class(str(before)) is config_class(network)
        if not same:
            values["generator"] = {}


def _preset(where: str) -> dict[str, Any]:
    """Read a preset as plain data, unchecked."""
    if where in PRESETS:
        return parse_toml((_FOLDER / f"{where}.toml").read_text(encoding="utf-8"))
    if not where.endswith((".toml", ".json")) or not Path(where).is_file():
        others = ", or give a .toml file or a run's config.json"
        raise ConfigError(f"There is no preset {where!r}; {did_you_mean(where, PRESETS, others)}")
    if where.endswith(".toml"):
        return read_toml(Path(where), f"The preset {where}")
    failed, advice = f"The preset {where} is not the config.json of a run", "give that, a .toml file or a preset's name"
    with raised_as(ConfigError, failed, advice, OSError, ValueError, KeyError, TypeError):
        config = parse_json(Path(where).read_text(encoding="utf-8"))["config"]
    if not isinstance(config, dict):
        raise ConfigError(f"The preset {where} holds no settings; give a run's config.json, or a .toml file.")
    return config


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """Validate plain data, such as a saved config.json, as a configuration.

    Raises:
        ConfigError: If a key is unknown or a value does not fit; names the first one.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # For a union pydantic adds the name of the member.
        kinds = {kind.__name__ for kind in KINDS}
        key = ".".join(str(part) for part in first["loc"] if part not in kinds)
        network = _network(values)
        if first["type"] == "network":
            config_class(network)  # refuses it, and names the nearest
        if first["type"] == "extra_forbidden":
            of = f" for the generator {network}" if key.startswith("generator.") else ""
            raise ConfigError(f"There is no setting {key!r}{of}; {did_you_mean(key, known_keys(network))}") from error
        reason = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], Mapping):  # a whole section: its settings do not fit together
            raise ConfigError(f"The settings of {key or 'the configuration'} cannot be used: {reason}.") from error
        raise ConfigError(f"The setting {key or 'configuration'} cannot be {first['input']!r}: {reason}.") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["loss.l1_weight=10"]` to `{"loss.l1_weight": 10}`; values are JSON, else text.

    Raises:
        ConfigError: If there is no equals sign.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"{assignment!r} is not a setting; write key=value, such as loss.l1_weight=10.")
        try:
            values[key.strip()] = parse_json(text)
        except ValueError:
            values[key.strip()] = text
    return values


def with_generator(config: TrainConfig, generator: type) -> TrainConfig:
    """Return a configuration with a class from outside as its generator, keeping settings for one from outside."""
    before = config.generator
    settings = before.settings if isinstance(before, OutsideConfig) else {}
    return config.model_copy(update={"generator": OutsideConfig(network=name_of(generator), settings=settings)})


def known_keys(network: str = "") -> list[str]:
    """List every setting by its dotted key, with those of one generator, or of all."""
    kinds = [config_class(network)] if network else KINDS
    generator = dict.fromkeys(f"generator.{name}" for kind in kinds for name in kind.model_fields)
    return [*flat(TrainConfig().model_dump(exclude={"generator"})), *generator]


def _network(values: Mapping[str, Any]) -> str:
    """Return the name of the generator in plain data."""
    given = values.get("generator", {})
    return str(given.get("network", DEFAULT)) if isinstance(given, Mapping) else DEFAULT
