"""`terramorph export`: conversion of a bundle to ONNX, in float32 or 8 bits, or for browsers with small weights.

The latter, whose loss of quality is measured, are written for `draw` too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terramorph.cli import choices
from terramorph.cli.choices import argument, from_here, option
from terramorph.cli.console import Meter, say, warn
from terramorph.errors import ConfigError, InputError

if TYPE_CHECKING:
    from terramorph.bundle import Bundle
    from terramorph.interop import QualityLoss, Store

NAME = "export"
EXAMPLE = (
    "Example: terramorph export runs/maps/model.safetensors maps.onnx --mode raster | "
    "terramorph export runs/maps/model.safetensors maps-int8.onnx --int8 --calibrate data/maps | "
    "terramorph export town-sat2map deep.onnx --deepness | "
    "terramorph export town-map2sat web.onnx --web --store int8"
)
SCORED = 500
"""Most pairs of val on which the loss of quality is measured, for more take minutes."""
SCORED_SMALL = 64
"""Number of pairs on which that of small weights for browsers is measured."""
TOWN_SEEDS = 100, 101
"""Seeds of towns that no published model was trained on."""


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


class RefusedLossError(ConfigError):
    """Loss of quality by small weights above the limit."""


def write_web(
    bundle: Bundle,
    output: Path,
    store: Store,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    force: bool = False,
) -> None:
    """Write a network with small weights, with its measured loss of quality as metadata.

    Raises:
        RefusedLossError: If the loss is above its limit, without `force`.
    """
    from terramorph.atomic import atomic
    from terramorph.interop import export_web, note_loss

    with tempfile.TemporaryDirectory() as folder:
        made = export_web(bundle, Path(folder) / "web.onnx", store=store)
        loss = _loss(bundle, made, store, data, weights, Path(folder))
        if loss is not None:
            note_loss(made, loss)
            if loss.refused and not force:
                raise RefusedLossError(
                    f"Weights in {store} cost too much: {loss}, and the limit is {loss.limit}; "
                    f"{'use `store` fp16, or ' if store == 'int8' else ''}accept the loss with `force`."
                )
        with atomic(output, make_folder=True) as part:
            part.write_bytes(made.read_bytes())
    if loss is None:
        warn("The quality loss of small weights was not measured; give pairs with --data.")
    else:
        say(f"Weights in {store}: {loss}.")


def smallest(bundle: Bundle, output: Path, *, data: Path | None, weights: Path | None) -> None:
    """Write a network in 8 bits where the measured loss of quality is small, else in fp16."""
    if data is not None or _is_of_towns(bundle):
        try:
            return write_web(bundle, output, "int8", data=data, weights=weights)
        except RefusedLossError:
            say("Weights in int8 cost too much quality, so they are stored in fp16.")
    write_web(bundle, output, "fp16", data=data, weights=weights)


def _is_of_towns(bundle: Bundle) -> bool:
    return "town" in str(bundle.header.data.get("name", ""))


def _loss(
    bundle: Bundle, made: Path, store: Store, data: Path | None, weights: Path | None, folder: Path
) -> QualityLoss | None:
    """Return the loss of quality of the file's weights; None without pairs."""
    from terramorph.interop import WEB_LIMITS, QualityLoss, export_web

    if data is None and not _is_of_towns(bundle):
        return None
    of = "pairs of val"
    if data is None:
        data, of = _town_pairs(folder / "town", bundle.header.size), "pairs of procedural towns"
    plain = export_web(bundle, folder / "float32.onnx", store="fp32")
    before, after = compared(plain, made, store, data, SCORED_SMALL, weights)
    return QualityLoss.between(before, after, of, WEB_LIMITS)


def _town_pairs(folder: Path, size: int) -> Path:
    from terramorph.town import make_town, write_town_pairs

    with Meter("making towns", len(TOWN_SEEDS)) as meter:
        for number, seed in enumerate(TOWN_SEEDS, start=1):
            town = make_town(max(768, 2 * size), seed)
            made = folder / str(seed)
            write_town_pairs(town, made, tile=size, stride=size, limit=(1, SCORED_SMALL // len(TOWN_SEEDS)))
            for pair in (made / "val").iterdir():
                target = folder / "val" / f"{seed}_{pair.name}"
                target.parent.mkdir(exist_ok=True)
                pair.rename(target)
            meter.update(number)
    return folder


def compared(
    plain: Path, made: Path, called: str, data: Path, limit: int, weights: Path | None = None
) -> list[dict[str, Any]]:
    """Return the scores of a float32 export and of a smaller one on the same pairs of val, in the same runtime."""
    from terramorph.evaluation import evaluate

    found = []
    for network, label in ((plain, "scoring float32"), (made, f"scoring {called}")):
        with Meter(label) as meter:
            found.append(evaluate(network, data, split="val", limit=limit, weights=weights, progress=meter.update))
    return found
