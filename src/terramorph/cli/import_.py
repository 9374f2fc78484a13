"""`terramorph import`: other people's checkpoints in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import Direction, Mode
from terramorph.cli.console import say

NAME = "import"
EXAMPLE = "Example: terramorph import latest_net_G.pth models/edges.safetensors"


def run(
    checkpoint: Annotated[
        Path, typer.Argument(help="A generator of the public PyTorch pix2pix, such as latest_net_G.pth.")
    ],
    output: Annotated[Path, typer.Argument(help="The bundle to write, ending in .safetensors.")],
    mode: Annotated[
        Mode, typer.Option(help="The bundle's default: paper is how the public test script runs, raster its --eval.")
    ] = Mode.raster,
    direction: Annotated[
        Direction, typer.Option(help="AtoB: the left half of its training pairs was the source.")
    ] = Direction.AtoB,
) -> None:
    """Make a bundle of a checkpoint of the public PyTorch pix2pix (U-Net or ResNet)."""
    from terramorph.errors import InputError
    from terramorph.interop import import_checkpoint

    if output.suffix != ".safetensors":
        raise InputError(f"A bundle's name ends in .safetensors, and {output} does not; choose another name.")
    bundle = import_checkpoint(checkpoint, mode=mode.value, direction=direction.value)
    bundle.save(output)
    say(f"{output}: {bundle.header.architecture.name}; `terramorph info {output}` prints the rest.")
    if mode is Mode.paper:
        say("Its default mode is paper, as the public test script runs; raster (fixed statistics) is its --eval.")
    else:
        say(
            "Its default mode is raster, as the public test script with --eval; without it that runs as mode "
            "paper: give --mode paper here, or to translate and evaluate, to compare with it."
        )
