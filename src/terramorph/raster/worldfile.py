"""Georeference files beside an image: .aux.xml, world file and .prj, MapInfo's .tab, OziExplorer's .map.

The first of these that gives an affine is taken, in this order:

1. ``IMAGE.aux.xml`` (GDAL's PAM) with a GeoTransform;
2. a world file (.jgw .pgw .tfw .bpw, .jpgw ..., .wld, .w);
3. a .tab that is of an image;
4. a .map that OziExplorer would read.

The CRS of the first two comes from a .prj, else from the SRS in the .aux.xml, else from a .tab or .map that puts the
image in the same place. What a GeoTIFF says itself comes before all of them, and the texts of a PNG after them.

A world file holds six numbers, A D B E C F, one a line. C and F are the place of the *centre* of the first
pixel (ESRI's convention, kept by GDAL, SAS.Planet and OziExplorer); a Grid's affine starts at its outer
corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from affine import Affine
from odc.geo.crs import CRS
from rasterio.crs import CRS as RasterioCRS

from terramorph.errors import RasterError, raised_as
from terramorph.raster.crs import to_odc_crs, to_rasterio_crs
from terramorph.raster.mapfile import find_map_file, read_map_file, read_text
from terramorph.raster.storage import Remote

_SHORT = {
    ".jpg": (".jgw", ".jpgw", ".jpegw"),
    ".jpeg": (".jgw", ".jpegw", ".jpgw"),
    ".png": (".pgw", ".pngw"),
    ".tif": (".tfw", ".tifw", ".tiffw"),
    ".tiff": (".tfw", ".tiffw", ".tifw"),
    ".bmp": (".bpw", ".bmpw"),
    ".webp": (".webpw", ".wpw"),
    ".gif": (".gfw", ".gifw"),
    ".jp2": (".j2w", ".jp2w"),
}


WORLD_SUFFIXES = frozenset({".wld", ".w"}.union(*_SHORT.values()))
"""Suffixes of world files, in lower case."""


def find_world_file(path: Path) -> Path | None:
    """Find the world file beside an image, with a lower or upper case suffix; None without one."""
    suffix = path.suffix.lower()
    return beside(path, *_SHORT.get(suffix, (f"{suffix}w",) if suffix else ()), ".wld", ".w")


def place_files(path: Path) -> list[Path]:
    """List the georeference files beside an image, sorted by name."""
    found = (find_world_file(path), beside(path, ".prj"), _aux_file(path), find_map_file(path))
    return sorted(file for file in found if file is not None)


def read_place(path: Path, shape: tuple[int, int] | None = None) -> tuple[Affine, CRS | None] | None:
    """Read affine and CRS of an image from the files beside it; None where they hold no georeference.

    Args:
        shape: (height, width) of the image, pixels; a .map made for an image of another size is refused.

    Raises:
        RasterError: If the file that is taken is damaged, or the .prj cannot be understood.
    """
    aux, world = _aux_file(path), find_world_file(path)
    text = _aux_text(aux, "GeoTransform")
    affine = _geo_transform(aux, text) if aux and text is not None else None
    if affine is None and world is not None:
        affine = _read_affine(world)
    if affine is not None:
        return affine, read_crs(path) or _crs_of_map(path, affine, shape)
    map_file = find_map_file(path)
    return None if map_file is None else read_map_file(map_file, shape)


def text_place(path: Path | Remote, texts: Mapping[Any, Any]) -> tuple[Affine, CRS | None] | None:
    """Read affine and CRS from the text chunks of a PNG (GeoTransform and SRS, as in an .aux.xml); None without them.

    Raises:
        RasterError: If they cannot be understood.
    """
    affine, crs = texts.get("GeoTransform"), texts.get("SRS")
    return None if affine is None else (_geo_transform(path, affine), _parse_crs(path, crs) if crs else None)


def read_crs(path: Path) -> CRS | None:
    """Read the CRS of a .prj or an .aux.xml beside an image; None without one.

    Raises:
        RasterError: If it cannot be understood.
    """
    prj = beside(path, ".prj")
    if prj is not None:
        return _parse_crs(prj, read_text(prj))
    aux = _aux_file(path)
    text = _aux_text(aux, "SRS")
    return _parse_crs(aux, text) if aux is not None and text and text.strip() else None


def beside(path: Path, *suffixes: str) -> Path | None:
    """Return the first existing file of the same stem with one of the suffixes, in lower or upper case."""
    for suffix in suffixes:
        for cased in (suffix, suffix.upper()):
            if path.stem and path.with_suffix(cased).is_file():
                return path.with_suffix(cased)
    return None


def _aux_file(path: Path) -> Path | None:
    aux = path.with_name(f"{path.name}.aux.xml")
    return aux if aux.is_file() else None


def _aux_text(aux: Path | None, tag: str) -> str | None:
    """Read a text of an .aux.xml; None without it."""
    if aux is None:
        return None
    with raised_as(RasterError, f"{aux}: this is not XML", "correct or remove it"):
        return ElementTree.parse(aux).findtext(tag)


def _geo_transform(file: Path | Remote, text: str) -> Affine:
    """Parse an affine from six numbers in GDAL's order."""
    return _affine(file, text.split(","), "the GeoTransform must hold six numbers", Affine.from_gdal)


