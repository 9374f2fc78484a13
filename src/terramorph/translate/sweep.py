"""Whole rasters of any size: windows are read, translated and kept one by one, then joined into the output.

Every window's result is a file of its own, so a sweep that was stopped goes on where it was, and ends with the same
pixels; and it does not matter which process made it, here or on a cluster. Memory does not depend on the size of the
raster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from odc.geo.geom import Geometry

from terramorph.errors import ConfigError, InputError, warn
from terramorph.geo import Cover, Grid, grid_at
from terramorph.raster import Source
from terramorph.raster.clip import ClippedSource
from terramorph.raster.storage import Remote, location, placed
from terramorph.sources import open_source
from terramorph.translate.assemble import Assembly, Kind, Progress
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.model import MAX_SCALE_RATIO, WHOLE_PIXELS, Model
from terramorph.translate.outputs import check_outputs
from terramorph.translate.paired import refuse_pair
from terramorph.translate.parts import Parts, is_begun
from terramorph.translate.windows import Job, Stages, Worker, identity, translate_windows

MAX_PIXELS = 10**13
"""Of a grid to translate: thirty countries of the size of Germany at 1 m."""

MAX_REFINEMENT = 16.0
"""A source's pixels are made smaller by no more than this."""

SAME_SCALE = 1.02
"""Ground resolutions this close count as equal: the source is not resampled."""


@dataclass(frozen=True)
class SweepOptions:
    """How a raster is translated.

    Attributes:
        resolution: metres per pixel at which the network sees the ground; None: what it was trained at.
        match_source: bring the output back to the source's grid.
        area: only this ground is translated; with a CRS.
        samples: draws for each pixel, in mode paper; the first is the output.
        uncertainty: where the standard deviation of the draws goes, a GeoTIFF.
        kind: of the output.
        restart: throw away what an unfinished sweep to the same output has made, if it was another one.
        overwrite: replace outputs that are there already.
        pairs: False: the source is no A|B pair, though it may look like one; else such a one is refused.
        window: side of the windows in pixels; None: see `Model.cover`.
        overlap: pixels that windows share, where the network's field is not bounded; None: likewise.
        offset: (y, x) by which the lattice of windows is moved: another tiling of the same ground.
    """

    resolution: float | None = None
    match_source: bool = False
    area: Geometry | None = None
    samples: int = 1
    uncertainty: Path | None = None
    kind: Kind = "cog"
    restart: bool = False
    overwrite: bool = False
    pairs: bool | None = None
    window: int | None = None
    overlap: int | None = None
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.resolution is not None and not self.resolution > 0:
            raise ConfigError(f"A resolution of {self.resolution} m is none; give metres per pixel, such as 0.6.")
        if self.uncertainty is not None and self.samples < 2:
            raise ConfigError("A spread needs several draws; give --samples of 2 or more, in mode paper.")
        if self.samples > 1 and self.uncertainty is None:
            raise ConfigError("Of several draws of a raster only the spread is kept; name its file with --uncertainty.")
        if self.match_source and self.kind != "cog":
            raise ConfigError("Tiles lie on the world's own grid; leave out --match-source.")


class Engine(Protocol):
    """What computes the windows of a sweep: this process, or a cluster (`cluster.DaskEngine`).

    Attributes:
        backend: what runs the network, by name; with as many threads, results of one name are equal.
    """

    @property
    def backend(self) -> str:
        """See above."""
        ...

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Makes every part of a job that is not there.

        Args:
            job: the windows, and where their parts go.
            stages: the seconds of each step are added to it.
            tell: called with the number of windows that are done, and of all.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """The engine that is this process."""

    model: Model
    source: Source

    @property
    def backend(self) -> str:
        """See `Engine`."""
        return self.model.backend.name

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """See `Engine`."""
        done = job.parts.done()
        count, total = len(done), len(job.cover)
        tell(count, total)

        def computed(more: int) -> None:
            nonlocal count
            count += more
            tell(count, total)

        worker = Worker(self.model, self.source, job.grid, job.parts, job.samples)
        translate_windows(worker, job.left(done), stages, computed)
        # Joining wants memory too, and comes after.
        self.model.backend.release()
        release_freed_memory()


