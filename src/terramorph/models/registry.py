"""Registry of the published models, from `registry.toml`."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from terramorph.documents import parse_toml
from terramorph.errors import BundleError

REGISTRY = Path(__file__).with_name("registry.toml")


class Entry(BaseModel):
    """A published model.

    Attributes:
        name: Its name, which only points to the file of this digest.
        about: One line on what it does.
        file: Path in the project's repository.
        sha256: Of its file, hexadecimal.
        bytes: Size of its file.
        urls: Addresses of its file; empty if it is not published yet.
        licence: Licence of the weights.
        trained_on: The data.
        rights: Whose rights lie in the data.
        ground_resolution: Metres a pixel.
        date: Date of the training.
        scores: Figures by name, `n` and `protocol` among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    urls: tuple[str, ...] = ()
    licence: str
    trained_on: str
    rights: str
    ground_resolution: float = Field(gt=0)
    date: datetime.date
    scores: dict[str, int | float | str] = {}


@cache
def registry() -> dict[str, Entry]:
    """Return the entries by name, in the order of the file."""
    document = parse_toml(REGISTRY.read_text(encoding="utf-8"))
    return {name: Entry.model_validate({"name": name, **values}) for name, values in document.items()}


def require_entry(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        BundleError: If there is none.
    """
    if name not in registry():
        raise BundleError(f"There is no published model {name}; there are {', '.join(registry())}.")
    return registry()[name]
