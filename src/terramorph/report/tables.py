"""Tables as data; the macro ``table`` of kit.html.j2 renders them, and a click on a heading sorts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from terramorph.report.numbers import DASH, number


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
