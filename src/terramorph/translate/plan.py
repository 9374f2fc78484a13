"""The plan of a translation: the grid on which a model sees a source, and its windows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geom import Geometry

from terramorph.bands import band_order, unknown_bands
from terramorph.bundle import Bands
from terramorph.errors import ConfigError, InputError, warn
from terramorph.geo import Cover, Grid, grid_at
from terramorph.geo.crs import box_of_degrees
from terramorph.raster import Raster, Source
from terramorph.raster.resample import north_up
from terramorph.raster.source import ClippedSource
from terramorph.sources import open_source
from terramorph.translate.tiled import Tiled

if TYPE_CHECKING:
    from terramorph.translate.model import Model

WHOLE_PIXELS = 2**21
"""Most pixels of a grid for one pass (about 0.5 GB for a U-Net 256 in bfloat16); larger ones take windows."""

WINDOW_SIDES = 5
"""Side of a window in training sizes. Measured on a U-Net 256 (docs/results.md): six are 3 % faster and take 230 MB
more; fewer take more arithmetic. Two tilings of the same ground agree equally well with any of them."""

MAX_SCALE_RATIO = 1.5
"""Largest accepted ratio of ground resolutions: a network recognises objects at the sizes of its training."""

SAME_SCALE = 1.02
"""Ratio of ground resolutions up to which they count as equal, and the source is not resampled."""

MAX_REFINEMENT = 16.0
"""Largest factor by which a source's pixels are refined."""

