"""`terramorph translate`: images in, images out, with their place kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import MAX_SEED, Device, Mode, Precision
from terramorph.cli.console import Meter, say, warn

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
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 in mode raster where it is native, otherwise fp32.")
    ] = Precision.auto,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the noise in mode paper.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="List and leave out images that cannot be read.")
    ] = False,
    any_resolution: Annotated[
        bool, typer.Option("--any-resolution", help="Accept images of another ground resolution than the model's.")
    ] = False,
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
            precision=precision.value,
            seed=seed,
            skip_bad=skip_bad,
            any_resolution=any_resolution,
            progress=meter.update,
        )
    for sentence in written.skipped:
        warn(f"skipped: {sentence}")
    say(f"{output}: {len(written)} image{'s' * (len(written) != 1)} written.")
