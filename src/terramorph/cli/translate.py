"""`terramorph translate`: translation of images, or of one raster of any size with its georeference."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from terramorph.cli import choices
from terramorph.cli.choices import Asset, Dem, Height, Raw, Resolution, Terms, argument, from_here, option, read_options
from terramorph.cli.console import JsonSteps, Steps, say, say_json, warn
from terramorph.cli.reporting import StoppedBefore

if TYPE_CHECKING:
    from terramorph.translate import Model
    from terramorph.translate.cluster import DaskEngine

NAME = "translate"
_GO_ON = "run the same command again to resume"
EXAMPLE = (
    "Example: terramorph translate runs/maps/model.safetensors ortho.tif map.tif | "
    "terramorph translate runs/maps/model.safetensors city.mbtiles map.pmtiles --resolution 1 | "
    "terramorph translate maps country.vrt country.tif --scheduler tcp://10.0.0.1:8786"
)


Kind = Literal["cog", "classes", "probability", "entropy", "polygons", "xyz", "mbtiles", "pmtiles"]


def run(
    bundle: choices.ModelPath,
    source: Annotated[str, argument("Raster of any size, tiles or vectors; or a folder of images.", metavar="INPUT")],
    output: Annotated[
        Path,
        argument("Output: .tif, .mbtiles or .pmtiles (also s3://BUCKET/NAME), .gpkg, an image, or a folder of images."),
    ],
    mode: choices.ModeOption = None,
    samples: Annotated[int, option("Number of outputs drawn for each image (mode paper).", min=1)] = 1,
    uncertainty: Annotated[Path | None, option("GeoTIFF for the standard deviation over the samples.")] = None,
    resolution: Resolution = None,
    match_source: Annotated[bool, option("Resample the output to the input's grid.", "--match-source")] = False,
    area: Annotated[
        Path | None,
        option("Translate only this area: polygons (GeoJSON, GeoPackage) or west,south,east,north in degrees."),
    ] = None,
    to: Annotated[Kind | None, option("Kind of output. Default: by the suffix of OUTPUT.")] = None,
    stac: Annotated[
        bool, option("Write a STAC item beside the GeoTIFF (.json), and one of the model.", "--stac")
    ] = False,
    crs: Annotated[str | None, option("CRS of an input that does not state it, such as EPSG:32633.")] = None,
    bands: Annotated[str | None, option("Input bands by number, in the model's order, such as 3,2,1.")] = None,
    nodata: Annotated[str | None, option("Nodata value that the input does not declare.")] = None,
    raw: Raw = False,
    height: Height = None,
    dem: Dem = None,
    asset: Asset = None,
    zoom: Annotated[int | None, option("Zoom of input tiles. Default: the finest that covers the ground.")] = None,
    terms: Terms = None,
    style: Annotated[
        str, option("Style of the map, as input or output: classic, osm, classes, or a TOML file.")
    ] = "classic",
    device: Annotated[choices.Device, option("Device to compute on.")] = "auto",
    precision: choices.PrecisionOption = "auto",
    ensemble: choices.Ensemble = False,
    backend: Annotated[
        choices.Backend | None,
        option("Backend: torch for bundles; onnxruntime (default) or openvino for .onnx files."),
    ] = None,
    accept_quality_loss: Annotated[
        bool, option("Accept an 8-bit .onnx file that lost too much quality at export.", "--accept-quality-loss")
    ] = False,
    seed: Annotated[int, option("Seed of the noise in mode paper.", min=0, max=choices.MAX_SEED)] = 0,
    skip_bad: Annotated[bool, option("Skip and list images that cannot be read.", "--skip-bad")] = False,
    any_resolution: Annotated[
        bool, option("Accept an input whose ground resolution differs from the model's.", "--any-resolution")
    ] = False,
    restart: Annotated[
        bool, option("Discard the parts of another, unfinished translation to OUTPUT.", "--restart")
    ] = False,
    pairs: Annotated[
        bool | None,
        option("Treat images as A|B pairs and translate one half. Default: recognised.", "--pairs/--no-pairs"),
    ] = None,
    overwrite: Annotated[
        bool, option("Replace existing outputs.", "--overwrite", envvar="TERRAMORPH_OVERWRITE")
    ] = False,
    scheduler: Annotated[str | None, option("Compute on the workers of a Dask scheduler: tcp://HOST:PORT.")] = None,
    workers: Annotated[int | None, option("Compute in this many processes on this machine.")] = None,
    progress: Annotated[
        choices.Progress, option("Progress as text for people, or as lines of JSON for programs.")
    ] = "text",
    allow: choices.Allow = None,
) -> None:
    """Translate a raster of any size, an image, or a folder of images; every pixel's place is kept."""
    from terramorph.translate import load

    settings: dict[str, Any] = {
        "mode": mode,
        "device": device,
        "precision": precision,
        "backend": backend,
        "accept_quality_loss": accept_quality_loss,
        "seed": seed,
        "any_resolution": any_resolution,
        "allowed": from_here(allow),
        "ensemble": ensemble,
        "classes": style if to in ("probability", "entropy") else None,
    }
    opening: dict[str, Any] = {
        "options": read_options(bands, nodata, raw, height=height, dem=dem, asset=asset),
        "crs": crs,
        "zoom": zoom,
        "terms": terms,
        "style": style,
        "cache": _tile_cache(output),
    }
    steps = Steps() if progress == "text" else JsonSteps()
    with ExitStack() as stack:
        if scheduler is None and workers is None:
            model, engine = load(bundle, **settings), None
        else:
            model, engine = _on_cluster(stack, bundle, settings, source, opening, scheduler, workers)
        try:
            written = model.translate_to(
                source,
                output,
                resolution=resolution,
                match_source=match_source,
                area=area,
                samples=samples,
                uncertainty=uncertainty,
                kind=to,
                skip_bad=skip_bad,
                pairs=pairs,
                overwrite=overwrite,
                restart=restart,
                stac=stac,
                engine=engine,
                progress=stack.enter_context(steps).update,
                **opening,
            )
        except KeyboardInterrupt:  # typer would end without a word
            raise StoppedBefore(f"Stopped: {output} is not finished; {_GO_ON}.", 128 + signal.SIGINT) from None
    for sentence in written.skipped:
        warn(f"skipped: {sentence}")
    if progress == "json":
        say_json(output=str(output), images=len(written.files))
    else:
        say(f"{output} written." if len(written.files) == 1 else f"{output}: {len(written.files)} files written.")


