"""`terramorph import`: conversion of public pix2pix checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from terramorph.cli.choices import Direction, Mode, argument, option
from terramorph.cli.console import say

NAME = "import"
EXAMPLE = "Example: terramorph import latest_net_G.pth models/edges.safetensors"


def run(
    checkpoint: Annotated[
        Path, argument("Generator checkpoint of the public PyTorch pix2pix, such as latest_net_G.pth.")
    ],
    output: Annotated[Path, argument("Output bundle, ending in .safetensors.")],
    mode: Annotated[
        Mode, option("Default mode of the bundle: paper as the public test script, raster as its --eval.")
    ] = "raster",
    direction: Annotated[Direction, option("AtoB: the left half was the source in training.")] = "AtoB",
) -> None:
    """Convert a checkpoint of the public PyTorch pix2pix (U-Net or ResNet) to a bundle."""
    from terramorph.errors import InputError
    from terramorph.interop import import_checkpoint

    if output.suffix != ".safetensors":
        raise InputError(f"output must end in .safetensors, got {output}.")
    bundle = import_checkpoint(checkpoint, mode=mode, direction=direction)
    bundle.save(output)
    say(f"{output} written: {bundle.header.architecture.name}. Details: terramorph info {output}")
    if mode == "paper":
        say("Default mode: paper, as the public test script. Mode raster is its --eval.")
    else:
        say(
            "Default mode: raster, as the public test script with --eval. To compare with the script without "
            "--eval, give --mode paper here, or to translate and evaluate."
        )
