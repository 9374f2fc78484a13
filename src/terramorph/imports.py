"""Imports: lazy ones, for a command's start is mostly imports; optional packages; and code from outside the package.

Classes and functions from outside go by name, `package.module:Name`. Importing a module runs its code. So a name is
followed only into modules that the caller allowed: a file that names a class, such as a bundle, has no say in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from typing import Any

from terramorph.errors import ConfigError, MissingPackageError, TerramorphError, raised_as, reason_of


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Import an optional package in a block; where it is not installed, a MissingPackageError names the extra."""
    try:
        yield
    except ImportError as error:
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


def is_outside(name: str) -> bool:
    """Return whether a name is of the form `package.module:Name`."""
    return ":" in name


def module_of(name: str) -> str:
    """Return the module of `package.module:Name`.

    Raises:
        ConfigError: If the name is not written so.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ConfigError(f"{name!r} is not the name of a class or function; write it as package.module:Name.")
    return module


def name_of(thing: Any) -> str:
    """Return the name under which `resolve` finds a class or function again.

    Raises:
        ConfigError: If there is none, because it was made inside a function.
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or "<" in name:
        what = name or f"An object of {type(thing).__name__}"
        raise ConfigError(f"{what} cannot be found by name; define a class or function at the top of a module.")
    return f"{module}:{name}"


def resolve(name: str, allowed: Collection[str]) -> Any:
    """Import a class or function from outside the package.

    Args:
        name: `package.module:Name`.
        allowed: Modules whose code the caller lets run; a package allows those within it.

    Raises:
        ConfigError: If the name is not written so, its module is not allowed or cannot be imported, or holds no such
            name.
    """
    module = module_of(name)
    modules = {allowed} if isinstance(allowed, str) else set(allowed)
    if not any(module == known or module.startswith(f"{known}.") for known in modules):
        raise ConfigError(
            f"{name} is code from outside terramorph and was not asked for; allow the module {module} if you trust it."
        )
    advice = "mend it, or add its folder to PYTHONPATH"
    with raised_as(ConfigError, f"The module {module} cannot be imported", advice):
        found: Any = import_module(module)
    try:
        return reduce(getattr, name.partition(":")[2].split("."), found)
    except AttributeError as error:
        raise ConfigError(f"The module {module} holds no {name.partition(':')[2]}; check the name {name}.") from error


@contextmanager
def running(what: str) -> Iterator[None]:
    """Run code from outside: its errors become one sentence, with the traceback as the cause.

    Args:
        what: Subject of the sentence, for the code that runs.

    Raises:
        ConfigError: If the code raises; errors of terramorph and a lack of memory pass as they are.
    """
    try:
        yield
    except (TerramorphError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is no MemoryError
            raise
        raise ConfigError(f"{what} failed: {type(error).__name__}, {reason_of(error)}; mend its code.") from error
