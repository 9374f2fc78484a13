"""JSON and TOML from files: whatever is wrong with a document is a ValueError, also that it is nested too deeply."""

from __future__ import annotations

import json
import tomllib
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What a JSON document holds.

    Raises:
        ValueError: if it is not JSON, not UTF-8, or nested more deeply than the interpreter's stack.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML document holds.

    Raises:
        ValueError: if it is not TOML, or nested more deeply than the interpreter's stack.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
