"""Parsing of JSON and TOML files that may be damaged.

Every reader parses here. Any fault of a text is a `DocumentError`; its caller completes the message with the file's
name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_DEPTH = 64
"""Levels of lists and objects within each other; deeper ones would overflow the stack of whoever walks them."""


class DocumentError(ValueError):
    """A text is not what it should be; the message is the reason alone."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        DocumentError: If it is not JSON, or nested more than `MAX_DEPTH` levels deep.
    """
    return _parsed(json.loads, text)


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON text that holds an object.

    Raises:
        DocumentError: As `parse_json`; if the text holds another kind of value.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise DocumentError(f"a JSON object is expected, not {_NAMES.get(type(value), 'a number')}")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        DocumentError: If it is not TOML, or nested more than `MAX_DEPTH` levels deep.
    """
    document: dict[str, Any] = _parsed(tomllib.loads, text)
    return document


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys, in order."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def first_fault(error: ValidationError) -> str:
    """Return pydantic's first finding, as `source.low: what`."""
    wrong = error.errors()[0]
    where = ".".join(str(part) for part in wrong["loc"])
    what = wrong["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {what}" if where else what


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
_NAMES: dict[type, str] = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def _parsed(loads: Callable[[Any], Any], text: str | bytes) -> Any:
    """Parse a text with a library, converting its errors; refuse what is nested too deep."""
    try:
        value = loads(text)
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except ValueError as error:
        raise DocumentError(str(error)) from error
    level = [value]  # one after the other and not by recursion: dotted keys of TOML nest without limit
    for _ in range(MAX_DEPTH):
        outer = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [inner for values in outer for inner in values]
        if not level:
            return value
    raise DocumentError(_TOO_DEEP)