def sweep(
    model: Model,
    source: Source | str | Path,
    output: str | Path,
    options: SweepOptions | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    stages: Stages | None = None,
) -> Path | Remote:
    """Translates a raster of any size into a Cloud Optimized GeoTIFF or web-map tiles.

    Args:
        model: made with `any_resolution=True` where `options.resolution` is given.
        source: what `open_source` takes, or a source.
        output: file or folder to make, or an s3:// URL. Unfinished work lies beside it in `.NAME.parts`, and is gone on
            with.
        options: scale, area, draws and kind of output.
        progress: told how far each step is.
        engine: what computes the windows; None: this process.
        stages: filled with the seconds of each step.

    Returns:
        The output.

    Raises:
        InputError: if bands, dtype or ground resolution do not fit the bundle, an output would replace the source or
            what is there or cannot be of its kind, the parts of another sweep lie there, or a part of the source cannot
            be read.
        StorageError: if something cannot be written; what is done stays, and the same call goes on from it.
        RunError: if a cluster fails for good; likewise.
    """
    place, options, stages = location(output), options or SweepOptions(), stages or Stages()
    if engine is not None and isinstance(place, Path):
        place = place.absolute()  # workers may stand in another folder
    tell = progress or (lambda step, done, total: None)
    model.check_samples(options.samples)
    with ExitStack() as opened:
        whole = source if not isinstance(source, str | Path) else opened.enter_context(open_source(source))
        model.check_kind(whole.bands, np.dtype(whole.dtype).name, whole.units)
        seen = whole if options.area is None else ClippedSource(whole, options.area)
        if whole.extent.crs is None and whole.grid is not None and whole.grid.is_georeferenced:
            warn(f"{whole.name} has a place but no CRS: it is translated as it is, at any resolution; give its CRS.")
        grid = work_grid(seen, model, options.resolution)
        if options.pairs is not False:
            refuse_pair(whole, model.header)
        # Whoever began what lies unfinished beside it has agreed.
        overwrite = options.overwrite or (is_begun(place) and not options.restart)
        check_outputs(place, options.uncertainty, options.kind, whole, model.header, grid, overwrite)
        cover = plan_cover(model, grid, options)
        engine = engine or LocalEngine(model, seen)
        tell("looking at the source", 0, 1)  # all of it, for the fingerprint
        plan = {
            **identity(model, seen, engine.backend),
            "grid": [grid.height, grid.width, *grid.affine[:6], str(grid.crs)],
            "cover": str(cover),
            "samples": options.samples,
        }
        tell("looking at the source", 1, 1)
        parts = Parts(place, plan, options.restart)
        job = Job(plan, grid, cover, parts, options.area, options.samples, seen.sequential)
        with parts.locked():
            engine.compute(job, stages, lambda done, total: tell("translating", done, total))
            assembly = Assembly(model, whole, grid, cover, parts, tell, stages)
            back = own_grid(seen, model) if options.match_source else None
            back = None if back == grid else back
            with placed(place, parts.scratch) as made:
                assembly.write(made, options.kind, back)
            if options.uncertainty is not None:
                with placed(location(options.uncertainty), parts.scratch) as made:
                    assembly.write_spread(made)
        parts.remove()
    return place


def work_grid(source: Source, model: Model, resolution: float | None) -> Grid:
    """The grid on which the network sees a source: the source's own where that is of the right scale and its pixels
    are square.

    Args:
        source: with or without a place; of one that is cut to an area, no more than that is covered.
        model: knows the ground resolution it was trained at, or does not.
        resolution: metres per pixel, in place of that.

    Raises:
        InputError: if the source's scale is more than `MAX_SCALE_RATIO` off and no resolution is given, or it has no
            pixels and there is nothing to tell their size, or the grid would be out of all reason.
    """
    grid = _work_grid(source, model, resolution)
    if grid.height * grid.width > MAX_PIXELS:
        raise InputError(
            f"{source.name} would be {grid.width:,} x {grid.height:,} pixels; give the ground that is wanted with "
            "--area, or a coarser --resolution."
        )
    return grid


def own_grid(source: Source, model: Model) -> Grid | None:
    """The grid of a source's own pixels, cut to where it has any; it starts at a multiple of the network's stride.

    So the network sees every layer in the same phase as without the cut.
    """
    own, stride = source.grid, model.header.stride
    if own is None or not isinstance(source, ClippedSource):
        return own
    box = source.extent.boundingbox
    corners = [~own.affine @ (x, y) for x in (box.left, box.right) for y in (box.bottom, box.top)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    left, top = (max(0, math.floor(min(values) / stride) * stride) for values in (xs, ys))
    right, bottom = min(own.width, math.ceil(max(xs))), min(own.height, math.ceil(max(ys)))
    return own.crop(top, left, max(bottom - top, 1), max(right - left, 1))


def _work_grid(source: Source, model: Model, resolution: float | None) -> Grid:
    own = own_grid(source, model)
    have = None if own is None else own.ground_resolution
    need = resolution if resolution is not None else model.header.ground_resolution
    if own is None and need is None:
        raise InputError(f"{source.name} has no pixels of its own and the model knows no scale; give --resolution.")
    if resolution is not None and own is not None and have is None:
        raise InputError(f"{source.name} has no place on Earth, so it has no metres; leave out --resolution.")
    if own is not None and (have is None or (resolution is None and model.any_resolution)):
        return own
    if need is None:
        assert own is not None
        assert have is not None
        return own if own.is_square else grid_at(source.extent, have)
    if have is not None and resolution is None and max(have / need, need / have) > MAX_SCALE_RATIO:
        raise InputError(
            f"A pixel of {source.name} is {have:.3g} m and the model was trained at {need:.3g} m; bring it to that "
            f"with --resolution {need:.3g}, or translate it as it is with --any-resolution."
        )
    if own is not None and have is not None:
        if have / need > MAX_REFINEMENT:
            raise InputError(
                f"A pixel of {source.name} is {have:.3g} m, and nothing is to be seen at {need:.3g} m; give a coarser "
                "--resolution."
            )
        if max(have / need, need / have) < SAME_SCALE and own.is_square:
            return own
    return grid_at(source.extent, need)


def plan_cover(model: Model, grid: Grid, options: SweepOptions) -> Cover:
    """The windows of a grid; up to `WHOLE_PIXELS` go through in one pass, as in `Model.translate`."""
    window = options.window
    if window is None and grid.height * grid.width <= WHOLE_PIXELS:
        window = max(grid.height, grid.width)
    return model.cover(grid.height, grid.width, window=window, overlap=options.overlap, offset=options.offset)