def _read_affine(world: Path) -> Affine:
    """Read the affine of a world file, in CRS units, from pixel corners."""
    words = [word if "." in word else word.replace(",", ".") for word in read_text(world).split()]

    def from_centre(a: float, d: float, b: float, e: float, c: float, f: float) -> Affine:
        return Affine(a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)

    return _affine(world, words, "a world file must hold six numbers, one a line", from_centre)


def _affine(file: Path | Remote, words: list[str], wrong: str, make: Callable[..., Affine]) -> Affine:
    """Make an affine of six numbers, unless there are others or it has no inverse."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise RasterError(f"{file}: {wrong}; correct or remove it.")
    affine = make(*numbers)
    if affine.determinant == 0:
        raise RasterError(f"{file}: the pixel size in this file is 0; correct or remove it.")
    return affine


def _crs_of_map(path: Path, affine: Affine, shape: tuple[int, int] | None) -> CRS | None:
    """Read the CRS of a .tab or .map that georeferences the image like the given affine, to within a pixel."""
    map_file = find_map_file(path)
    if map_file is None:
        return None
    try:
        other, crs = read_map_file(map_file, shape)
    except RasterError:
        return None  # the place is known without it
    height, width = shape or (256, 256)
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        x, y = ~other @ (affine @ corner)
        if math.hypot(x - corner[0], y - corner[1]) > 1:
            return None
    return crs


def _parse_crs(file: Path | Remote, text: str) -> CRS:
    """Parse a CRS: WKT (ESRI's dialect too), an authority code or a PROJ string."""
    text = text.strip().strip("\0").strip()
    wkt = "[" in text
    wrong = f"{file}: this is not a coordinate system in WKT, a code such as EPSG:32633 or a PROJ string"
    with raised_as(RasterError, wrong, "correct or remove it"):
        return to_odc_crs(
            RasterioCRS.from_wkt(text, morph_from_esri_dialect=True) if wkt else RasterioCRS.from_string(text)
        )


def world_text(affine: Affine) -> str:
    """Format a world file for an affine that starts at the outer corner of the first pixel."""
    centre_x, centre_y = affine @ (0.5, 0.5)
    numbers = (affine.a, affine.d, affine.b, affine.e, centre_x, centre_y)
    return "".join(f"{float(n)!r}\n" for n in numbers)


def prj_text(crs: CRS) -> str:
    """Format a .prj file: ESRI's WKT; GDAL's where datum parameters must be kept; WKT 2 where neither can express the
    CRS."""
    try:
        if crs.proj.is_bound:
            return str(to_rasterio_crs(crs).to_wkt(version="WKT1_GDAL"))
        return str(crs.proj.to_wkt("WKT1_ESRI"))
    except Exception:  # pyproj raises CRSError or returns None where the dialect has no word for it
        return str(crs.to_wkt())