_BOX = re.compile(",".join([r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*"] * 4), re.IGNORECASE)

MAX_PIXELS = 10**13
"""Most pixels of a grid to translate: thirty countries of the size of Germany at 1 m."""


@contextmanager
def opened(model: Model, source: Any, area: Geometry | str | Path | None, opening: dict[str, Any]) -> Iterator[Source]:
    """Open a source of pixels, cut to an area.

    Args:
        model: The model, whose band names the picked bands get, in the caller's order.
        source: A `Source`, which stays open, or an argument of `open_source`.
        area: Polygons with a CRS, or a file of them.
        opening: Options of `open_source`; without effect on a `Source`.
    """
    with ExitStack() as stack:
        if not hasattr(source, "fingerprint"):
            held = as_raster(source, model.header.source) if isinstance(source, np.ndarray) else source
            source = stack.enter_context(open_source(held, **opening_for(model, opening)))
        if area is not None:
            source = ClippedSource(source, as_area(area))
        yield source


def opening_for(model: Model, opening: dict[str, Any]) -> dict[str, Any]:
    """Return options of `open_source` with the model's band names, which the picked bands get."""
    names, options = model.header.source.names, opening.get("options")
    bands = opening.get("bands") or (options and options.bands)
    return {"wanted": names} | opening | ({"names": names} if bands else {})


def plan(
    model: Model,
    source: Source,
    *,
    resolution: float | None = None,
    samples: int = 1,
    sample: int = 0,
    window: int | None = None,
    overlap: int | None = None,
) -> Tiled:
    """Return the grid and windows by which a model translates a source.

    Args:
        model, source, resolution: See `work_grid`.
        samples, sample: See `Tiled`.
        window, overlap: See `plan_cover`.

    Raises:
        ConfigError: If the samples would be equal, or `plan_cover` refuses the windows.
        InputError: If bands, dtype or ground resolution do not fit the bundle.
    """
    model.check_samples(samples)
    if sample < 0:
        raise ConfigError(f"`sample` must be >= 0, got {sample}; samples are numbered from 0.")
    check_source(source, model)
    if source.extent.crs is None and source.grid is not None and source.grid.is_georeferenced:
        warn(f"{source.name} has a place but no CRS: it is translated as it is, at any resolution; give its CRS.")
    grid = work_grid(source, model, resolution)
    cover = plan_cover(model, grid, window, overlap)
    if len(cover) > 1 and model.header.architecture.settings.get("norm") == "instance":
        warn(
            "This network has instance norm, which looks at the statistics of each window: where windows differ in "
            "content, their tones may differ too. Batch norm has no such effect."
        )
    return Tiled(model, grid, cover, samples, sample)


def check_source(source: Source, model: Model) -> None:
    """Refuse images of other bands or another dtype than the bundle's, and warn if only one of both states units.

    Bands are picked and ordered by their names.

    Raises:
        InputError: If bands or dtype do not fit.
    """
    wanted = model.header.source
    if band_order(source.bands, wanted.names) is None:
        have = (
            f"the bands {', '.join(source.bands)}" if len(source.bands) == wanted.count else _bands(len(source.bands))
        )
        picked = ",".join("1" if len(source.bands) == 1 else str(n + 1) for n in range(wanted.count))
        raise InputError(
            f"The image has {have} and the model takes {_bands(wanted.count)} "
            f"({', '.join(wanted.names)}); pick those it takes, in its order, with `bands`, such as {picked}."
        )
    unknown = unknown_bands(source.bands, wanted.names)
    if unknown:
        warn(
            f"The image calls bands {', '.join(unknown)}, which the model does not know: its bands are taken as "
            f"{', '.join(wanted.names)}, in their order; pick others with `bands`."
        )
    if np.dtype(source.dtype) != wanted.dtype:
        raise InputError(
            f"The pixels are {source.dtype} and the model takes {wanted.dtype} from {wanted.low:g} to {wanted.high:g}; "
            "convert the image first."
        )
    if source.units and not wanted.units:
        warn(
            f"The image says that its values have {source.units}, and the model does not know those of what it was "
            "trained on: stored values are used as they are."
        )
    elif wanted.units and not source.units:
        warn(
            f"The image does not say scale and offset of its values, which are taken to be those of what the model "
            f"was trained on: {wanted.units}."
        )


def as_raster(pixels: NDArray[Any], source: Bands) -> Raster:
    """Return an array (C, H, W), (H, W, C) or (H, W) as a Raster without a georeference.

    Raises:
        InputError: If no axis has the bundle's bands.
    """
    bands = source.count
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise InputError(
            f"An array of shape {pixels.shape} is no image; give ({bands}, height, width) or (height, width, {bands})."
        )
    if pixels.shape[0] != bands and pixels.shape[2] == bands:
        pixels = pixels.transpose(2, 0, 1)
    elif pixels.shape[0] != bands and pixels.shape[2] < min(8, *pixels.shape[:2]):
        raise InputError(
            f"An array of shape {pixels.shape} holds {pixels.shape[2]} bands along its last axis and the model "
            f"takes {bands} ({', '.join(source.names)}); pick them, such as array[..., :{bands}]."
        )
    if pixels.dtype.kind == "f":
        pixels = np.ma.masked_array(pixels, ~np.isfinite(np.ma.getdata(pixels)))  # beside what is masked already
    return Raster.from_pixels(pixels)


def plan_cover(model: Model, grid: Grid, window: int | None = None, overlap: int | None = None) -> Cover:
    """Return the windows of a grid; a single one up to `WHOLE_PIXELS`.

    Args:
        model: The model, with stride, halo and training size.
        window: Side of the windows in pixels; default five training sizes. It is enlarged for the halo if needed.
        overlap: Least overlap in pixels of windows that are blended; default the network's, or a training size.

    Raises:
        ConfigError: If a window is under 1 pixel or not larger than its overlap, or the overlap is under 0.
    """
    if window is not None and window < 1:
        raise ConfigError(f"`window` must be >= 1 pixel, got {window}.")
    if overlap is not None and overlap < 0:
        raise ConfigError(f"`overlap` must be >= 0 pixels, got {overlap}.")
    header = model.header
    # Statistics of each image alone depend on all its pixels, beyond any halo.
    halo = header.halo if model.mode == "raster" else None
    shared = model.overlap if overlap is None else overlap
    if window is None:
        whole = grid.height * grid.width <= WHOLE_PIXELS
        window = max(grid.height, grid.width) if whole else WINDOW_SIDES * max(header.size, model.overlap // 2)
    side = max(window, 4 * (halo or 0))
    return Cover(
        grid.height,
        grid.width,
        window=-(-side // header.stride) * header.stride,
        halo=halo,
        overlap=shared,
        align=header.stride,  # so that windows have every layer in the same phase
    )


def work_grid(source: Source, model: Model, resolution: float | None) -> Grid:
    """Return the grid on which the network sees a source: the source's own if its scale fits and its pixels are square.

    Args:
        source: A source with or without a georeference; of one that is cut to an area, only that is covered.
        model: The model, with or without a ground resolution of its training.
        resolution: Ground resolution in place of that, metres per pixel.

    Raises:
        InputError: If the ground resolutions differ by more than `MAX_SCALE_RATIO` and no resolution is given, nothing
            states the size of pixels, or the grid would have more than `MAX_PIXELS`.
    """
    grid = _work_grid(source, model, resolution)
    if grid.height * grid.width > MAX_PIXELS:
        raise InputError(
            f"{source.name} would be {grid.width:,} x {grid.height:,} pixels; give an area or a coarser resolution."
        )
    return grid


def own_grid(source: Source, model: Model, upright: bool = False) -> Grid | None:
    """Return the grid of a source's own pixels, cut to its data; it starts at a multiple of the network's stride.

    So every layer of the network has the same phase as without the cut.

    Args:
        model: The model, with its stride.
        upright: Turn pixels that are stored mirrored (south up) north up, which sources read exactly.
    """
    own, stride = source.grid, model.header.stride
    if upright and own is not None and own.crs is not None and own.affine.determinant > 0:
        own = north_up(own)
    if own is None or not isinstance(source, ClippedSource):
        return own
    box = source.extent.boundingbox
    corners = [~own.affine @ (x, y) for x in (box.left, box.right) for y in (box.bottom, box.top)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    left, top = (max(0, math.floor(min(values) / stride) * stride) for values in (xs, ys))
    right, bottom = min(own.width, math.ceil(max(xs))), min(own.height, math.ceil(max(ys)))
    return own.crop(top, left, max(bottom - top, 1), max(right - left, 1))


def _work_grid(source: Source, model: Model, resolution: float | None) -> Grid:
    own = own_grid(source, model, upright=True)
    have = None if own is None else own.ground_resolution
    need = resolution if resolution is not None else model.header.ground_resolution
    if resolution is not None and not 0 < resolution < math.inf:
        raise InputError(f"resolution must be > 0 metres per pixel and finite, got {resolution}.")
    if own is None and need is None:
        raise InputError(f"{source.name} has no pixels of its own and the model knows no scale; give a resolution.")
    if resolution is not None and own is not None and have is None:
        raise InputError(f"{source.name} has no place on Earth, so it has no metres; leave the resolution out.")
    if own is not None and (have is None or (resolution is None and model.any_resolution)):
        return own
    if need is None:
        assert own is not None
        assert have is not None
        return own if own.is_square else grid_at(source.extent, have)
    if have is not None and resolution is None and max(have / need, need / have) > MAX_SCALE_RATIO:
        raise InputError(
            f"A pixel of {source.name} is {have:.3g} m and the model was trained at {need:.3g} m; translate it at "
            f"resolution {need:.3g} (`resolution`), or take it as it is with `any_resolution`."
        )
    if own is not None and have is not None:
        if have / need > MAX_REFINEMENT:
            raise InputError(
                f"A pixel of {source.name} is {have:.3g} m, and nothing is to be seen at {need:.3g} m; give a coarser "
                "resolution."
            )
        if max(have / need, need / have) < SAME_SCALE and own.is_square:
            return own
    return grid_at(source.extent, need)


def as_area(area: Any) -> Geometry:
    """Return an area as polygons with a CRS: itself, or those of a file; see `read_area`.

    Raises:
        InputError: If it is neither, or the file cannot be read or holds no polygon.
    """
    if isinstance(area, str | Path):
        return read_area(Path(area))
    if not isinstance(area, Geometry):
        raise InputError(
            f"The area is a {type(area).__name__}; give a file, or polygons with a CRS: "
            "odc.geo.geom.Geometry(polygon, 'EPSG:4326')."
        )
    return area


def read_area(path: Path) -> Geometry:
    """Read the polygons of a file as one geometry without heights; WEST,SOUTH,EAST,NORTH in degrees is a box.

    Raises:
        InputError: If the file cannot be read or holds no polygon.
    """
    if not path.exists() and (sides := _BOX.fullmatch(str(path))):
        area = box_of_degrees(*map(float, sides.groups()))
        if area is None:
            raise InputError(f"The area {path} is no box; give west,south,east,north in degrees: 15.1,52.4,15.3,52.5.")
        return area
    if not path.exists():
        raise InputError(
            f"The area {path} cannot be read, it does not exist; check the path, or give west,south,east,north in "
            "degrees: 15.1,52.4,15.3,52.5."
        )
    from terramorph.cartography import read_polygons  # imported here because few commands read vectors

    polygons, crs = read_polygons(path)
    if polygons.is_empty:
        raise InputError(
            f"The area {path} holds no polygon, only points, lines or nothing; draw one around the ground that is "
            "wanted, or put a buffer around them."
        )
    return Geometry(polygons, crs)


def _bands(count: int) -> str:
    return f"{count} band{'s' * (count != 1)}"
