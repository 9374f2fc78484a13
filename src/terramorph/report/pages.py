"""HTML pages: one self-contained file each, for light and dark, narrow and wide screens; and tables as data, which the
macro ``table`` of kit.html.j2 renders, and a click on a heading sorts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from terramorph.report import numbers
from terramorph.report.numbers import DASH, number

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from numpy.typing import NDArray


@cache
def page_environment(package: str) -> Environment:
    """Return the environment of templates: those of a package first, then those of `terramorph.report`.

    A page extends base.html.j2 and imports macros from kit.html.j2. Functions of `terramorph.report.numbers` are
    filters.

    Args:
        package: package of the templates, such as terramorph.evaluation.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(name: str) -> str | None:
        for home in (package, "terramorph.report"):
            file = resources.files(home).joinpath(name)
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = Environment(
        loader=FunctionLoader(read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # No line ends between a number and its percent sign.
        finalize=lambda value: value.replace(" %", "\u00a0%") if isinstance(value, str) else value,
    )
    named = ("number", "percent", "signed", "p_value", "distance", "duration", "counted", "listed")
    environment.filters |= {name: getattr(numbers, name) for name in named}
    return environment


def render_page(package: str, template: str, **values: Any) -> str:
    """Render a template of a package; a name without a value is an error."""
    return page_environment(package).get_template(template).render(**values)


def picture_uri(image: NDArray[np.uint8], kind: str = "WEBP", quality: int = 90) -> str:
    """Encode an image as a data URI.

    Args:
        image: uint8 ``(3, H, W)``.
        kind: WEBP (4 to 30 kB for 256 px), JPEG, or PNG where flat colours must stay exact.
        quality: of WEBP and JPEG, 1 to 100.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).copy()).save(buffer, kind, quality=quality, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Text that is shown.
        order: Sort key; ``None`` sorts last. Cells with a number are aligned right.
        kind: CSS class: strong, better, worse, note (a sentence that wraps), soft.
        colour: CSS colour of a swatch before the text.
        shade: Strength of the cell's colour, 0 to 1, as in a matrix.
        below: A second, smaller line.
        link: Target of a click.
        title: Tooltip.
    """

    text: str
    order: float | str | None = None
    kind: str = ""
    colour: str = ""
    shade: float | None = None
    below: str = ""
    link: str = ""
    title: str = ""


Row = list[Cell | str | float | None]
"""Cells of a row; a text, a number or ``None`` stands for a plain cell."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Names of the columns.
        body: Rows.
        caption: What is shown and how it was measured.
        anchors: Id of each row, for links; empty for none.
    """

    head: Sequence[str]
    body: Sequence[Sequence[Cell | str | float | None]]
    caption: str = ""
    anchors: Sequence[str] = ()

    @property
    def rows(self) -> list[list[Cell]]:
        return [[_cell(value) for value in row] for row in self.body]


def _cell(value: Cell | str | float | None) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell(DASH)
    return Cell(value, value) if isinstance(value, str) else Cell(number(value), value)
