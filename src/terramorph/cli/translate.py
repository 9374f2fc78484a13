"""`terramorph translate`: images in, images out, with their place kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import Device, Mode
from terramorph.cli.console import Meter, say

NAME = "translate"
EXAMPLE = "Example: terramorph translate runs/maps/model.safetensors aerial.tif map.tif"


def run(
    bundle: Annotated[str, typer.Argument(help="A model.safetensors, a run's folder, or a name in the folder models.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Argument(help="An image (.png, .jpg, .tif), or a folder.")],
    mode: Annotated[
        Mode | None, typer.Option(help="raster: fixed statistics; paper: batch statistics. Default: the bundle's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draw so many outputs of each image (mode paper).")] = 1,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
) -> None:
    """Translate an image or a folder of images; georeference and world files are carried over."""
    from terramorph.translate import translate_files

    with Meter("translating") as meter:
        written = translate_files(
            bundle,
            source,
            output,
            mode=mode.value if mode else None,
            samples=samples,
            device=device.value,
            progress=meter.update,
        )
    say(f"{output}: {len(written)} image{'s' * (len(written) != 1)} written.")
