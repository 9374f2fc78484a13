"""Opening the sides of an area: rasters as they are, vectors to be drawn."""

from __future__ import annotations

from pathlib import Path

from odc.geo.crs import CRS

from terramorph.errors import ConfigError
from terramorph.prepare.options import Opening
from terramorph.raster.image import IMAGE_SUFFIXES
from terramorph.raster.layout import ReadOptions
from terramorph.raster.open import open_source
from terramorph.raster.source import Source


def open_side(
    spec: str,
    crs: str | None,
    how: Opening,
    zoom: int | None,
    cache: Path,
    options: ReadOptions | None = None,
    any_zoom: bool = False,
) -> Source:
    """Opens one side.

    Args:
        spec: file, folder, archive or URL template.
        crs: `EPSG:n` for a side that has a place and no CRS.
        how: style, table and terms.
        zoom: of tiles; a server needs one. Default: the finest that covers the ground.
        cache: where tiles of a server are kept unless `how` says another place.
        options: of an image: which bands, and what their values mean.
        any_zoom: take the default where a folder or an archive has no tiles of that zoom.

    Raises:
        RasterError: if it cannot be opened.
        ConfigError: if the CRS is none.
    """
    place = None if crs is None else _crs(crs)
    if Path(spec).suffix.lower() not in IMAGE_SUFFIXES:
        from terramorph.cartography import VectorSource, is_vector, load_style  # half a second

        if is_vector(spec):
            if options and (options.bands or options.categorical):
                raise ConfigError(f"{spec} holds vectors, and bands and categorical are of images; leave them out.")
            return VectorSource(spec, load_style(how.style), crs=place, table=how.table, kind=how.kind)
    return open_source(
        spec,
        zoom=zoom,
        any_zoom=any_zoom,
        crs=place,
        terms=how.terms,
        cache=how.cache or cache,
        layout=how.layout,
        options=options,
    )


def _crs(text: str) -> CRS:
    try:
        return CRS(text)
    except Exception as error:  # pyproj's own errors share no base with ours
        raise ConfigError(f"{text!r} is no coordinate system; give one such as EPSG:32633.") from error
