"""TOML files of styles and tables: found, read, and their keys checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from terramorph.cartography.kinds import KINDS
from terramorph.documents import DocumentError, parse_toml
from terramorph.errors import ConfigError, did_you_mean


class Document(BaseModel):
    """What a file holds.

    Attributes:
        entry_keys: Keys of its entries.
    """

    model_config = ConfigDict(extra="forbid")
    entry_keys: ClassVar[tuple[str, ...]]
    name: str | None = None


_Document = TypeVar("_Document", bound=Document)


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
        raise ConfigError(f"There is no {word} {text!r}; {did_you_mean(text, names, ', or give a .toml file')}")
    try:
        return parse_toml(path.read_text("utf-8-sig")), text
    except OSError as error:
        raise ConfigError(f"The {word} {path} cannot be read ({error.strerror}); check the path.") from error
    except (DocumentError, UnicodeDecodeError) as error:
        raise ConfigError(f"The {word} {path} is not valid TOML ({error}); correct it there.") from error


def checked(model: type[_Document], values: Mapping[str, Any], where: str) -> _Document:
    """Values as a model.

    Args:
        model: what the file holds.
        values: what was read.
        where: what messages call the file.

    Raises:
        ConfigError: Naming the first thing that is wrong and where it stands.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        unknown = ("extra_forbidden", "unexpected_keyword_argument")  # often why another is missing
        first = min(error.errors(), key=lambda one: one["type"] not in unknown)
        where += "".join(_words(first["loc"]))
        if first["type"] in unknown:
            known = model.model_fields if len(first["loc"]) == 1 else model.entry_keys
            raise ConfigError(f"{where} is an unknown key; {did_you_mean(first['loc'][-1], known)}") from error
        if first["type"] in ("missing", "too_short"):
            raise ConfigError(f"{where} is missing; give it.") from error
        reason = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], Mapping) else f" is {first['input']!r}"
        raise ConfigError(f"{where}{given}: {reason[:1].lower()}{reason[1:]}.") from error


def _words(place: tuple[int | str, ...]) -> Iterator[str]:
    """Words for the place of an error. Entries are counted from 1; the rules that one gives share its number."""
    for before, part in zip(("", *place), place, strict=False):
        if isinstance(part, str):
            yield f", {part}"
        elif isinstance(before, str):
            yield f" {part + 1}"


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no such kind; {did_you_mean(kind, KINDS)}".rstrip("."))
    return kind


Kind = Annotated[str, AfterValidator(_kind)]
"""A kind that is known."""

Number = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
"""A finite number from 0 on."""

Shape = Literal["any", "line", "area"]
"""Which geometries a rule or an entry speaks of."""
