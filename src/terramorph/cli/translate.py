"""`terramorph translate`: images in, images out; or one raster of any size, with its place kept."""

from __future__ import annotations

import signal
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from terramorph.cli.choices import MAX_SEED, Backend, Device, Mode, Precision
from terramorph.cli.console import Meter, Steps, say, warn
from terramorph.cli.interrupt import StoppedBefore
from terramorph.cli.reading import read_options
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.raster import ReadOptions, Source
    from terramorph.translate import Model, SweepOptions

NAME = "translate"
_GO_ON = "run the same command again, it goes on from here"
EXAMPLE = (
    "Example: terramorph translate runs/maps/model.safetensors ortho.tif map.tif | "
    "terramorph translate runs/maps/model.safetensors city.mbtiles map.pmtiles --resolution 1 | "
    "terramorph translate maps country.vrt country.tif --scheduler tcp://10.0.0.1:8786"
)


class Kind(StrEnum):
    """What the output is."""

    cog = "cog"
    xyz = "xyz"
    mbtiles = "mbtiles"
    pmtiles = "pmtiles"


def run(
    bundle: Annotated[str, typer.Argument(help="A model.safetensors, a run's folder, a model's name, or an .onnx.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A raster of any size or kind that `prepare` takes; or a folder of images."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="A GeoTIFF, .mbtiles or .pmtiles, here or s3://BUCKET/NAME; an image or a folder of them."),
    ],
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
    bands: Annotated[
        str | None, typer.Option(help="Bands of the input by number, in the model's order, such as 3,2,1.")
    ] = None,
    nodata: Annotated[str | None, typer.Option(help="Value without data that the input does not declare.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Stored values, without the file's scale and offset.")] = False,
    height: Annotated[
        float | None, typer.Option(help="Metres of the ground of a scene placed by RPCs; default: their mean.")
    ] = None,
    dem: Annotated[str | None, typer.Option(help="Raster of ground heights, for scenes placed by RPCs.")] = None,
    zoom: Annotated[int | None, typer.Option(help="Of tiles; default: the finest that covers the ground.")] = None,
    terms: Annotated[str | None, typer.Option(help="Licence or terms under which tiles of a server are used.")] = None,
    style: Annotated[str, typer.Option(help="Of vectors as input: classic, osm, classes, or a TOML file.")] = "classic",
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 in mode raster where it is native, otherwise fp32.")
    ] = Precision.auto,
    backend: Annotated[
        Backend | None,
        typer.Option(help="What runs it: torch for bundles; onnxruntime (default) or openvino for an .onnx."),
    ] = None,
    accept_quality_loss: Annotated[
        bool, typer.Option("--accept-quality-loss", help="Take an 8-bit .onnx that lost too much when it was made.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the noise in mode paper.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="List and leave out images of a folder that cannot be read.")
    ] = False,
    any_resolution: Annotated[
        bool, typer.Option("--any-resolution", help="Accept input of another ground resolution than the model's.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what another, unfinished translation to OUTPUT has made.")
    ] = False,
    pairs: Annotated[
        bool | None,
        typer.Option("--pairs/--no-pairs", help="Whether images are A|B pairs, of which one half is translated."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", envvar="TERRAMORPH_OVERWRITE", help="Replace outputs that are there already."),
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Compute on the workers of a Dask scheduler, tcp://HOST:PORT (docs/scale.md).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Compute in so many processes here.")] = None,
) -> None:
    """Translate a raster of any size, an image, or a folder of images; every pixel's place is kept."""
    from terramorph.raster.storage import as_remote

    settings: dict[str, Any] = {
        "mode": mode.value if mode else None,
        "device": device.value,
        "precision": precision.value,
        "backend": backend.value if backend else None,
        "accept_quality_loss": accept_quality_loss,
        "seed": seed,
        "any_resolution": any_resolution or resolution is not None,
    }
    reading = read_options(bands, nodata, raw, height=height, dem=dem)
    # Several draws without their spread are several images, as NAME_1, NAME_2 ...
    several = samples > 1 and uncertainty is None and to is None
    kind = to or (None if several else _kind_of(source, output))
    if kind is None and as_remote(output) is not None:
        raise ConfigError(f"{as_remote(output)} is no GeoTIFF or tile archive; name it .tif, .mbtiles or .pmtiles.")
    clustered = scheduler is not None or workers is not None
    if kind is not None:
        from terramorph.translate import SweepOptions, read_area

        if skip_bad:
            raise ConfigError("--skip-bad is for folders of images; a raster is translated whole or not at all.")
        options = SweepOptions(
            resolution=resolution,
            match_source=match_source,
            area=None if area is None else read_area(area),
            samples=samples,
            uncertainty=uncertainty,
            kind=kind.value,
            restart=restart,
            overwrite=overwrite,
            pairs=pairs,
        )
        how = {"crs": crs, "style": style, "terms": terms, "zoom": zoom, "cache": _tile_cache(output)}
        imagery = _Imagery(source, reading, how)
        try:
            if clustered:
                _sweep_on_cluster(bundle, settings, imagery, output, options, scheduler, workers)
            else:
                _sweep(bundle, settings, imagery, output, options)
        except KeyboardInterrupt:  # typer would end without a word
            raise StoppedBefore(f"Stopped: {output} is not finished; {_GO_ON}.", 128 + signal.SIGINT) from None
        say(f"{output}: 1 image written.")
        return
    if clustered:
        raise ConfigError("--scheduler and --workers are for rasters of any size; leave them out for images.")
    placed = {
        "--resolution": resolution is not None,
        "--match-source": match_source,
        "--area": area is not None,
        "--uncertainty": uncertainty is not None,
        "--crs": crs is not None,
        "--zoom": zoom is not None,
        "--terms": terms is not None,
        "--style": style != "classic",
        "--restart": restart,
    }
    if any(placed.values()):
        given = " and ".join(name for name, is_given in placed.items() if is_given)
        raise ConfigError(f"For {given} the output must be a GeoTIFF or a tile archive, and {output} is neither.")
    from terramorph.translate import load, translate_files

    translator = load(bundle, **settings)
    with Meter("translating") as meter:
        written = translate_files(
            translator,
            source,
            output,
            samples=samples,
            skip_bad=skip_bad,
            options=reading,
            overwrite=overwrite,
            pairs=pairs,
            progress=meter.update,
        )
    for sentence in written.skipped:
        warn(f"skipped: {sentence}")
    say(f"{output}: {len(written)} image{'s' * (len(written) != 1)} written.")


class _Imagery(NamedTuple):
    """What `open_source` takes."""

    spec: str
    options: ReadOptions
    how: dict[str, Any]

    def opener(self) -> partial[Source]:
        """Opens it; can be sent to a worker."""
        from terramorph.sources import open_source

        return partial(open_source, self.spec, self.options, **self.how)

    def for_model(self, translator: Model) -> _Imagery:
        """The same with the names of the model's bands, if bands are picked: their order is the user's."""
        names = translator.header.source.names if self.options.bands else None
        return self._replace(options=replace(self.options, names=names))

    def seen_from_elsewhere(self) -> _Imagery:
        """The same for a process that works in another folder."""
        how = self.how | {"style": _absolute(self.how["style"]), "cache": self.how["cache"].absolute()}
        return self._replace(spec=_absolute(self.spec), how=how)


def _tile_cache(output: Path) -> Path:
    """Where tiles of a server are kept until the output stands: beside it, if that is on this machine."""
    from terramorph.data import DEFAULT_CACHE
    from terramorph.raster.storage import as_remote

    folder = DEFAULT_CACHE if as_remote(output) is not None else output.parent
    return folder / f".{output.name}.tiles"


def _sweep(bundle: str, settings: dict[str, Any], imagery: _Imagery, output: Path, options: SweepOptions) -> None:
    """In this process."""
    from terramorph.translate import load, sweep

    translator = load(bundle, **settings)
    _warn_of_instance_norm(translator)
    with imagery.for_model(translator).opener()() as source, Steps() as steps:
        sweep(translator, source, output, options, steps.update)


def _warn_of_instance_norm(translator: Model) -> None:
    if translator.header.architecture.settings.get("norm") == "instance":
        warn(
            "this network has instance norm, which looks at the statistics of each window: where windows differ in "
            "content, their tones may differ too. Batch norm has no such effect."
        )


def _sweep_on_cluster(
    bundle: str,
    settings: dict[str, Any],
    imagery: _Imagery,
    output: Path,
    options: SweepOptions,
    scheduler: str | None,
    workers: int | None,
) -> None:
    """On workers that open bundle and source for themselves."""
    from terramorph.translate import load, sweep
    from terramorph.translate.cluster import Cluster, DaskEngine

    cluster = Cluster(scheduler, workers)
    # Here the model is only asked what it is; a machine that hands out windows may have no GPU.
    translator = load(bundle, **{**settings, "device": "cpu", "precision": "fp32"})
    _warn_of_instance_norm(translator)
    imagery = imagery.for_model(translator)
    with imagery.opener()() as source, cluster, Steps() as steps:
        model = partial(load, _absolute_bundle(bundle), **settings)
        engine = DaskEngine(cluster, model, imagery.seen_from_elsewhere().opener())
        sweep(translator, source, output, options, steps.update, engine)


def _absolute(spec: str) -> str:
    """A path that is there, from the root; what is no path stays as it is."""
    return str(Path(spec).absolute()) if Path(spec).exists() else spec


def _absolute_bundle(bundle: str) -> str:
    """Likewise for a bundle, which may be a name in the folder of models."""
    from terramorph.bundle import find_bundle

    return bundle if "://" in bundle else str(find_bundle(bundle).absolute())


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
