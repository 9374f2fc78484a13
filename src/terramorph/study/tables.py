"""TOML and JSON files of a study as pydantic models, and what is wrong with them as one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from terramorph.documents import parse_toml
from terramorph.errors import ConfigError


class Table(BaseModel):
    """A table of a file: other keys than those declared are errors, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Model = TypeVar("_Model", bound=BaseModel)


def nearest(word: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, or all of them."""
    options = list(known)
    close = get_close_matches(str(word), options, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(options)}."


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """What a TOML file holds.

    Args:
        path: the file.
        where: what it is, for the beginning of an error's sentence.

    Raises:
        ConfigError: if it cannot be read, or is not TOML.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where} cannot be read ({reason}); give a TOML file in UTF-8.") from error
    except ValueError as error:
        raise ConfigError(f"{where} is not valid TOML ({error}); correct it there.") from error


def checked(model: type[_Model], values: object, where: str) -> _Model:
    """Values as a model.

    Args:
        model: what they should be.
        values: plain data.
        where: for the beginning of an error's sentence.

    Raises:
        ConfigError: one sentence about the first thing that is wrong; for an unknown key it names the nearest.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = [part for part in first["loc"] if isinstance(part, str)]
        key = ".".join(place)
        if first["type"] == "extra_forbidden":
            known = [".".join([*place[:-1], name]) for name in _fields(model, place[:-1])]
            raise ConfigError(f"{where}: there is no key {key!r}; {nearest(key, known)}") from error
        if first["type"] == "missing":
            raise ConfigError(f"{where}: {key} is missing.") from error
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        given = "" if isinstance(first["input"], dict) else f" cannot be {first['input']!r}"
        raise ConfigError(f"{where}: {key}{given}: {reason}.".replace(": : ", ": ")) from error


def _fields(model: type[BaseModel], place: Iterable[str]) -> list[str]:
    """The keys of a table within a model."""
    for name in place:
        inner = model.model_fields[name].annotation
        found = [part for part in (inner, *getattr(inner, "__args__", ())) if isinstance(part, type)]
        model = next(part for part in found if issubclass(part, BaseModel))
    return list(model.model_fields)
