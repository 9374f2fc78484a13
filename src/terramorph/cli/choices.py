"""Options that verbs share, with their choices, and options for what image files do not state."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from terramorph.errors import ConfigError
from terramorph.imports import is_outside, module_of, resolve

if TYPE_CHECKING:
    from terramorph.metrics import Metric
    from terramorph.raster import ReadOptions

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
_OUTSIDE = ("loss.terms.", "stop.metric", "generator.network")
"""Prefixes of settings that name functions and classes from outside the package."""
Classes = Literal["source", "target", "both", "none"]
"""Sides that hold class values."""


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


def from_here(modules: Collection[str] | None) -> list[str]:
    """Return the modules whose code may run; they are looked for in the working directory too, after installed ones."""
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return list(modules or ())


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
"""Modules from outside; see `terramorph.imports`."""


Asset = Annotated[str | None, option("Asset of STAC items, by name or role (visual), or bands (red,green,blue).")]
Resolution = Annotated[
    float | None,
    option("Metres per pixel at which the model sees the input; needed if the input's own differ too much."),
]
Raw = Annotated[bool, option("Use stored values; ignore the file's scale and offset.", "--raw")]
Height = Annotated[float | None, option("Ground height in metres for scenes placed by RPCs. Default: their mean.")]
Dem = Annotated[str | None, option("Raster of ground heights for scenes placed by RPCs.")]
Terms = Annotated[str | None, option("Licence or terms of use; required for tile servers.")]


def read_options(
    bands: str | None,
    nodata: str | None,
    raw: bool,
    categorical: bool | None = None,
    height: float | None = None,
    dem: str | None = None,
    asset: str | None = None,
) -> ReadOptions:
    """Return the options of one image; the signer of STAC items is named by the environment."""
    from terramorph.raster import ReadOptions

    try:
        picked = None if bands is None else tuple(int(word) for word in bands.split(","))
    except ValueError:
        raise ConfigError(f"--bands must be numbers from 1, such as 3,2,1, got {bands!r}.") from None
    try:
        value = None if nodata is None else float(nodata)
    except ValueError:
        raise ConfigError(f"--nodata must be a number such as -9999, got {nodata!r}.") from None
    sign = stac_signer()
    how: dict[str, Any] = {"categorical": categorical, "height": height, "dem": dem, "asset": asset, "sign": sign}
    return ReadOptions(bands=picked, nodata=value, raw=raw, **how)


def stac_signer() -> str | None:
    """Return the function, as module:name, that signs addresses of STAC assets; its module may be in the working
    directory."""
    name = os.environ.get("TERRAMORPH_STAC_SIGN") or None
    from_here([name] if name else None)
    return name


def sides(
    bands: Sequence[str],
    nodata: Sequence[str],
    raw: bool,
    categorical: Classes | None,
    height: float | None = None,
    dem: str | None = None,
    asset: str | None = None,
) -> tuple[ReadOptions, ReadOptions]:
    """Return the options of source and target, from words such as `3,2,1` and `target=-9999`.

    Without a side, bands and asset are for the source, and nodata is for both sides.
    """
    picked = _by_side("--bands", bands, ("source",))
    named = _by_side("--asset", [asset] if asset else [], ("source",))
    values = _by_side("--nodata", nodata, ("source", "target"))
    kinds = {side: None if categorical is None else categorical in ("both", side) for side in ("source", "target")}
    source, target = (
        read_options(picked.get(s), values.get(s), raw, kinds[s], height, dem, named.get(s))
        for s in ("source", "target")
    )
    return source, target


def _by_side(option: str, words: Sequence[str], default: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        side, is_sided, value = word.rpartition("=")
        if is_sided and side not in ("source", "target"):
            raise ConfigError(f"{option} must be VALUE, source=VALUE or target=VALUE, got {word!r}.")
        for name in [side] if is_sided else default:
            found[name] = value
    return found
