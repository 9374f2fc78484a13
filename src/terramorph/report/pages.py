"""HTML pages: one file with everything inside, readable in light and dark, narrow and wide, offline."""

from __future__ import annotations

from importlib import resources
from typing import Any


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill a template of a package. It may include what `terramorph.report` holds: viewer.html, say.

    Args:
        package: where the template lies, such as terramorph.evaluation.
        template: its file name.
        values: what it names; a name without a value is an error.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(name: str) -> str:
        home = package if name == template else "terramorph.report"
        return resources.files(home).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)
