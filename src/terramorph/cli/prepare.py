"""`terramorph prepare`: a dataset of pairs from rasters, tiles and vectors; `prepare inspect`, its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from terramorph.cli.choices import (
    Asset,
    Classes,
    Dem,
    Height,
    Raw,
    Terms,
    argument,
    option,
    refuse_without_effect,
    sides,
)
from terramorph.cli.console import Steps, say, show_table, warn
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.pairs import Manifest
    from terramorph.prepare import Inputs, Options

NAME = "prepare"
EXAMPLE = (
    "Example: terramorph prepare data/town --source ortho.tif --target streets.gpkg --resolution 0.6 | "
    "terramorph prepare inspect data/town"
)


Split = Literal["blocks", "by-list", "by-area"]


def run(
    context: typer.Context,
    words: Annotated[
        list[str],
        argument("Output folder; or the word inspect and a dataset's folder.", metavar="OUT | inspect DATASET"),
    ],
    source: Annotated[
        list[str] | None, option("Imagery: GeoTIFF, VRT, mosaic, tile folder, MBTiles, PMTiles, URL with {z}/{x}/{y}.")
    ] = None,
    target: Annotated[
        list[str] | None, option("Map: as --source, or vectors, which are rasterized. One for each --source.")
    ] = None,
    pairs: Annotated[list[str] | None, option("Folder of existing pairs, instead of --source and --target.")] = None,
    name: Annotated[list[str] | None, option("Prefix of the pair ids of an area. Default: the file's name.")] = None,
    tile: Annotated[int, option("Tile size in pixels.")] = 256,
    resolution: Annotated[float | None, option("Ground resolution in metres per pixel.")] = None,
    zoom: Annotated[int | None, option("Web Mercator zoom (256 px tiles), instead of --resolution.")] = None,
    pixel_grid: Annotated[
        bool, option("Keep the source's pixels without resampling (the default).", "--pixel-grid")
    ] = False,
    overlap: Annotated[int, option("Overlap of neighbouring tiles in pixels.")] = 0,
    bounds: Annotated[str | None, option("Limit to west,south,east,north in degrees.")] = None,
    split: Annotated[Split, option("How to split: by blocks of ground, a list of ids, or polygons.")] = "blocks",
    split_file: Annotated[
        Path | None,
        option("For by-list: CSV with the columns id,split. For by-area: polygons with an attribute split."),
    ] = None,
    fractions: Annotated[str, option("Shares of train,val,test, for blocks.")] = "0.8,0.1,0.1",
    block: Annotated[int | None, option("Side of a block in tiles.")] = None,
    buffer: Annotated[
        float | None, option("Distance in metres between tiles of different splits. Default: they do not touch.")
    ] = None,
    seed: Annotated[int, option("Seed for drawing blocks.")] = 0,
    style: Annotated[str, option("Style of rasterized vectors: classic, osm, classes, or a TOML file.")] = "classic",
    table: Annotated[
        str | None,
        option("Table from tags and layers to classes: osm, protomaps, plain, or a TOML file. Default: by content."),
    ] = None,
    kind: Annotated[str | None, option("Class of all vectors of a file that does not state it.")] = None,
    register: Annotated[bool, option("Move the map by its consistent shift.", "--register")] = False,
    clean_labels: Annotated[bool, option("Paint over text on the map.", "--clean-labels")] = False,
    max_nodata: Annotated[float, option("Leave out pairs with more pixels without data.")] = 0.1,
    drop_blank: Annotated[
        float | None, option("Leave out pairs of which a side is one colour on more than this share.")
    ] = None,
    drop_duplicates: Annotated[bool, option("Keep one of pairs that look alike.", "--drop-duplicates")] = False,
    skip_bad: Annotated[bool, option("List and leave out tiles that cannot be read.", "--skip-bad")] = False,
    source_crs: Annotated[str | None, option("EPSG:n of sources that do not state it.")] = None,
    target_crs: Annotated[str | None, option("EPSG:n of targets that do not state it.")] = None,
    bands: Annotated[
        list[str] | None, option("Bands of sources by number, in order, such as 3,2,1; or target=1,2,3.")
    ] = None,
    nodata: Annotated[
        list[str] | None, option("Nodata value that files do not declare; target=0 for one side.")
    ] = None,
    raw: Raw = False,
    categorical: Annotated[
        Classes | None, option("Sides that hold class values (resampled by nearest neighbour). Default: by content.")
    ] = None,
    height: Height = None,
    dem: Dem = None,
    asset: Asset = None,
    layout: Annotated[str | None, option("Layout of tile folders. Default: by content.")] = None,
    terms: Terms = None,
    cache: Annotated[Path | None, option("Cache folder for tiles from a server. Default: in OUT.")] = None,
) -> None:
    """Cut imagery and maps into training pairs, split by place. Run again to resume, or to add areas."""
    if words[0] == "inspect" and len(words) == 2:
        others = [str(parameter.name) for parameter in context.command.params if parameter.name != "words"]
        refuse_without_effect(context, others, "on `prepare inspect`")
        return _inspect(Path(words[1]))
    if len(words) != 1:
        raise ConfigError(
            f"OUT must be one folder, got {' '.join(words)!r}; write `terramorph prepare OUT --source ... --target "
            "...` or `terramorph prepare inspect DATASET`."
        )
    from terramorph.prepare import Inputs, Opening, Options, Scale, SplitRule

    if pixel_grid and (resolution is not None or zoom is not None):
        raise ConfigError("--pixel-grid means the source's own pixels; leave out --resolution and --zoom.")
    shares = _numbers("--fractions", fractions, 3)
    box = None if bounds is None else _numbers("--bounds", bounds, 4)
    options = Options(
        tile=tile,
        overlap=overlap,
        scale=Scale(resolution, zoom),
        bounds=None if box is None else (box[0], box[1], box[2], box[3]),
        split=SplitRule(split, (shares[0], shares[1], shares[2]), block, buffer, split_file, seed),
        register=register,
        clean_labels=clean_labels,
        max_nodata=max_nodata,
        drop_blank=drop_blank,
        drop_duplicates=drop_duplicates,
        skip_bad=skip_bad,
        opening=Opening(
            source_crs,
            target_crs,
            style,
            table,
            kind,
            layout,
            terms,
            cache,
            *sides(bands or [], nodata or [], raw, categorical, height, dem, asset),
        ),
    )
    return _prepare(Path(words[0]), _areas(source or [], target or [], pairs or [], name or [], Inputs), options)


def _areas(
    sources: list[str], targets: list[str], pairs: list[str], names: list[str], inputs: type[Inputs]
) -> list[Inputs]:
    if len(sources) != len(targets):
        raise ConfigError(f"Every --source needs a --target, got {len(sources)} and {len(targets)}.")
    sides: list[tuple[str, str | None]] = [*zip(sources, targets, strict=True), *((folder, None) for folder in pairs)]
    if names and len(names) != len(sides):
        raise ConfigError(f"All areas or none need a --name, got {len(names)} for {len(sides)} areas.")
    given: list[str | None] = [*names] if names else [None] * len(sides)
    return [inputs(a, b, called) for (a, b), called in zip(sides, given, strict=True)]


def _prepare(out: Path, areas: list[Inputs], options: Options) -> None:
    from terramorph.prepare import prepare

    with Steps() as steps:
        manifest = prepare(out, areas, options, progress=steps.update)
    show_manifest(out, manifest)
    wanted = zip(("train", "val", "test"), options.split.fractions, strict=True)
    empty = [split for split, share in wanted if share > 0 and not manifest.counts.get(split)]
    if options.split.method == "blocks" and empty and all(area.grid for area in manifest.areas):
        warn(f"no pair is in {' or '.join(empty)}; use a smaller --block, another --seed or more ground.")


def _inspect(dataset: Path) -> None:
    from terramorph.prepare import inspect, summary

    page = inspect(dataset)
    show_table(str(dataset), _in_words(summary(dataset)))
    say(f"Report: {page}")


def _in_words(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of `summary` with their units, as the page says them."""
    from terramorph.report.numbers import number, percent

    shares = {
        "confident": "shift can be told",
        "misregistered": "of these misregistered",
        "labelled": "under text and icons",
        "blank": "in one colour",
        "hazy": "haze or cloud",
        "nodata": "without data",
        "unmatched": "no shared structure",
        "offset_agreement": "agree on it",
    }
    counts = {
        "strangers": "not in the manifest",
        "missing": "images missing",
        "duplicates": "groups of look-alikes",
        "leaks": "of these across splits",
    }
    lengths = {"median_shift": ("median shift", "px"), "median_shift_m": ("median shift, metres", "m")}
    for key, value in figures.items():
        if key in shares:
            yield shares[key], percent(value)
        elif key in lengths:
            name, unit = lengths[key]
            yield name, None if value is None else f"{number(value)} {unit}"
        elif key == "offset":
            yield "common shift", None if value is None else f"{value[0]:g}, {value[1]:g} px"
        else:
            yield counts.get(key, key.replace("_", " ")), value


def show_manifest(out: Path, manifest: Manifest) -> None:
    show_table(str(out), manifest.counts.items())
    for area in manifest.areas:
        if area.shift is None and manifest.settings["register"]:
            say(f"{area.name}: no common shift was found; the map was not moved.")
        if area.shift is not None:
            say(f"{area.name}: the map was shifted by {-area.shift[0]:g}, {-area.shift[1]:g} px to fit the source.")
    say(f"`terramorph prepare inspect {out}` writes a report; QGIS opens {out / 'footprints.parquet'}.")


def _numbers(option: str, text: str, count: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count:
        raise ConfigError(f"{option} must be {count} numbers with commas between them, got {text!r}.")
    return found
