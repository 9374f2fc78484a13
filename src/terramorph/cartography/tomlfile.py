"""TOML files of styles and tables: found, read, and their keys checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from terramorph.documents import DocumentError, parse_toml
from terramorph.errors import ConfigError


def builtin_names(folder: str) -> tuple[str, ...]:
    """Names of the files that come with the package.

    Args:
        folder: ``styles`` or ``tables``.
    """
    files = resources.files("terramorph.cartography").joinpath(folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_toml(name_or_path: str | Path, folder: str) -> tuple[dict[str, Any], str]:
    """Read a file that comes with the package, by name, or a user's own, by path.

    Args:
        name_or_path: ``classic``, or the path of a .toml file.
        folder: ``styles`` or ``tables``.

    Returns:
        The values, and what messages call the file.

    Raises:
        ConfigError: If there is neither such a name nor such a file, or it is not TOML.
    """
    text, names = str(name_or_path), builtin_names(folder)
    if text in names:
        content = resources.files("terramorph.cartography").joinpath(folder, f"{text}.toml").read_text("utf-8")
        return parse_toml(content), text
    path = Path(name_or_path)
    word = folder.removesuffix("s")
    if path.suffix.lower() != ".toml" and not path.exists():
        raise ConfigError(
            f"There is no {word} {text!r}{nearest(text, names)}; give one of {', '.join(names)}, or a .toml file."
        )
    try:
        return parse_toml(path.read_text("utf-8-sig")), text
    except OSError as error:
        raise ConfigError(f"The {word} {path} cannot be read ({error.strerror}); check the path.") from error
    except (DocumentError, UnicodeDecodeError) as error:
        raise ConfigError(f"The {word} {path} is not valid TOML ({error}); correct it there.") from error


def nearest(word: str, options: Iterable[str]) -> str:
    """ ", did you mean 'x'?", or nothing where no option is like the word."""
    found = difflib.get_close_matches(word, list(options), n=1)
    return f", did you mean {found[0]!r}" if found else ""


def check_keys(values: Any, allowed: Iterable[str], where: str) -> None:
    """Refuse what is not a table of known keys.

    Args:
        values: What was read.
        allowed: The keys that may be there.
        where: What messages call the place.

    Raises:
        ConfigError: Naming the unknown key and the one nearest to it.
    """
    allowed = tuple(allowed)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; it must be a table with the keys {', '.join(allowed)}.")
    for key in values:
        if key not in allowed:
            raise ConfigError(
                f"{where} has an unknown key {key!r}{nearest(key, allowed)}; known are {', '.join(allowed)}."
            )


def check_kind(kind: Any, kinds: Iterable[str], where: str) -> str:
    """A kind that is known.

    Raises:
        ConfigError: Naming the unknown kind and the one nearest to it.
    """
    kinds = tuple(kinds)
    if kind not in kinds:
        raise ConfigError(
            f"{where} has an unknown kind {kind!r}{nearest(str(kind), kinds)}; known are {', '.join(kinds)}."
        )
    return str(kind)


def number(value: Any, where: str) -> float:
    """A finite number from 0 on.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ConfigError(f"{where} is {value!r}; it must be a number from 0 on.")
    return float(value)
