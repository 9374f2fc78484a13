"""What the HTML pages of every verb are made of: base.html.j2 and kit.html.j2 (templates), charts, tables, numbers."""

from terramorph.report.numbers import duration

__all__ = ["duration"]
