"""Kinds of output of a translation. Each refuses what it cannot do before the first window."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray
from odc.geo.geom import Geometry

from terramorph._version import __version__
from terramorph.bundle import Header
from terramorph.errors import ConfigError, InputError, RasterError, warn
from terramorph.geo import Grid, Window
from terramorph.raster import ImageSource, Raster, Source, write_image
from terramorph.raster.resample import MIN_WEIGHT
from terramorph.raster.save import check_format
from terramorph.raster.storage import Remote, location
from terramorph.raster.tiles.write import check_tiles, write_tiles
from terramorph.raster.tracing import DRIVERS
from terramorph.raster.writer import Strip, rows_of, write_cog
from terramorph.translate.engine import Engine, Stages
from terramorph.translate.memory import release_pages
from terramorph.translate.parts import Parts
from terramorph.translate.tiled import Tiled

if TYPE_CHECKING:
    from terramorph.cartography.palette import Palette

Kind = Literal["cog", "classes", "probability", "entropy", "polygons", "xyz", "mbtiles", "pmtiles"]
Progress = Callable[[str, int, int], None]
"""Function that is called with the name of a step, how much of it is done, and the total."""
LEAST_BACK = 0.5
"""Share of the filter's weights that must fall on pixels with data where a translation is resampled to the grid of its
source. Half is enough: each way would lose two more pixels at every border."""
SPREAD = (("standard deviation",), np.dtype("float32"))
"""Bands and dtype of the spread of samples."""


@dataclass(frozen=True)
class Written:
    """The result of `Model.translate_to`.

    Attributes:
        files: The written files, in order; `len` and iteration are over them.
        skipped: One sentence for each input that was skipped.
    """

    files: list[Path | Remote] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Path | Remote]:
        return iter(self.files)


@dataclass(frozen=True)
class Request:
    """The options of `Model.translate_to`, which describes them."""

    resolution: float | None = None
    match_source: bool = False
    area: Geometry | str | Path | None = None
    samples: int = 1
    uncertainty: str | Path | None = None
    kind: Kind | None = None
    suffix: str | None = None
    skip_bad: bool = False
    pairs: bool | None = None
    overwrite: bool = False
    restart: bool = False
    stac: bool = False
    window: int | None = None
    overlap: int | None = None
    engine: Engine | None = None
    progress: Progress | None = None
    stages: Stages = field(default_factory=Stages)
    opening: dict[str, Any] = field(default_factory=dict)
    sample: int = 0

    @property
    def style(self) -> str | Path:
        """Style of the map side."""
        style: str | Path = self.opening.get("style", "classic")
        return style

    def tell(self, step: str, done: int, total: int) -> None:
        """Call `progress`, if there is one."""
        if self.progress is not None:
            self.progress(step, done, total)


@dataclass(frozen=True)
class Joined:
    """The parts of a translation joined to one raster, from the top.

    Attributes:
        tiled: Model and windows of the parts.
        source: The source that the output names.
        parts: The pixels.
        back: Grid to which the raster is resampled; None: that of the parts.
        request: Receives progress, and the seconds of joining and finishing.
    """

    tiled: Tiled
    source: Source
    parts: Parts
    back: Grid | None
    request: Request

    @property
    def grid(self) -> Grid:
        return self.back or self.tiled.grid

    def strips(self, spread: bool = False) -> Iterator[Strip]:
        """Yield the rows on the output's grid; with `spread` the standard deviation of the samples."""
        if self.back is None:
            yield from self._told(spread)
            return
        with self.whole(LEAST_BACK, spread) as made:
            for rows, pixels, mask in rows_of(made, self.back):
                self.request.tell("bringing it to the source's grid", rows.stop, self.back.height)
                yield rows, np.maximum(pixels, 0) if spread else self.tiled.within(pixels, mask), mask

    @contextmanager
    def whole(self, least: float = MIN_WEIGHT, spread: bool = False) -> Iterator[Source]:
        """Yield the raster on the grid of the parts, as a file among them; `least` as in `ImageSource`."""
        path = self.parts.scratch / ("spread.tif" if spread else "whole.tif")
        self.write_cog(path, self.tiled.grid, self._told(spread), *(SPREAD if spread else ()))
        with ImageSource(path, least=least) as made:
            yield made

    def write_cog(
        self,
        path: Path,
        grid: Grid,
        strips: Iterator[Strip],
        bands: tuple[str, ...] | None = None,
        dtype: DTypeLike | None = None,
        palette: Palette | None = None,
    ) -> None:
        """Write a GeoTIFF; bands and dtype are the bundle's unless given. A palette's classes are one band."""
        target = self.tiled.target
        begun = joined = time.perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal joined
            if done == grid.height:
                joined = time.perf_counter()
            if done >= grid.height:  # after the last row: overviews, compression, reading back
                self.request.tell("writing", done - grid.height, total - grid.height)

        write_cog(
            path,
            grid,
            bands or target.names,
            dtype or target.dtype,
            strips,
            units=None if bands else target.units,
            tags=self._tags(palette),
            colours=None if palette is None else [one.rgb for one in palette.classes],
            masked=True,
            progress=progress,
        )
        self.request.stages.join_s += joined - begun
        self.request.stages.finish_s += time.perf_counter() - joined

    def _tags(self, palette: Palette | None) -> dict[str, str]:
        model = self.tiled.model
        header = model.header
        tags = {
            "TERRAMORPH_VERSION": __version__,
            "TERRAMORPH_BUNDLE": f"{header.architecture.name}, {header.direction}, made by {header.made_by}",
            "TERRAMORPH_BUNDLE_DIGEST": model.digest,
            "TERRAMORPH_MODE": model.mode,
            "TERRAMORPH_SOURCE": self.source.name,
        }
        if palette is not None:
            tags["TERRAMORPH_CLASSES"] = f"nearest colours of the style {palette.name}: {', '.join(palette.names)}"
        if model.ensemble:
            tags["TERRAMORPH_ENSEMBLE"] = "mean over eight flips and turns"
        if header.note:
            tags["TERRAMORPH_BUNDLE_NOTE"] = header.note
        if self.source.licence:
            tags["TERRAMORPH_SOURCE_LICENCE"] = self.source.licence
        return tags

    def _told(self, spread: bool) -> Iterator[Strip]:
        """Yield strips of memory-mapped parts, and release their pages after each."""
        tiled, cover = self.tiled, self.tiled.cover
        step, strips = ("joining the spread", tiled.spread) if spread else ("joining", tiled.strips)
        bands, dtype = (1, "float32") if spread else (tiled.target.count, tiled.dtype.name)
        opened: deque[NDArray[Any]] = deque(maxlen=2 * len(cover.columns))  # most that are in use at once

        def load(window: Window) -> NDArray[Any] | None:
            rows, columns = window.core
            shape = (bands, rows.stop - rows.start, columns.stop - columns.start)
            part = self.parts.load(window.number, shape, dtype, spread)
            if part is not None:
                opened.append(part)
            return part

        self.request.tell(step, 0, cover.height)
        for strip in strips(load):
            self.request.tell(step, strip[0].stop, cover.height)
            yield strip
            for part in opened:
                release_pages(part)


