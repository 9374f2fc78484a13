"""The words an option takes where it takes one of a few."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terramorph.extensions import is_outside, module_of, resolve

if TYPE_CHECKING:
    from terramorph.metrics import Metric


class Stored(StrEnum):
    fp16 = "fp16"
    int8 = "int8"


class Mode(StrEnum):
    paper = "paper"
    raster = "raster"


class Direction(StrEnum):
    AtoB = "AtoB"
    BtoA = "BtoA"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Progress(StrEnum):
    text = "text"
    json = "json"


class Backend(StrEnum):
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""


def from_here(modules: Collection[str] | None) -> list[str]:
    """Modules whose code may run, which are looked for in this folder too, after everything that is installed."""
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return list(modules or ())


_OUTSIDE = ("loss.terms.", "stop.metric", "generator.network")
"""Settings that name functions and classes from outside the package."""


def allowed_modules(allow: Collection[str] | None, assigned: Mapping[str, Any]) -> list[str]:
    """Modules that --allow names, and those of what was typed by --set: who types a name asks for its code to run."""
    typed = [value for key, value in assigned.items() if key.startswith(_OUTSIDE) and isinstance(value, str)]
    return from_here([*(allow or ()), *(module_of(value) for value in typed if is_outside(value))])


Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="MODULE",
        help="Allow code of this module to run, for models and settings that name it; repeatable.",
    ),
]
"""Modules from outside; see `terramorph.extensions`."""


def named_metrics(names: Collection[str] | None) -> list[Metric]:
    """Metrics that --metric names; who types a name asks for its code to run."""
    return [resolve(name, from_here([module_of(name)])) for name in names or ()]


Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="MODULE:NAME", help="Own metric to score too; repeatable."),
]
