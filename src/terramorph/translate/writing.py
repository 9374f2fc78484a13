"""Translations of any size to a file: windows are predicted one by one and kept as parts, then joined.

Each window is a file, whichever process or machine wrote it, so a translation that was stopped resumes and ends with
the same pixels. Memory does not depend on the size of the raster.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odc.geo.geom import Geometry

from terramorph.errors import ConfigError, InputError, RasterError
from terramorph.geo.crs import on_earth
from terramorph.raster import Source
from terramorph.raster.storage import Remote, location, placed
from terramorph.translate import stac
from terramorph.translate.engine import Job, LocalEngine, identity
from terramorph.translate.files import translate_images
from terramorph.translate.outputs import (
    SPREAD,
    Joined,
    Output,
    Picture,
    Request,
    Written,
    check_places,
    output_of,
    refuse_present,
    warn_of_no_data,
)
from terramorph.translate.paired import half_of_pair
from terramorph.translate.parts import Parts, is_begun
from terramorph.translate.plan import as_area, opened, own_grid, plan

if TYPE_CHECKING:
    from terramorph.translate.model import Model


def translate_to(model: Model, source: Any, output: str | Path, request: Request) -> Written:
    """Translate a source to an output; see `Model.translate_to`."""
    place, named = output_of(output, request.kind), isinstance(source, str | Path)
    if place is not None and place.of_probabilities and model.classes is None:
        if request.engine is not None:
            raise ConfigError("Probabilities on workers need a model loaded with `classes`, here and on each of them.")
        model = model.probabilities(request.style)
    folder = named and isinstance(place, Picture) and Path(source).is_dir()
    if place is None or folder or isinstance(source, list | tuple):
        if request.engine is not None:
            raise ConfigError(f"Workers need an output of one raster, got {output} for images; name it .tif or .png.")
        if not (named or isinstance(source, list | tuple)) or "{z}" in str(source):
            raise InputError(f"The name {output} does not say in which format; name it .tif, .mbtiles or .pmtiles.")
        return translate_images(model, source, Path(output), request)
    if request.skip_bad or request.suffix is not None:
        raise ConfigError(f"`skip_bad` and `suffix` need a folder of images, got {output}; leave them out.")
    return Written(_translate_raster(model, source, place, request))


def _translate_raster(model: Model, source: Any, output: Output, request: Request) -> list[Path | Remote]:
    """Translate one source to one output; without uncertainty, several samples are several outputs."""
    if request.uncertainty is not None and request.samples < 2:
        raise ConfigError("`uncertainty` needs `samples` >= 2, in mode paper, got 1.")
    if request.engine is not None and isinstance(output.place, Path):
        output = replace(output, place=output.place.absolute())  # workers may have another working directory
    if request.area is not None:
        request = replace(request, area=as_area(request.area))
    with ExitStack() as stack:
        try:
            whole = stack.enter_context(opened(model, source, None, request.opening))
        except RasterError as error:
            if not (isinstance(source, str | Path) and Path(source).is_dir()):
                raise
            said = str(error).rstrip(".")
            raise InputError(
                f"{said}; the output of a folder of images must be a folder, got {output.place}."
            ) from error
        seen = half_of_pair(whole, model.header, request.pairs)
        if seen is not whole and request.engine is not None:
            raise ConfigError(f"Workers open all of {whole.name}, an A|B pair; translate its half without them.")
        model.check_samples(request.samples)
        if request.uncertainty is not None or request.samples == 1:
            return [_translate(model, seen, output, request)]
        name, numbers = output.place, range(request.samples)
        places = [name.with_name(f"{name.stem}_{number + 1}{name.suffix}") for number in numbers]
        begun = [] if request.restart else [number for number in numbers if is_begun(places[number])]
        # One after the other: those before the first that is begun are finished, those after it may be of another call.
        first = begun[0] if begun else 0
        if not request.overwrite:
            refuse_present([places[number] for number in numbers[first:] if number not in begun])
        for number, place in enumerate(places):
            if number >= first or not place.exists():
                draw = replace(request, samples=1, sample=number)
                _translate(model, seen, replace(output, place=place), draw)
    return list(places)


def _translate(model: Model, whole: Source, output: Output, request: Request) -> Path | Remote:
    area = request.area if isinstance(request.area, Geometry) else None
    uncertainty = None if request.uncertainty is None else Path(request.uncertainty)
    with ExitStack() as stack:
        seen = stack.enter_context(opened(model, whole, area, {}))
        tiled = plan(
            model,
            seen,
            resolution=request.resolution,
            samples=request.samples,
            sample=request.sample,
            window=request.window,
            overlap=request.overlap,
        )
        output.check(seen, model.header, tiled.grid, request.match_source)
        # Where unfinished parts lie beside it, replacing it was allowed when they were begun.
        overwrite = request.overwrite or (is_begun(output.place) and not request.restart)
        if request.stac and not output.has_item:
            raise ConfigError(f"A STAC item needs a GeoTIFF, got {output.place}; name it .tif, or leave `stac` out.")
        if request.stac and tiled.grid.crs is None:
            raise InputError(f"A STAC item needs a georeference, and {whole.name} has none; leave `stac` out.")
        if request.stac and not on_earth(tiled.grid.crs):
            raise InputError(f"A STAC item needs a place on Earth; {whole.name} says none that is; leave `stac` out.")
        check_places(output, uncertainty, whole, overwrite, stac.places(output.place) if request.stac else ())
        engine = request.engine or LocalEngine(model)
        request.tell("looking at the source", 0, 1)  # all of it, for the fingerprint
        what = {
            **identity(model, seen.fingerprint(), engine.backend),
            "grid": [tiled.grid.height, tiled.grid.width, *tiled.grid.affine[:6], str(tiled.grid.crs)],
            "cover": str(tiled.cover),
            "samples": [request.sample, request.samples],
            "parts": tiled.dtype.name,
        }
        request.tell("looking at the source", 1, 1)
        parts = Parts(output.place, what, request.restart)
        with parts.locked():
            engine.compute(Job(tiled, seen, area, parts), request.stages, partial(request.tell, "translating"))
            if parts.are_empty():
                warn_of_no_data(whole.name, output.place, area is not None)
            back = own_grid(seen, model) if request.match_source else None
            back = None if back == tiled.grid else back
            joined = Joined(tiled, whole, parts, back, request)
            with placed(output.place, parts.scratch) as path:
                output.write(path, joined)
                spread = None if uncertainty is None else location(uncertainty)
                items: list[str] = []
                if request.stac:
                    legend = output.palette(joined)
                    items = stac.describe(path, output.place, whole, seen.extent, model, legend, spread)
            if uncertainty is not None:
                with placed(location(uncertainty), parts.scratch) as path:
                    joined.write_cog(path, joined.grid, joined.strips(spread=True), *SPREAD)
            stac.write(items, output.place)
        parts.remove()
    return output.place