def brought_back(tiled: Tiled, raster: Raster, grid: Grid) -> Raster:
    """Return a translation, resampled to the grid of its source as in a file of `Joined`."""
    rows = slice(0, raster.height)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "whole.tif"
        write_cog(path, raster.grid, raster.bands, raster.dtype, [(rows, raster.pixels, raster.mask)], masked=True)
        with ImageSource(path, least=LEAST_BACK) as made:
            back = made.read(grid)
    return tiled.placed(tiled.within(back.pixels, back.mask), back.mask, grid)


@dataclass(frozen=True)
class Output(ABC):
    """A file or folder to write."""

    place: Path | Remote
    called: ClassVar[str]
    of_probabilities: ClassVar[bool] = False  # of a model's class probabilities, not of its images
    suffixes: ClassVar[tuple[str, ...]]
    has_item: ClassVar[bool] = False  # whether a STAC item may stand beside it

    def check(self, source: Source, header: Header, grid: Grid, match_source: bool) -> None:
        """Refuse what this kind of output cannot do.

        Args:
            grid: Grid on which the network sees the source.
            match_source: Whether the output is resampled to the source's grid.

        Raises:
            ConfigError: If the kind does not support an option.
            InputError: If the name does not fit the kind.
            RasterError: If the kind cannot hold the bundle's target.
        """
        if self.place.suffix.lower() not in self.suffixes:
            raise InputError(f"{self.called} must be named {self.suffixes[0]}, got {self.place}.")
        check_format(self.place.name, bands=header.target.count, dtype=header.target.dtype)

    def palette(self, joined: Joined) -> Palette | None:
        """Return the palette whose classes are the values; None where values are not classes."""
        return None

    @abstractmethod
    def write(self, path: Path, joined: Joined) -> None:
        """Write the output."""


class Cog(Output):
    """A Cloud Optimized GeoTIFF of any size."""

    called = "A Cloud Optimized GeoTIFF"
    suffixes = (".tif", ".tiff")
    has_item = True

    def write(self, path: Path, joined: Joined) -> None:
        joined.write_cog(path, joined.grid, joined.strips())


class Picture(Output):
    """A PNG or JPEG, with a world file if it is georeferenced; it is joined in memory."""

    called = "A picture"
    suffixes = (".png", ".jpg", ".jpeg")

    def check(self, source: Source, header: Header, grid: Grid, match_source: bool) -> None:
        """Refuse object storage, and a format that cannot hold the pixels without data that the source has."""
        super().check(source, header, grid, match_source)
        if isinstance(self.place, Remote):
            raise InputError(f"A picture cannot be on object storage, got {self.place}; name it .tif.")
        holds: dict[str, Any] = {"bands": header.target.count, "dtype": header.target.dtype, "side": max(grid.shape)}
        check_format(self.place, **holds)
        try:
            check_format(self.place, **holds, masked=True)
        except RasterError:
            if not all(mask.all() for _, _, mask in rows_of(source, grid)):
                raise

    def write(self, path: Path, joined: Joined) -> None:
        raster = joined.tiled.joined(joined.strips(), joined.grid)
        with joined.request.stages.timed("finish_s"):
            write_image(raster, path)


