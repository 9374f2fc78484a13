"""`terramorph export`: ONNX out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import Mode
from terramorph.cli.console import say

NAME = "export"
EXAMPLE = "Example: terramorph export runs/maps/model.safetensors maps.onnx --mode raster"


def run(
    bundle: Annotated[str, typer.Argument(help="A model.safetensors, a run's folder, or a name in the folder models.")],
    output: Annotated[Path, typer.Argument(help="The file to write, ending in .onnx.")],
    mode: Annotated[
        Mode | None, typer.Option(help="raster: fixed statistics; paper: batch statistics. Default: the bundle's.")
    ] = None,
) -> None:
    """Write a bundle's network as ONNX, with free height and width and the bundle's header as metadata."""
    from terramorph.bundle import load_bundle
    from terramorph.errors import InputError
    from terramorph.interop import export_onnx

    if output.suffix != ".onnx":
        raise InputError(f"An exported network's name ends in .onnx, and {output} does not; choose another name.")
    export_onnx(load_bundle(bundle), output, mode=mode.value if mode else None)
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
