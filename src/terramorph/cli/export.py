"""`terramorph export`: conversion of a bundle to ONNX, in float32 or 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terramorph.cli import choices
from terramorph.cli.choices import argument, from_here, option
from terramorph.cli.console import Meter, say, warn

if TYPE_CHECKING:
    from terramorph.bundle import Bundle

NAME = "export"
EXAMPLE = (
    "Example: terramorph export runs/maps/model.safetensors maps.onnx --mode raster | "
    "terramorph export runs/maps/model.safetensors maps-int8.onnx --int8 --calibrate data/maps | "
    "terramorph export town-sat2map deep.onnx --deepness | "
    "terramorph export town-map2sat web.onnx --web --store int8"
)
SCORED = 500
"""Most pairs of val on which the loss of quality is measured, for more take minutes."""


def run(
    context: typer.Context,
    bundle: choices.BundlePath,
    output: Annotated[Path, argument("Output file, ending in .onnx.")],
    mode: choices.ModeOption = None,
    int8: Annotated[bool, option("Quantize to 8 bits (mode raster); needs --calibrate.", "--int8")] = False,
    calibrate: Annotated[
        Path | None, option("Folder of pairs: train calibrates, val measures the loss of quality.")
    ] = None,
    images: Annotated[int, option("Number of training pairs to calibrate on.", min=1)] = 100,
    cache: choices.Cache = None,
    deepness: Annotated[
        bool, option("Write class probabilities and settings for the QGIS plug-in Deepness.", "--deepness")
    ] = False,
    style: Annotated[
        str, option("Style of the map whose classes --deepness separates: classic, osm, classes, or a TOML file.")
    ] = "classic",
    web: Annotated[bool, option("Write a small network for browsers, with noise as an input.", "--web")] = False,
    store: Annotated[choices.Stored, option("Weight format of --web; arithmetic stays float32.")] = "fp16",
    data: choices.QualityPairs = None,
    weights: choices.QualityWeights = None,
    force: Annotated[bool, option("Accept a --web file that loses too much quality.", "--force")] = False,
    allow: choices.Allow = None,
) -> None:
    """Write a bundle's network as ONNX, with free height and width and the bundle's header as metadata."""
    from terramorph.bundle import load_bundle
    from terramorph.errors import ConfigError, InputError
    from terramorph.interop import export_onnx

    if output.suffix != ".onnx":
        raise InputError(f"output must end in .onnx, got {output}.")
    if int8 != (calibrate is not None):
        raise ConfigError("--int8 and --calibrate DATASET belong together; give both or neither.")
    for meant, option_, names in (
        (web, "--web", ("store", "data", "weights", "force")),
        (int8, "--int8", ("images", "cache")),
        (deepness, "--deepness", ("style",)),
    ):
        if not meant:
            choices.refuse_without_effect(context, names, f"without {option_}")
    if web:
        if int8 or deepness or mode == "paper":
            raise ConfigError("--web is for mode raster; leave out --int8, --deepness and --mode paper.")
        from terramorph.cli.web import write_web

        loaded = load_bundle(bundle, from_here(allow))
        write_web(loaded, output, store, data=data, weights=weights, force=force)
    elif deepness:
        if int8 or mode == "paper":
            raise ConfigError("--deepness is for mode raster in float32; leave out --int8 and --mode paper.")
        from terramorph.cartography import load_style, palette_of
        from terramorph.interop import export_deepness

        export_deepness(load_bundle(bundle, from_here(allow)), output, palette=palette_of(load_style(style)))
    elif not int8:
        export_onnx(load_bundle(bundle, from_here(allow)), output, mode=mode)
    elif mode == "paper":
        raise ConfigError("--int8 needs mode raster; leave out --mode paper.")
    else:
        assert calibrate is not None
        _eight_bits(load_bundle(bundle, from_here(allow)), output, calibrate, images, cache)
    say(f"{output} written ({output.stat().st_size / 1e6:.1f} MB).")


def _eight_bits(bundle: Bundle, output: Path, dataset: Path, images: int, cache: Path | None) -> None:
    """Quantize, measure the loss of quality and note it; an existing file is replaced only at the end."""
    from terramorph.atomic import atomic
    from terramorph.cli.web import compared
    from terramorph.data import DEFAULT_CACHE
    from terramorph.interop import INT8_LIMITS, QualityLoss, export_int8, export_onnx, note_loss
    from terramorph.pairs import has_split

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / output.name
        with Meter("calibrating") as meter:
            export_int8(bundle, made, dataset, images=images, cache=cache or DEFAULT_CACHE, progress=meter.update)
        if has_split(dataset, "val"):
            plain = export_onnx(bundle, Path(folder) / "float32.onnx", mode="raster")
            before, after = compared(plain, made, "int8", dataset, SCORED)
            loss = QualityLoss.between(before, after, "pairs of val", INT8_LIMITS)
            note_loss(made, loss)
            say(f"Loss of quality by 8 bits: {loss}.")
            if loss.refused:
                warn(f"{output} lost too much quality; translate takes it only with --accept-quality-loss.")
        else:
            warn(f"{dataset} has no split val; the loss of quality was not measured.")
        with atomic(output, make_folder=True) as part:
            part.write_bytes(made.read_bytes())
