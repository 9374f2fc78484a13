"""`terramorph translate`: images in, images out; or one raster of any size, with its place kept."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from terramorph.cli.choices import MAX_SEED, Device, Mode, Precision
from terramorph.cli.console import Meter, Steps, say, warn
from terramorph.errors import ConfigError

NAME = "translate"
EXAMPLE = (
    "Example: terramorph translate runs/maps/model.safetensors ortho.tif map.tif | "
    "terramorph translate runs/maps/model.safetensors city.mbtiles map.pmtiles --resolution 1"
)


class Kind(StrEnum):
    """What the output is."""

    cog = "cog"
    xyz = "xyz"
    mbtiles = "mbtiles"
    pmtiles = "pmtiles"


def run(
    bundle: Annotated[str, typer.Argument(help="A model.safetensors, a run's folder, or a name in the folder models.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A raster of any size or kind that `prepare` takes; or a folder of images."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="A GeoTIFF, .mbtiles, .pmtiles, an image, or a folder of images.")],
    mode: Annotated[
        Mode | None, typer.Option(help="raster: fixed statistics; paper: batch statistics. Default: the bundle's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draw so many outputs of each image (mode paper).")] = 1,
    uncertainty: Annotated[Path | None, typer.Option(help="GeoTIFF for the standard deviation of the draws.")] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Metres a pixel at which the model sees the ground. Default: its own.")
    ] = None,
    match_source: Annotated[
        bool, typer.Option("--match-source", help="Bring the output back to the input's grid.")
    ] = False,
    area: Annotated[Path | None, typer.Option(help="Polygons (GeoJSON, GeoPackage): only there.")] = None,
    to: Annotated[Kind | None, typer.Option(help="Kind of output. Default: by its name.")] = None,
    crs: Annotated[str | None, typer.Option(help="EPSG:n of an input that does not say it.")] = None,
    zoom: Annotated[int | None, typer.Option(help="Of the tiles of a server.")] = None,
    terms: Annotated[str | None, typer.Option(help="Licence or terms under which tiles of a server are used.")] = None,
    style: Annotated[str, typer.Option(help="Of vectors as input: classic, osm, classes, or a TOML file.")] = "classic",
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 in mode raster where it is native, otherwise fp32.")
    ] = Precision.auto,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the noise in mode paper.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="List and leave out images of a folder that cannot be read.")
    ] = False,
    any_resolution: Annotated[
        bool, typer.Option("--any-resolution", help="Accept input of another ground resolution than the model's.")
    ] = False,
) -> None:
    """Translate a raster of any size, an image, or a folder of images; every pixel's place is kept."""
    settings: dict[str, Any] = {
        "mode": mode.value if mode else None,
        "device": device.value,
        "precision": precision.value,
        "seed": seed,
        "any_resolution": any_resolution or resolution is not None,
    }
    # Several draws without their spread are several images, as NAME_1, NAME_2 ...
    several = samples > 1 and uncertainty is None
    kind = to or (None if several else _kind_of(source, output))
    if kind is not None:
        from terramorph.prepare import Opening, open_side
        from terramorph.translate import SweepOptions, load, read_area, sweep

        if skip_bad:
            raise ConfigError("--skip-bad is for folders of images; a raster is translated whole or not at all.")
        options = SweepOptions(
            resolution=resolution,
            match_source=match_source,
            area=None if area is None else read_area(area),
            samples=samples,
            uncertainty=uncertainty,
            kind=kind.value,
        )
        translator = load(bundle, **settings)
        how, cache = Opening(style=style, terms=terms), output.with_name(f".{output.name}.tiles")
        with open_side(source, crs, how, zoom, cache) as opened, Steps() as steps:
            sweep(translator, opened, output, options, progress=steps.update)
        say(f"{output}: 1 image written.")
        return
    if resolution is not None or match_source or area is not None or uncertainty is not None:
        raise ConfigError(
            f"--resolution, --match-source, --area and --uncertainty are for rasters with a place; {output} is no "
            "GeoTIFF or tile archive."
        )
    from terramorph.translate import translate_files

    with Meter("translating") as meter:
        written = translate_files(
            bundle, source, output, samples=samples, skip_bad=skip_bad, progress=meter.update, **settings
        )
    for sentence in written.skipped:
        warn(f"skipped: {sentence}")
    say(f"{output}: {len(written)} image{'s' * (len(written) != 1)} written.")


def _kind_of(source: str, output: Path) -> Kind | None:
    """The kind of raster that an output's name means; None for images, and for folders of them."""
    suffix = output.suffix.lower()
    if suffix in (".mbtiles", ".pmtiles"):
        return Kind(suffix[1:])
    if suffix in (".tif", ".tiff") and not output.is_dir():
        return Kind.cog
    if "{z}" in source:
        raise ConfigError(
            f"{output} does not tell what to make of tiles; name it .tif, .mbtiles or .pmtiles, or give --to."
        )
    return None
