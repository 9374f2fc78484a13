"""terramorph: translate between satellite or aerial imagery and maps, both ways.

    import terramorph

    model = terramorph.load("runs/town/model.safetensors")
    terramorph.translate(model, "aerial.png")               # a Raster: pixels (C, H, W), mask, grid
    terramorph.translate(model, "ortho.vrt", "map.pmtiles") # of any size, in bounded memory

| name | what it does |
|---|---|
| `load` | read a model: a bundle, a run's folder, a published name, an .onnx file |
| `translate` | translate an image, an array or a raster of any size |
| `prepare` | cut imagery and a map into pairs, split by place |
| `train` | train a model on pairs |
| `evaluate` | score a model on held-out pairs |
| `compare`, `tune` | measure changes of a recipe; search for better settings |
| `serve`, `show` | show a translation as map layers; in a notebook |
| `open_source` | open what can be read as pixels of any grid |
| `models` | published models: `models.registry()`, `models.pull("sat2map")` |

`translate`, `prepare` and `serve` are packages too: `from terramorph.translate import Backend` works as ever.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

from terramorph._version import __version__
from terramorph.imports import lazily, needs

__all__ = [
    "Model",
    "Raster",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "models",
    "open_source",
    "prepare",
    "serve",
    "show",
    "train",
    "translate",
    "tune",
]

if TYPE_CHECKING:
    from terramorph import models
    from terramorph.api import prepare, serve, train, translate
    from terramorph.evaluation import evaluate
    from terramorph.raster import Raster
    from terramorph.serve import show
    from terramorph.sources import open_source
    from terramorph.study.compare import compare
    from terramorph.study.tune import tune
    from terramorph.translate import Model, load

# The names are resolved on first use: `terramorph --help` must not wait for torch to be imported.
_HOMES = {
    "Model": "terramorph.translate",
    "Raster": "terramorph.raster",
    "compare": "terramorph.study.compare",
    "evaluate": "terramorph.evaluation",
    "load": "terramorph.translate",
    "open_source": "terramorph.sources",
    "show": "terramorph.serve",
    "train": "terramorph.api",
    "tune": "terramorph.study.tune",
}
_FUNCTIONS = frozenset({"prepare", "serve", "translate"})
"""Packages that are called as the functions of their names in `terramorph.api`."""
_find = lazily(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    with needs("A package of the server", "serve") if name in ("serve", "show") else nullcontext():
        return import_module(f"{__name__}.{name}") if name in _FUNCTIONS or name == "models" else _find(name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """A package that is called as the function of its name."""

    def __call__(self, *args: Any, **how: Any) -> Any:
        return self._function(*args, **how)

    @property
    def _function(self) -> Any:
        return getattr(import_module("terramorph.api"), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Signature:
        return signature(self._function)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return import_module, (self.__name__,)


class _Root(ModuleType):
    """This package; importing a package sets it as an attribute here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FUNCTIONS and isinstance(value, ModuleType):
            value.__class__ = _Package
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Root
