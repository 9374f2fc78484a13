"""Lazy imports: a command's start is mostly imports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Import an optional package in a block; where it is not installed, a MissingPackageError names the extra."""
    try:
        yield
    except ImportError as error:
        from terramorph.errors import MissingPackageError

        raise MissingPackageError(
            f"{package} is not installed; install it with pip install 'terramorph[{extra}]'."
        ) from error


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__` that imports the home of a public name on first use.

    Args:
        homes: name -> module.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find


def import_without(library: str, *optional: str) -> None:
    """Import a library without optional packages that it imports whenever they are installed.

    Args:
        library: If it is imported already, nothing happens.
        optional: Packages that cost more than they give; those that are imported already stay.
    """
    hidden = [name for name in optional if name not in sys.modules] if library not in sys.modules else []
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import_module(library)
    finally:
        for name in hidden:
            del sys.modules[name]
