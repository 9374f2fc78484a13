"""HTML pages: one file with everything inside, readable in light and dark, narrow and wide, offline."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str) -> Environment:
    """Where a package's templates are found. They may include what `terramorph.report` holds: theme.css, viewer.html.

    Args:
        package: where the templates lie, such as terramorph.evaluation.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(name: str) -> str:
        home = package if name.endswith(".j2") else "terramorph.report"
        return resources.files(home).joinpath(name).read_text(encoding="utf-8")

    return Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render_page(package: str, template: str, **values: Any) -> str:
    """Fill a template of a package; a name without a value is an error."""
    return page_environment(package).get_template(template).render(**values)