def _tile_cache(output: Path) -> Path:
    """Return the folder for tiles of a server until the output is finished: beside it if it is a local file."""
    from terramorph.data import DEFAULT_CACHE
    from terramorph.raster.storage import as_remote

    folder = DEFAULT_CACHE if as_remote(output) is not None else output.parent
    return folder / f".{output.name}.tiles"


def _on_cluster(
    stack: ExitStack,
    bundle: str,
    settings: dict[str, Any],
    source: str,
    opening: dict[str, Any],
    scheduler: str | None,
    workers: int | None,
) -> tuple[Model, DaskEngine]:
    """Return the model, and an engine whose workers open model and source themselves, by absolute paths."""
    from terramorph.bundle import find_bundle
    from terramorph.sources import open_source
    from terramorph.translate import load
    from terramorph.translate.cluster import Cluster, DaskEngine
    from terramorph.translate.plan import opening_for

    cluster = Cluster(scheduler, workers)
    # Here only the model's header is used; a machine that hands out windows may have no GPU.
    model = load(bundle, **{**settings, "device": "cpu", "precision": "fp32"})
    there = {"style": _absolute(opening["style"]), "cache": opening["cache"].absolute()}
    opened = partial(open_source, _absolute(source), **(opening_for(model, opening) | there))
    place = bundle if "://" in bundle else str(find_bundle(bundle).absolute())
    return model, DaskEngine(stack.enter_context(cluster), partial(load, place, **settings), opened)


def _absolute(spec: str) -> str:
    """Return an existing path as an absolute one; anything else unchanged."""
    return str(Path(spec).absolute()) if Path(spec).exists() else spec
