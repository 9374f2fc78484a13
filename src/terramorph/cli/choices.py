"""Options that verbs share, and their choices."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from terramorph.errors import ConfigError
from terramorph.extensions import is_outside, module_of, resolve

if TYPE_CHECKING:
    from terramorph.metrics import Metric


def option(help: str, *names: str, **how: Any) -> Any:
    """Return an option of a verb: its help, then its names where they are not the parameter's."""
    return typer.Option(*names, help=help, **how)


def argument(help: str, **how: Any) -> Any:
    return typer.Argument(help=help, **how)


def refuse_without_effect(context: typer.Context, names: Collection[str], where: str) -> None:
    """Refuse options of the command line that would have no effect.

    Args:
        context: That of the verb.
        names: Parameters of the verb.
        where: Why not, such as `without --web`.

    Raises:
        ConfigError: If one of them was given.
    """
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name)) if parameter.name in names else None
        if source is not None and source.name == "COMMANDLINE":  # not a default, nor the environment
            given.append(max(parameter.opts, key=len))
    if given:
        one = len(given) == 1
        raise ConfigError(
            f"{' and '.join(given)} {'has' if one else 'have'} no effect {where}; leave {'it' if one else 'them'} out."
        )


Stored = Literal["fp16", "int8"]
"""Weight format of a network for browsers."""
Mode = Literal["paper", "raster"]
"""Mode of a network; see docs/glossary.md."""
Direction = Literal["AtoB", "BtoA"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Progress = Literal["text", "json"]
Backend = Literal["torch", "onnxruntime", "openvino"]

MAX_SEED = 2**63 - 1
"""The largest seed that every random generator takes."""


def from_here(modules: Collection[str] | None) -> list[str]:
    """Return the modules whose code may run; they are looked for in the working directory too, after installed ones."""
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return list(modules or ())


_OUTSIDE = ("loss.terms.", "stop.metric", "generator.network")
"""Prefixes of settings that name functions and classes from outside the package."""


def allowed_modules(allow: Collection[str] | None, assigned: Mapping[str, Any]) -> list[str]:
    """Return the modules of --allow and of names given by --set: a name that the user typed may run its code."""
    typed = [value for key, value in assigned.items() if key.startswith(_OUTSIDE) and isinstance(value, str)]
    return from_here([*(allow or ()), *(module_of(value) for value in typed if is_outside(value))])


def named_metrics(names: Collection[str] | None) -> list[Metric]:
    """Return the metrics of --metric; a name that the user typed may run its code."""
    return [resolve(name, from_here([module_of(name)])) for name in names or ()]


# Options of several verbs.
BundlePath = Annotated[str, argument("Model: a .safetensors bundle, a run's folder, or a published name.")]
ModelPath = Annotated[
    str, argument("Model: a .safetensors bundle, a run's folder, a published name, or an .onnx file.")
]
Pairs = Annotated[Path, argument("Folder of pairs.")]
ModeOption = Annotated[
    Mode | None, option("raster: fixed statistics; paper: batch statistics and dropout. Default: the model's own.")
]
PrecisionOption = Annotated[
    Precision, option("Number format. auto: bf16 in mode raster where the hardware has it, otherwise fp32.")
]
Ensemble = Annotated[
    bool, option("Average eight flips and rotations of each image; takes 8 times as long.", "--ensemble")
]
SkipBad = Annotated[bool, option("Skip and list pairs that cannot be read.", "--skip-bad")]
Cache = Annotated[Path | None, option("Cache folder for decoded pairs. Default: ~/.cache/terramorph.")]
TrainingSeed = Annotated[int | None, option("Random seed.", min=0, max=MAX_SEED)]
Settings = Annotated[
    list[str] | None, option("Change a setting of the recipe; repeatable.", "--set", metavar="KEY=VALUE")
]
QualityPairs = Annotated[
    Path | None, option("Folder of pairs whose val measures the quality loss. Default for town models: the town.")
]
QualityWeights = Annotated[Path | None, option("Folder with the network weights for LPIPS; without them SSIM decides.")]
Metrics = Annotated[list[str] | None, option("Own metric to score too; repeatable.", "--metric", metavar="MODULE:NAME")]
Allow = Annotated[
    list[str] | None,
    option("Module whose code may run, for models and settings that name it; repeatable.", "--allow", metavar="MODULE"),
]
"""Modules from outside; see `terramorph.extensions`."""
