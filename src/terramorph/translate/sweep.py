"""Whole rasters of any size: windows are read, translated and kept one by one, then joined into the output.

Reading, computing and writing run beside each other. Every window's result is a file of its own, so a sweep that was
stopped goes on where it was, and ends with the same pixels. Memory does not depend on the size of the raster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from odc.geo.geom import Geometry

from terramorph._version import __version__
from terramorph.bundle import Header
from terramorph.errors import ConfigError, InputError
from terramorph.geo import Cover, Grid, Window, grid_at
from terramorph.raster import ImageSource, Raster, Source, open_source
from terramorph.raster.clip import ClippedSource
from terramorph.raster.tiles.write import write_tiles
from terramorph.raster.writer import Strip, write_cog
from terramorph.translate.parts import Part, Parts
from terramorph.translate.translator import MAX_SCALE_RATIO, WHOLE_PIXELS, Translator

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and of how much."""
Kind = Literal["cog", "xyz", "mbtiles", "pmtiles"]

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
        window: side of the windows in pixels; None: see `Translator.cover`.
        overlap: pixels that windows share, where the network's field is not bounded; None: likewise.
        offset: (y, x) by which the lattice of windows is moved: another tiling of the same ground.
    """

    resolution: float | None = None
    match_source: bool = False
    area: Geometry | None = None
    samples: int = 1
    uncertainty: Path | None = None
    kind: Kind = "cog"
    window: int | None = None
    overlap: int | None = None
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.resolution is not None and not self.resolution > 0:
            raise ConfigError(f"A resolution of {self.resolution} m is none; give metres per pixel, such as 0.6.")
        if self.uncertainty is not None and self.samples < 2:
            raise ConfigError("A spread needs several draws; give --samples of 2 or more, in mode paper.")
        if self.match_source and self.kind != "cog":
            raise ConfigError("Tiles lie on the world's own grid; leave out --match-source.")


def sweep(
    translator: Translator,
    source: Source | str | Path,
    output: str | Path,
    options: SweepOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Translates a raster of any size into a Cloud Optimized GeoTIFF or web-map tiles.

    Args:
        translator: made with `any_resolution=True` where `options.resolution` is given.
        source: what `open_source` takes, or a source.
        output: file or folder to make. Unfinished work lies beside it in `.NAME.parts`, and is gone on with.
        options: scale, area, draws and kind of output.
        progress: told how far each step is.

    Returns:
        The output.

    Raises:
        InputError: if bands, dtype or ground resolution do not fit the bundle, or a part of the source cannot be read.
        StorageError: if something cannot be written; what is done stays, and the same call goes on from it.
    """
    output, options = Path(output), options or SweepOptions()
    tell = progress or (lambda step, done, total: None)
    translator.check_samples(options.samples)
    with ExitStack() as opened:
        whole = source if not isinstance(source, str | Path) else opened.enter_context(open_source(source))
        grid = work_grid(whole, translator, options.resolution)
        translator.check_kind(len(whole.bands), np.dtype(whole.dtype).name)
        seen = whole if options.area is None else ClippedSource(whole, options.area)
        cover = plan_cover(translator, grid, options)
        parts = Parts(output, _plan(translator, seen, grid, cover, options))
        with parts.locked():
            _compute(translator, seen, grid, cover, parts, options, tell)
            _assemble(translator.header, whole, grid, cover, parts, output, options, tell)
        parts.remove()
    return output


def work_grid(source: Source, translator: Translator, resolution: float | None) -> Grid:
    """The grid on which the network sees a source: the source's own where that is of the right scale.

    Args:
        source: with or without a place.
        translator: knows the ground resolution it was trained at, or does not.
        resolution: metres per pixel, in place of that.

    Raises:
        InputError: if the source's scale is more than `MAX_SCALE_RATIO` off and no resolution is given, or it has no
            pixels and there is nothing to tell their size.
    """
    own = source.grid
    have = None if own is None else own.ground_resolution
    need = resolution if resolution is not None else translator.header.ground_resolution
    if own is None and need is None:
        raise InputError(f"{source.name} has no pixels of its own and the model knows no scale; give --resolution.")
    if resolution is not None and own is not None and have is None:
        raise InputError(f"{source.name} has no place on Earth, so it has no metres; leave out --resolution.")
    if own is not None and (have is None or need is None or (resolution is None and translator.any_resolution)):
        return own
    assert need is not None
    if have is not None and resolution is None and max(have / need, need / have) > MAX_SCALE_RATIO:
        raise InputError(
            f"A pixel of {source.name} is {have:.3g} m and the model was trained at {need:.3g} m; bring it to that "
            f"with --resolution {need:.3g}, or translate it as it is with --any-resolution."
        )
    if own is not None and have is not None and max(have / need, need / have) < SAME_SCALE:
        return own
    return grid_at(source.extent, need)


def plan_cover(translator: Translator, grid: Grid, options: SweepOptions) -> Cover:
    """The windows of a grid; up to `WHOLE_PIXELS` go through in one pass, as in `Translator.translate`."""
    window = options.window
    if window is None and grid.height * grid.width <= WHOLE_PIXELS:
        window = max(grid.height, grid.width)
    return translator.cover(grid.height, grid.width, window=window, overlap=options.overlap, offset=options.offset)


def _plan(translator: Translator, source: Source, grid: Grid, cover: Cover, options: SweepOptions) -> dict[str, Any]:
    """What makes two sweeps the same, to the last pixel."""
    return {
        "terramorph": __version__,
        "bundle": translator.digest,
        "source": source.fingerprint(),
        "grid": [grid.height, grid.width, *grid.affine[:6], str(grid.crs)],
        "cover": str(cover),
        "mode": translator.mode,
        "backend": translator.backend.name,
        "seed": translator.seed,
        "samples": options.samples,
    }


