"""Preparation of a dataset: planned, split, read in strips and cut on all cores; it resumes after any stop."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from terramorph.bands import colours_first
from terramorph.documents import flat
from terramorph.errors import ConfigError, DatasetError, InputError, warn
from terramorph.geo import Grid
from terramorph.pairs import has_split, open_pairs
from terramorph.pairs.manifest import SPLITS, AreaRecord, Manifest, SideRecord
from terramorph.prepare.cut import (
    Cut,
    FolderJob,
    GridJob,
    Job,
    MapLook,
    Part,
    add_block_shifts,
    correlation,
    cut,
    unread,
    value_range,
)
from terramorph.prepare.finish import finish
from terramorph.prepare.journal import FOLDER, Journal, Place, held
from terramorph.prepare.labels import map_palette
from terramorph.prepare.options import Inputs, Options
from terramorph.prepare.places import area_places
from terramorph.prepare.plan import Area, plan_grid
from terramorph.prepare.registration import MIN_CONFIDENCE, locate_common
from terramorph.raster import Raster
from terramorph.raster.source import Source
from terramorph.raster.values import Suspects, count_classes, tell_suspects
from terramorph.redaction import redact
from terramorph.sources import open_source

Progress = Callable[[str, int, int], None]
"""Function of (name of the step, amount done, whole amount)."""

Pictures = tuple[Raster, Raster]
"""Source and target of a tile."""
_SAMPLES, _SAMPLED_PIXELS = 64, 1 << 26
"""Most sampled tiles of an area, for its common shift and the colours of its map; fewer, at least 4, of large ones."""

_OF_PAIRS = {"register", "clean_labels", "max_nodata", "drop_blank", "drop_duplicates", "skip_bad"} | {
    f"opening.{side}.{name}" for side in ("source", "target") for name in ("nodata", "categorical")
}
"""Options that say something about a folder of pairs."""


def prepare(
    out: str | Path, inputs: Sequence[Inputs], options: Options | None = None, progress: Progress | None = None
) -> Manifest:
    """Make a dataset of pairs, resume one, or add areas to it.

    Args:
        out: Folder of the dataset: train, val and test, `manifest.json` and `footprints.parquet`.
        inputs: One or more areas.
        options: Options of cutting, measuring and splitting.
        progress: Receives the progress of each step.

    Returns:
        The manifest, as written to `manifest.json`.

    Raises:
        InputError: If an input cannot be used, or the dataset was begun with other options.
        StorageError: If a file cannot be written; written ones stay, and the same call resumes.
    """
    out, options = Path(out), options or Options()
    tell = progress or (lambda step, done, total: None)
    named = _named(inputs)
    settings = options.plain()
    settings["split"]["content"] = options.split.content()
    journal = Journal(out, settings)
    with held(out), ExitStack() as opened:
        opened.callback(journal.forget_unused)
        if all(one.target is None for one in named) and all(area.grid is None for area in journal.areas):
            _refuse_options_of_rasters(named[0].source, options)
        for one in named:
            plan = _plan_folder if one.target is None else _plan_grid
            job = plan(one, out, options, journal, opened, tell)
            journal.add_area(job.record, [place.id for place in job.places])
            _cut_area(job, out, options, journal, tell)
        return finish(out, journal, options, tell)


def _named(inputs: Sequence[Inputs]) -> list[Inputs]:
    if not inputs:
        raise ConfigError("There is nothing to prepare; give a `source` and a `target`, or a folder of `pairs`.")
    named = [replace(one, name=one.name or _stem(one.source)) for one in inputs]
    names = [str(one.name) for one in named]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two areas would be called {name}; tell them apart with `name`.")
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"An area cannot be called {name!r}; use letters, digits, - and _.")
    return named


def _refuse_options_of_rasters(root: str, options: Options) -> None:
    """Refuse options that would do nothing where all areas are folders of pairs."""
    given, default = flat(options.plain()), flat(Options().plain())
    idle = [name for name, value in given.items() if value != default[name] and name not in _OF_PAIRS]
    if idle:
        names = ", ".join(f"`{'split' if name == 'split.method' else name}`" for name in idle)
        raise ConfigError(
            f"{redact(root)} is a folder of pairs, which keep split and size; leave out {names}: options of rasters."
        )


def _stem(source: str) -> str:
    """Derive the name of an area from the name of its source."""
    last = re.split(r"[?#]", redact(source))[0].rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last).strip("-") or "area"


def _plan_grid(one: Inputs, out: Path, options: Options, journal: Journal, opened: ExitStack, tell: Progress) -> Job:
    """Open the sides of an area, plan its grid and split its tiles."""
    name, how = str(one.name), options.opening
    side = partial(
        open_source,
        zoom=options.scale.zoom,
        any_zoom=True,
        layout=how.layout,
        terms=how.terms,
        cache=how.cache or out / FOLDER / "tiles",
        style=how.style,
        table=how.table,
        kind=how.kind,
    )
    source = opened.enter_context(side(one.source, how.source, crs=how.source_crs))
    target = opened.enter_context(side(str(one.target), how.target, crs=how.target_crs))
    if None not in (source.grid, target.grid) and (how.style, how.table, how.kind) != ("classic", None, None):
        raise ConfigError(f"`style`, `table` and `kind` are for vectors, and {name} has none; leave them out.")
    area = Area(name, source, target, plan_grid(source, target, options.scale, options.tile, options.ground))
    places = area_places(area, options, journal)
    labelled = target.grid is not None and _may_have_labels(target)  # rasterized vectors have no text

    def read(place: Place) -> Pictures:
        grid = area.grid.crop(place.y, place.x, options.tile, options.tile)
        return source.read(grid), target.read(grid)

    samples: list[Pictures] = []
    if labelled or options.register or any(np.dtype(side.dtype) != np.uint8 for side in (source, target)):
        samples = _sampled(places, read, name, options, tell)
    sides = [
        _record(one.source, source.fingerprint(), source, _first(journal, name, "source"), bool(how.source.bands)),
        _record(str(one.target), target.fingerprint(), target, _first(journal, name, "target"), bool(how.target.bands)),
    ]
    record, samples = _described(name, sides, samples, area.grid, options)
    return GridJob(record, places, area, options.tile, _look(samples, options) if labelled else None)


def _plan_folder(one: Inputs, out: Path, options: Options, journal: Journal, opened: ExitStack, tell: Progress) -> Job:
    """Find the pairs of a folder that is paired already."""
    root, name, how = Path(one.source), str(one.name), options.opening
    if how.source.bands or how.target.bands or how.source.raw or how.source.nodata != how.target.nodata:
        raise ConfigError(
            f"Bands, raw values and nodata of one side are options of rasters, and {root} is a folder of pairs; leave "
            "them out."
        )
    folders = {
        split: open_pairs(root, split, skip_bad=options.skip_bad, nodata=how.source.nodata)
        for split in SPLITS
        if has_split(root, split)
    }
    if not folders:
        open_pairs(root, "train")  # raises with the reason
    places: list[Place] = []
    skipped: dict[str, str] = {}
    for split, folder in folders.items():
        for row, pair in enumerate(folder.ids):
            places.append(_folder_place(name, f"{split}_{pair}", row, split))
        for row, why in enumerate(folder.skipped, start=len(folder)):
            places.append(_folder_place(name, f"{split}_skipped-{row - len(folder) + 1}", row, None))
            skipped[places[-1].id] = why

    def read(place: Place) -> Pictures:
        pair = folders[str(place.split)].read(place.row)
        return pair.a, pair.b

    samples = _sampled([place for place in places if place.split], read, name, options, tell)
    if not samples:
        raise DatasetError(f"None of the sampled pairs of {root} can be read; give another folder.")
    digest = "".join(folder.fingerprint() for folder in folders.values())
    sides = [
        _record(one.source, digest, side, _first(journal, name, which), False)
        for side, which in zip(samples[0], ("source", "target"), strict=True)
    ]
    record, samples = _described(name, sides, samples, None, options)
    look = _look(samples, options) if _may_have_labels(samples[0][1]) else None
    categorical = how.target.categorical
    if categorical is None and record.shift is not None:
        categorical = _holds_classes([target for _, target in samples], root)
    return FolderJob(record, places, folders, skipped, look, bool(categorical))


def _folder_place(area: str, name: str, row: int, split: str | None) -> Place:
    dropped = "unreadable" if split is None else None
    return Place(id=f"{area}_{name}", area=area, split=split, dropped=dropped, row=row, col=0, y=0, x=0)


def _holds_classes(targets: Sequence[Raster], root: Path) -> bool:
    """Return whether targets hold classes by their values, as sources of rasters decide it."""
    if targets[0].count > 1 or targets[0].dtype.kind not in "ui":
        return False
    found = count_classes([target.pixels[0] for target in targets])
    if found is not None:
        warn(
            f"The targets of {root} hold {found} values, as rasters of classes do: they are moved by whole pixels; say "
            "`categorical=False` if they are measurements."
        )
    return found is not None


def _first(journal: Journal, name: str, which: str) -> SideRecord | None:
    """Return a side of the first area of a dataset, which sets bands and units; None for that area itself."""
    return next((getattr(area, which) for area in journal.areas[:1] if area.name != name), None)


def _record(path: str, fingerprint: str, side: Source | Raster, first: SideRecord | None, picked: bool) -> SideRecord:
    """Describe a side. Red, green and blue come first, unless bands were picked; order and units are those of the first
    area of a dataset."""
    order = list(range(len(side.bands))) if picked else colours_first(side.bands)
    bands, units = tuple(side.bands[i] for i in order), side.units.pick(order) if side.units else None
    if first and not picked and set(first.bands) == set(bands):
        bands = first.bands
    if first and first.units != units:
        if units and first.units:
            units = first.units
        else:
            known, other = (path, first.path) if units else (first.path, path)
            warn(
                f"{known} says that its values have {units or first.units}, and {other} states no units: their stored "
                "values are mixed unchanged."
            )
    return SideRecord(
        path=path,
        fingerprint=fingerprint,
        bands=bands,
        dtype=np.dtype(side.dtype).name,
        licence=getattr(side, "licence", None),
        units=units,
    )


def _described(
    name: str, sides: Sequence[SideRecord], samples: Sequence[Pictures], grid: Grid | None, options: Options
) -> tuple[AreaRecord, list[Pictures]]:
    """Make the record of an area, with ranges and shift of its sides, and samples with bands and units of the record.

    Warn of values in the samples that look like undeclared nodata.
    """
    measured = []
    for number, side in enumerate(sides):
        mine, suspects = [pair[number] for pair in samples], Suspects()
        for sample in mine:
            suspects.add(sample.pixels[:, sample.mask])
        tell_suspects(suspects.found(), side.path)
        measured.append(side.model_copy(update={"range": value_range([side.fit(sample) for sample in mine])}))
    source, target = measured
    fitted = [(source.fit(a), target.fit(b)) for a, b in samples]
    shift = _common_shift(fitted) if options.register else None
    return AreaRecord(name=name, source=source, target=target, grid=grid, shift=shift), fitted


def _may_have_labels(target: Source | Raster) -> bool:
    """Return whether a target may be a picture of a map with text on it."""
    return np.dtype(target.dtype) == np.uint8 and len(target.bands) == 3


def _sampled(
    places: list[Place], read: Callable[[Place], Pictures], name: str, options: Options, tell: Progress
) -> list[Pictures]:
    """Read both sides of some tiles, evenly over an area, in reading order."""
    most = int(np.clip(_SAMPLED_PIXELS // options.tile**2, 4, _SAMPLES))
    chosen = np.unique(np.linspace(0, len(places) - 1, most).astype(int)).tolist()
    samples = []
    for done, number in enumerate(chosen, start=1):
        with suppress(InputError) if options.skip_bad else nullcontext():
            samples.append(read(places[number]))
        tell(f"sampling {name}", done, len(chosen))
    return samples


def _look(samples: list[Pictures], options: Options) -> MapLook:
    return MapLook(map_palette([target.pixels for _, target in samples]), options.clean_labels)


def _common_shift(samples: list[Pictures]) -> tuple[float, float] | None:
    """Return the shift of the sides, in pixels, that is common to the whole area; None where there is none."""
    surfaces = (correlation(source, target) for source, target in samples)
    common = locate_common(surface for surface in surfaces if surface is not None)
    return None if common.confidence < MIN_CONFIDENCE else (round(common.dx, 2), round(common.dy, 2))


def _cut_area(job: Job, out: Path, options: Options, journal: Journal, tell: Progress) -> None:
    """Cut the remaining tiles; a strip is read while the tiles of the previous one are measured and written."""
    name = job.record.name
    # A strip is always cut whole, and so is all that comes after one that is not whole: measures of a tile may depend a
    # little on its neighbours in the strip, and a resumed preparation must give the same dataset and journal as an
    # uninterrupted one.
    strips, done = list(job.strips()), {row.id: row for row in journal.rows(name)}
    whole = list(takewhile(lambda strip: all(place.id in done for place in strip), strips))
    kept = [done[place.id] for strip in whole for place in strip]
    journal.replace_rows(name, kept)
    finished, total = len(kept), len(job.places)
    tell(f"cutting {name}", finished, total)
    following = iter(strips[len(whole) :])
    with ThreadPoolExecutor(os.cpu_count()) as workers, ThreadPoolExecutor(1) as reader:

        def read_on() -> Future[list[Part | Cut]] | None:
            strip = next(following, None)
            return None if strip is None else reader.submit(_load, job, strip, options.skip_bad)

        def measured(part: Part | Cut) -> Cut:
            return cut(part, job.record, out, options) if isinstance(part, Part) else part

        ahead = read_on()
        while ahead is not None:
            parts, ahead = ahead.result(), read_on()
            cuts = add_block_shifts(list(workers.map(measured, parts)))
            journal.add_rows(name, cuts)
            finished += len(cuts)
            tell(f"cutting {name}", finished, total)


def _load(job: Job, strip: list[Place], skip_bad: bool) -> list[Part | Cut]:
    """Read the parts of a strip; skipped unreadable ones are replaced by their results."""
    try:
        return list(job.load(strip))
    except InputError as error:
        if not skip_bad:
            raise
        if len(strip) == 1:
            return [unread(strip[0], str(error))]
    return [part for place in strip for part in _load(job, [place], skip_bad)]