@dataclass(frozen=True)
class Tiles(Output):
    """Web-map tiles in EPSG:3857: an archive, or a folder z/x/y."""

    kind: Literal["xyz", "mbtiles", "pmtiles"] = "pmtiles"

    def check(self, source: Source, header: Header, grid: Grid, match_source: bool) -> None:
        suffix = self.place.suffix.lower()
        if self.kind != "xyz" and suffix != f".{self.kind}":
            raise InputError(f"An archive of tiles must be named .{self.kind}, got {self.place}.")
        if self.kind == "xyz" and suffix in (*Cog.suffixes, ".mbtiles", ".pmtiles"):
            raise InputError(f"A folder of tiles must not be named {suffix}, got {self.place}; choose another name.")
        if match_source:
            raise ConfigError(f"Tiles have a fixed grid; leave `match_source` out, or name {self.place} .tif.")
        check_tiles(source.name, grid, header.target.count, np.dtype(header.target.dtype))
        if self.kind == "xyz" and _holds_something(self.place):
            raise InputError(f"The folder {self.place} exists and is not empty; remove it or name another folder.")

    def write(self, path: Path, joined: Joined) -> None:
        with joined.whole() as made, joined.request.stages.timed("finish_s"):
            made.name = joined.source.name  # in what is said of it
            write_tiles(
                made,
                path,
                kind=self.kind,
                name=path.stem,
                attribution=joined.source.licence,
                progress=lambda done, total: joined.request.tell("writing tiles", done, total),
            )


def output_of(output: str | Path, kind: Kind | None) -> Output | None:
    """Return the output for a name and a kind; None for a folder of images."""
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"There is no kind of output {kind!r}; use {', '.join(get_args(Kind))}.")
    place = location(output)
    suffix, folder = place.suffix.lower(), isinstance(place, Path) and place.is_dir()
    archives: dict[str, Kind] = {".mbtiles": "mbtiles", ".pmtiles": "pmtiles"}
    kind = kind or archives.get(suffix)
    if kind in ("xyz", "mbtiles", "pmtiles"):
        return Tiles(place, kind)
    if kind in ("classes", "polygons", "probability", "entropy") or (kind is None and suffix in DRIVERS):
        from terramorph.translate import products  # vectors take half a second to import

        made = {"classes": products.Classes, "probability": products.Probability, "entropy": products.Entropy}
        return made.get(str(kind), products.Polygons)(place)
    if kind == "cog" or (suffix in Cog.suffixes and not folder):
        return Cog(place)
    if suffix in Picture.suffixes and not folder:
        return Picture(place)
    if isinstance(place, Remote):
        raise InputError(f"An output on object storage must be named .tif, .mbtiles or .pmtiles, got {place}.")
    return None


def check_places(
    output: Output, spread: Path | None, source: Source, overwrite: bool, beside: Sequence[Path | Remote] = ()
) -> None:
    """Refuse outputs that would replace the source, each other, or existing files without `overwrite`."""
    given = {_real(file) for file in (source.name, *getattr(source, "files", ()))}
    places = [output.place, *([] if spread is None else [location(spread)]), *beside]
    for place in places:
        if _real(place) in given:
            raise InputError(f"The output {place} would replace the source; choose another output.")
    if len({_real(place) for place in places}) < len(places):
        raise InputError(f"Output and uncertainty must be two files, got {output.place} for both.")
    if spread is not None and places[1].suffix.lower() not in Cog.suffixes:
        raise InputError(f"The uncertainty must be named .tif, got {spread}.")
    if not overwrite and not (isinstance(output, Tiles) and output.kind == "xyz"):
        refuse_present(places)


def refuse_present(outputs: Sequence[Path | Remote]) -> None:
    """Raise InputError if outputs exist."""
    there = [output for output in outputs if output.exists()]
    if there:
        others = f" and {len(there) - 1} other{'s' * (len(there) > 2)}" if len(there) > 1 else ""
        raise InputError(f"{there[0]}{others} would be replaced; choose another output, or allow it with `overwrite`.")


def warn_of_no_data(source: str | Path, output: Path | Remote, in_area: bool = False) -> None:
    """Warn of an output that holds nothing because its input does."""
    where = f"{source} has no pixel with data" + " in the area" * in_area
    warn(f"{where}, and so {output} has none; check nodata and mask of the input.")


def _holds_something(folder: Path | Remote) -> bool:
    if isinstance(folder, Remote):
        return bool(folder.names())
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def _real(place: str | Path | Remote) -> str:
    text = str(place)
    if isinstance(place, Remote) or "://" in text:
        return text
    return str(Path(text).resolve())
