"""`terramorph import`: other people's checkpoints in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.console import say

NAME = "import"
EXAMPLE = "Example: terramorph import latest_net_G.pth models/edges.safetensors"


def run(
    checkpoint: Annotated[
        Path, typer.Argument(help="A generator of the public PyTorch pix2pix, such as latest_net_G.pth.")
    ],
    output: Annotated[Path, typer.Argument(help="The bundle to write, ending in .safetensors.")],
) -> None:
    """Make a bundle of a checkpoint of the public PyTorch pix2pix (U-Net or ResNet)."""
    from terramorph.errors import InputError
    from terramorph.interop import import_checkpoint

    if output.suffix != ".safetensors":
        raise InputError(f"A bundle's name ends in .safetensors, and {output} does not; choose another name.")
    bundle = import_checkpoint(checkpoint)
    bundle.save(output)
    say(f"{output}: {bundle.header.architecture.name}; `terramorph info {output}` prints the rest.")
