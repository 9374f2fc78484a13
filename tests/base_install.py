"""The command line as it is without extras: whatever the base dependencies do not bring is hidden from imports.

python base_install.py < lines.json > codes.json    # a list of command lines; their exit codes and error output
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tomllib
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _brought(name: str, known: set[str]) -> set[str]:
    """The names of a distribution and of all that it needs without extras."""
    if _plain(name) not in known:
        with contextlib.suppress(metadata.PackageNotFoundError):
            needs = [Requirement(line) for line in metadata.requires(name) or []]
            known.add(_plain(name))
            for need in needs:
                if need.marker is None or need.marker.evaluate({"extra": ""}):
                    _brought(need.name, known)
    return known


def hide_extras() -> None:
    """From now on, imports find the base dependencies and the standard library only."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {"terramorph"}
    for line in project["dependencies"]:
        _brought(Requirement(line).name, base)
    packages = metadata.packages_distributions()
    hidden = {name for name, homes in packages.items() if not base & {_plain(home) for home in homes}}

    class BaseOnly:
        find_distributions = PathFinder.find_distributions

        @staticmethod
        def find_spec(name: str, *where: Any) -> ModuleSpec | None:
            return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, *where)

    sys.meta_path[:] = [BaseOnly if finder is PathFinder else finder for finder in sys.meta_path]


if __name__ == "__main__":
    hide_extras()
    from terramorph.cli.app import run

    outcomes = []
    for line in json.load(sys.stdin):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
            code = run(line)
        outcomes.append((code, told.getvalue()))
    print(json.dumps(outcomes))
