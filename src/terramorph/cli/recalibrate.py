"""`terramorph recalibrate`: normalisation statistics averaged over the training set, for raster mode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from terramorph.cli.choices import Allow, BundlePath, Cache, SkipBad, argument, from_here, option
from terramorph.cli.console import Meter, say

NAME = "recalibrate"
EXAMPLE = "Example: terramorph recalibrate runs/maps/model.safetensors data/maps --out models/maps.safetensors"


def run(
    bundle: BundlePath,
    dataset: Annotated[Path, argument("Folder of the training pairs; its train split is read.")],
    out: Annotated[Path | None, option("Output bundle. Default: in place.")] = None,
    images: Annotated[int, option("Number of training pairs to average over.", min=1)] = 400,
    cache: Cache = None,
    skip_bad: SkipBad = False,
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
