"""`terramorph recalibrate`: normalisation statistics averaged over the training set, for raster mode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import Allow, from_here
from terramorph.cli.console import Meter, say

NAME = "recalibrate"
EXAMPLE = "Example: terramorph recalibrate runs/maps/model.safetensors data/maps --out models/maps.safetensors"


def run(
    bundle: Annotated[str, typer.Argument(help="Model: a .safetensors bundle, a run's folder, or a published name.")],
    dataset: Annotated[Path, typer.Argument(help="Folder of the training pairs; its train split is read.")],
    out: Annotated[Path | None, typer.Option(help="Output bundle. Default: in place.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of training pairs to average over.")] = 400,
    cache: Annotated[
        Path | None, typer.Option(help="Cache folder for decoded pairs. Default: ~/.cache/terramorph.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and list pairs that cannot be read.")] = False,
    allow: Allow = None,
) -> None:
    """Average a model's normalisation statistics over its training pairs (mode raster uses them)."""
    from terramorph.data import DEFAULT_CACHE
    from terramorph.training import recalibrate

    with Meter("averaging") as meter:
        written = recalibrate(
            bundle,
            dataset,
            out,
            images=images,
            cache=cache or DEFAULT_CACHE,
            skip_bad=skip_bad,
            progress=meter.update,
            allowed=from_here(allow),
        )
    say(f"{written} recalibrated.")
