"""Parts of all HTML pages: templates (base.html.j2, kit.html.j2), charts, tables and numbers."""

from terramorph.report.numbers import duration

__all__ = ["duration"]
