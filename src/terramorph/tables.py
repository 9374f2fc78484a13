"""TOML files as pydantic models, with errors in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from terramorph.documents import parse_toml
from terramorph.errors import ConfigError, did_you_mean, raised_as


class Table(BaseModel):
    """A table of a file: other keys than those declared are errors, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Model = TypeVar("_Model", bound=BaseModel)


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        where: Name of the file, for the beginning of an error's sentence.

    Raises:
        ConfigError: If it cannot be read, or is not TOML.
    """
    with raised_as(ConfigError, f"{where} cannot be read", "give a TOML file in UTF-8", OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8-sig")
    with raised_as(ConfigError, f"{where} is not valid TOML", "correct it there", ValueError):
        return parse_toml(text)


def checked(model: type[_Model], values: object, where: str) -> _Model:
    """Validate values as a model.

    Args:
        where: Beginning of an error's sentence.

    Raises:
        ConfigError: One sentence about the first thing that is wrong; for an unknown key it names the nearest.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # An unknown key is often why another is missing.
        first = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
        place = [part for part in first["loc"] if isinstance(part, str)]
        numbers = [part for part in first["loc"] if isinstance(part, int)]
        if numbers and len(place) > 1:
            where = f"{where}, {place[0]} {numbers[0] + 1}"  # as people count the entries of a file
        key = ".".join(place)
        if first["type"] in _UNKNOWN:
            known = [".".join([*place[:-1], name]) for name in _fields(model, place[:-1])]
            raise ConfigError(f"{where}: there is no key {key!r}; {did_you_mean(key, known)}") from error
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {key} is missing.") from error
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        given = "" if isinstance(first["input"], dict) else f" cannot be {first['input']!r}"
        raise ConfigError(f"{where}: {key}{given}: {reason}.".replace(": : ", ": ")) from error


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _fields(model: Any, place: Iterable[str]) -> list[str]:
    """Return the keys of a table within a model."""
    for name in place:
        model = next(_models(model.__pydantic_fields__[name].annotation))
    return list(model.__pydantic_fields__)


def _models(annotation: Any) -> Iterator[Any]:
    """Yield the models and pydantic dataclasses in a type."""
    if hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
