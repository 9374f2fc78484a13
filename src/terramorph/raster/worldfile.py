"""World files and .prj files: the place of a PNG or JPEG, beside it.

A world file holds six numbers, A D B E C F, one a line. C and F are the place of the *centre* of the first
pixel (ESRI's convention, kept by GDAL, SAS.Planet and OziExplorer); a Grid's affine starts at its outer
corner.
"""

from __future__ import annotations

import math
from pathlib import Path

from affine import Affine
from odc.geo.crs import CRS
from rasterio.crs import CRS as RasterioCRS

from terramorph.errors import RasterError

_SHORT = {
    ".jpg": (".jgw", ".jpgw", ".jpegw"),
    ".jpeg": (".jgw", ".jpegw", ".jpgw"),
    ".png": (".pgw", ".pngw"),
    ".tif": (".tfw", ".tifw", ".tiffw"),
    ".tiff": (".tfw", ".tiffw", ".tifw"),
    ".bmp": (".bpw", ".bmpw"),
    ".webp": (".webpw", ".wpw"),
}


def find_world_file(path: Path) -> Path | None:
    """The world file beside an image, or None. Lower and upper case suffixes are both seen."""
    suffix = path.suffix.lower()
    for candidate in (*_SHORT.get(suffix, ()), ".wld", ".w"):
        for cased in (candidate, candidate.upper()):
            found = path.with_suffix(cased)
            if found.is_file():
                return found
    return None


def read_place(path: Path) -> tuple[Affine, CRS | None] | None:
    """Affine and CRS of an image from the files beside it, or None where there is no world file.

    The CRS comes from a .prj file of the same name and is None without one.

    Raises:
        RasterError: If the world file does not hold six usable numbers, or the .prj cannot be understood.
    """
    world = find_world_file(path)
    if world is None:
        return None
    affine = _read_affine(world)
    for suffix in (".prj", ".PRJ"):
        prj = path.with_suffix(suffix)
        if prj.is_file():
            return affine, _read_prj(prj)
    return affine, None


def _read_affine(world: Path) -> Affine:
    """The affine of a world file, in CRS units, from pixel corners."""
    try:
        words = world.read_text(encoding="utf-8-sig").split()
        numbers = [float(word if "." in word else word.replace(",", ".")) for word in words]
    except (OSError, UnicodeDecodeError, ValueError):
        numbers = []
    if len(numbers) != 6 or not all(math.isfinite(n) for n in numbers):
        raise RasterError(f"{world}: a world file must hold six numbers, one a line; correct or remove it.")
    a, d, b, e, c, f = numbers
    if a * e - b * d == 0:
        raise RasterError(f"{world}: the pixel size in this world file is 0; correct or remove it.")
    return Affine(a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)


def _read_prj(prj: Path) -> CRS:
    """The CRS of a .prj file (WKT, ESRI's dialect too)."""
    try:
        return to_odc_crs(RasterioCRS.from_wkt(prj.read_text(encoding="utf-8-sig"), morph_from_esri_dialect=True))
    except Exception as error:  # GDAL and pyproj raise classes of their own, which share no base
        raise RasterError(f"{prj}: this is no coordinate system in WKT; correct or remove it.") from error


def to_odc_crs(crs: RasterioCRS) -> CRS:
    """odc-geo's CRS of rasterio's; by EPSG code where it has one, so that equal systems compare equal."""
    epsg = crs.to_epsg()
    return CRS(f"EPSG:{epsg}") if epsg else CRS(crs.to_wkt())


def world_text(affine: Affine) -> str:
    """The text of a world file for an affine that starts at the outer corner of the first pixel."""
    centre_x, centre_y = affine @ (0.5, 0.5)
    numbers = (affine.a, affine.d, affine.b, affine.e, centre_x, centre_y)
    return "".join(f"{float(n)!r}\n" for n in numbers)


def prj_text(crs: CRS) -> str:
    """The text of a .prj file: ESRI's WKT, or WKT 2 for a CRS which that cannot express."""
    try:
        return str(crs.proj.to_wkt("WKT1_ESRI"))
    except Exception:  # pyproj raises CRSError or returns None where the dialect has no word for it
        return str(crs.to_wkt())