def _compute(
    translator: Translator,
    source: Source,
    grid: Grid,
    cover: Cover,
    parts: Parts,
    options: SweepOptions,
    tell: Progress,
) -> None:
    """Translates the windows that are not done: one is computed while the next are read and the last are written."""
    done = parts.done()
    left = [window for window in cover.windows() if window.number not in done]
    count = len(left) + len(done)
    tell("translating", len(done), count)
    reads = _reader(source, grid)
    with ThreadPoolExecutor(1, "terramorph-read") as reader, ThreadPoolExecutor(1, "terramorph-write") as writer:
        ahead = deque(reader.submit(reads, window) for window in left[:2])
        writing: deque[Future[None]] = deque()
        try:
            for number, window in enumerate(left):
                raster = ahead.popleft().result()
                if number + 2 < len(left):
                    ahead.append(reader.submit(reads, left[number + 2]))
                part = _translated(translator, raster, window, options.samples) if raster.mask.any() else None
                writing.append(writer.submit(parts.save, window.number, part))
                while len(writing) > 2:
                    writing.popleft().result()
                tell("translating", len(done) + number + 1, count)
            while writing:
                writing.popleft().result()
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            raise


def _reader(source: Source, grid: Grid) -> Callable[[Window], Raster]:
    """Reads windows; where rows can only be decoded from the top, whole rows of windows at once."""
    if not source.sequential:
        return lambda w: source.read(grid.crop(w.y, w.x, w.height, w.width))
    strip: list[tuple[int, int, Raster]] = []

    def read(window: Window) -> Raster:
        if not strip or strip[0][:2] != (window.y, window.height):
            strip.clear()
            rows = source.read(grid.crop(window.y, 0, window.height, grid.width))
            strip.append((window.y, window.height, rows))
        return strip[0][2].crop(0, window.x, window.height, window.width)

    return read


def _translated(translator: Translator, raster: Raster, window: Window, samples: int) -> Part:
    """One window through the network, as often as asked, cut to what is used of it."""
    rows, columns = window.inner
    real = raster.mask[None, rows, columns]
    draws = [translator.translate_window(raster, sample)[:, rows, columns] for sample in range(samples)]
    spread = None
    if samples > 1:
        stack = np.stack(draws).astype(np.float32)
        deviation = stack.std(axis=0, ddof=1).mean(axis=0, keepdims=True)
        spread = np.concatenate([deviation, real.astype(np.float32)])
    return Part(np.concatenate([draws[0], real.astype(draws[0].dtype)]), spread)


def _assemble(
    header: Header,
    source: Source,
    grid: Grid,
    cover: Cover,
    parts: Parts,
    output: Path,
    options: SweepOptions,
    tell: Progress,
) -> None:
    """Joins the parts into the output, and the spread into its own file."""
    tags = {
        "TERRAMORPH_VERSION": __version__,
        "TERRAMORPH_BUNDLE": f"{header.architecture.name}, {header.direction}, made by {header.made_by}",
        "TERRAMORPH_SOURCE": source.name,
    }
    if source.licence:
        tags["TERRAMORPH_SOURCE_LICENCE"] = source.licence
    back = source.grid if options.match_source and source.grid not in (None, grid) else None
    direct = options.kind == "cog" and back is None
    first = output if direct else parts.folder / "whole.tif"
    names, dtype = header.target.names, np.dtype(header.target.dtype)
    write_cog(first, grid, names, dtype, _joined(header, cover, parts, tell, "joining"), tags=tags, masked=True)
    if options.uncertainty is not None:
        strips = _joined(header, cover, parts, tell, "joining the spread", spread=True)
        write_cog(
            options.uncertainty, grid, ("standard deviation",), np.dtype(np.float32), strips, tags=tags, masked=True
        )
    if direct:
        return
    with ImageSource(first) as made:
        if back is not None:
            write_cog(output, back, names, dtype, _strips(made, back, tell), tags=tags, masked=True)
        elif options.kind != "cog":
            write_tiles(
                made,
                output,
                kind=options.kind,
                name=output.stem,
                attribution=source.licence,
                progress=lambda done, total: tell("writing tiles", done, total),
            )


def _joined(
    header: Header, cover: Cover, parts: Parts, tell: Progress, step: str, spread: bool = False
) -> Iterator[Strip]:
    """Rows of the output from the top: (rows, pixels (C, h, W) in the stored dtype, mask bool (h, W))."""
    target = header.target
    bands = 1 if spread else target.count

    # Fewer rows at a time of a wider raster, so that memory does not grow with it.
    high = max(16, min(256, (1 << 22) // cover.width))
    for rows, values, weight in cover.join(lambda window: parts.load(window.number, spread), bands + 1, high):
        pixels, mask = values[:bands], (values[bands] > 0.5) & (weight > 0)
        if not spread:
            stored = np.rint(pixels) if np.dtype(target.dtype).kind in "ui" else pixels
            pixels = stored.astype(target.dtype)
            pixels[:, ~mask] = np.asarray(target.low, target.dtype)
        yield rows, pixels, mask
        tell(step, rows.stop, cover.height)


def _strips(made: Source, grid: Grid, tell: Progress) -> Iterator[Strip]:
    """A raster on another grid, in rows from the top."""
    high = max(16, (1 << 22) // grid.width)
    for top in range(0, grid.height, high):
        rows = slice(top, min(top + high, grid.height))
        raster = made.read(grid.crop(top, 0, rows.stop - top, grid.width))
        yield rows, raster.pixels, raster.mask
        tell("bringing it to the source's grid", rows.stop, grid.height)
