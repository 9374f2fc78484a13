"""Calibration files: OziExplorer's .map and MapInfo's .tab, which georeference an image by a few points.

Points are given in degrees or in the units of a projection, at pixel corners: (0, 0) is the outer corner of the first
pixel, as SAS.Planet writes them and GDAL reads them. An affine is fitted to them by least squares, and must meet them
to within half a pixel.

OziExplorer knows one Mercator. SAS.Planet writes web mercator (EPSG:3857) and world mercator (EPSG:3395) alike as
"Mercator" on "WGS 84"; pixels are square in only one of the two, which tells them apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from PIL import Image
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS as RasterioCRS
from rasterio.errors import CRSError, RasterioError

from terramorph.errors import RasterError, raised_as, unreadable
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.quiet import quiet

_OZI = "OziExplorer Map Data File"
_MERCATORS = ("EPSG:3857", "EPSG:3395", "EPSG:4326")
_NUMBER = r"\s*(-?[\d.]+(?:[eE][-+]?\d+)?)\s*"
_TAB_POINT = re.compile(rf"^\s*\({_NUMBER},{_NUMBER}\)\s*\({_NUMBER},{_NUMBER}\)", re.MULTILINE)
_MAX_OFF = 0.5
"""Pixels by which a point may miss the fitted affine."""
_OZI_ROUNDING = 0.5e-4 / 60
"""Degrees that are lost where minutes are written to four decimals."""
_CODE_PAGES = (
    *("cp1251", "cp1252", "cp1250", "cp1253", "cp1254", "cp1257", "cp1255", "cp1256", "cp1258", "cp874"),
    *("cp866", "cp932", "gb18030", "cp949", "cp950"),
)
"""Code pages that a file name may be in; a .tab states it (!charset), a .map does not: the existing files decide."""
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2"})
_SQUARE = 1e-3
"""Shares of a pixel's side by which two candidates must differ to be told apart."""


@dataclass(frozen=True, slots=True)
class _Calibration:
    """Content of a calibration file.

    Attributes:
        points: (N, 4) of column, row, x, y.
        degrees: Whether x and y are longitude and latitude, in degrees.
        systems: CRSs that the image may be in.
        size: (height, width) of the image in pixels, or None if it is not said.
        rounding: Error of x and y from the precision they are written with, in their units.
    """

    points: NDArray[np.float64]
    degrees: bool
    systems: tuple[CRS, ...]
    size: tuple[int, int] | None = None
    rounding: float = 0.0


def find_map_file(path: Path) -> Path | None:
    """Find the .tab, else the .map, that calibrates an image; None without one.

    Files of other programs with these suffixes, and those of another image that lies beside it, are passed over.
    """
    for suffix in (".tab", ".TAB", ".map", ".MAP"):
        beside = path.with_suffix(suffix) if path.stem else path
        if beside == path or not beside.is_file():
            continue
        text = _calibration_text(beside)
        if text is not None:
            names = _image_names(text)
            if _alike(path.name) in map(_alike, names) or not any(path.with_name(name).is_file() for name in names):
                return beside
    return None


def is_calibration(path: Path) -> bool:
    """Return whether a .map or .tab calibrates an image."""
    return _calibration_text(path) is not None


def calibrated_image(path: Path) -> Path | None:
    """Find the image that a .map or .tab calibrates; None where ``path`` is no calibration file.

    Raises:
        RasterError: If that image is not beside it.
    """
    text = _calibration_text(path) if path.suffix.lower() in (".map", ".tab") and path.is_file() else None
    if text is None:
        return None
    names = _image_names(text)
    beside = {_alike(file.name): file for file in sorted(path.parent.iterdir()) if file.is_file()}
    found = next((beside[_alike(name)] for name in names if _alike(name) in beside), None)
    alone = [f for f in beside.values() if f.stem == path.stem and f.suffix.lower() in _IMAGES]
    if found is None and len(alone) != 1:
        name = names[0] if names else ""
        raise RasterError(f"{path} is of the image '{name}', which does not lie beside it; put it there.")
    return found or alone[0]


def read_map_file(file: Path, shape: tuple[int, int] | None = None) -> tuple[Affine, CRS]:
    """Read affine and CRS of a calibration file.

    Args:
        file: A .map or .tab.
        shape: (height, width) of the image, to be compared with what the file says.

    Raises:
        RasterError: If the file is damaged, is of an image of another size, is in a coordinate system that is not
            read, or no affine meets its points to within half a pixel.
    """
    text, damaged = _calibration_text(file) or "", f"{file}: this calibration file is damaged"
    with raised_as(RasterError, damaged, "correct or remove it", ValueError, IndexError):
        said = _read_ozi(file, text) if text.startswith(_OZI) else _read_tab(file, text)
    if shape is not None and said.size is not None and said.size != shape:
        raise RasterError(
            f"{file} is of an image of {said.size[0]} x {said.size[1]} pixels and the image has {shape[0]} x "
            f"{shape[1]}; export both again, or remove it."
        )
    fits = []
    for crs in said.systems:
        with raised_as(RasterError, f"{file}: its coordinate system is damaged", "correct or remove it", ProjError):
            affine, off = fit_affine(_projected(said, crs))
        if affine is not None and off <= _MAX_OFF + _rounding_pixels(said):
            squareness = abs(math.log(math.hypot(affine.a, affine.d) / math.hypot(affine.b, affine.e)))
            fits.append((squareness, affine, crs))
    if not fits:
        raise RasterError(
            f"{file}: its {len(said.points)} points fit no straight grid to within half a pixel; warp the image to a "
            "GeoTIFF (gdalwarp), or remove the file."
        )
    squarest = min(squareness for squareness, _, _ in fits)
    return next((affine, crs) for squareness, affine, crs in fits if squareness <= squarest + _SQUARE)


def fit_affine(points: NDArray[np.float64]) -> tuple[Affine | None, float]:
    """Fit an affine to points by least squares.

    Args:
        points: (N, 4) of column, row, x, y; two points make an upright grid, three or more any affine.

    Returns:
        The affine, and how far the point that is worst met is off, in pixels. (None, inf) where the points do not
        span a grid.
    """
    pixels, places = points[:, :2], points[:, 2:]
    if len(points) < 2 or not np.isfinite(points).all() or (np.ptp(points, axis=0) == 0).any():
        return None, math.inf
    middle, home = pixels.mean(axis=0), places.mean(axis=0)
    if len(points) == 2:
        a, e = (places[1] - places[0]) / (pixels[1] - pixels[0])
        turn = np.array([[a, 0.0], [0.0, e]])
    else:
        solved, _, rank, _ = np.linalg.lstsq(pixels - middle, places - home, rcond=1e-9)
        turn = solved.T
        if rank < 2:
            return None, math.inf
    if abs(np.linalg.det(turn)) < 1e-12 * np.abs(turn).max() ** 2:
        return None, math.inf
    start = home - turn @ middle
    misses = (places - home) @ np.linalg.inv(turn).T - (pixels - middle)
    (a, b), (d, e) = turn.tolist()
    return Affine(a, b, float(start[0]), d, e, float(start[1])), float(np.hypot(*misses.T).max())


def read_text(file: Path) -> str:
    """Read the text of a small file: UTF-8, UTF-16 with a byte order mark, else Latin-1.

    Raises:
        RasterError: If it cannot be read.
    """
    with unreadable(file):
        content = file.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _calibration_text(file: Path) -> str | None:
    """Read the text of a calibration file; None for other files."""
    with file.open("rb") as opened:
        head = opened.read(256).lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not head.startswith((_OZI.lower().encode(), b"!table")):
        return None
    text = read_text(file).lstrip("\ufeff \r\n\t")
    raster_table = re.search(r'^\s*type\s+"raster"', text, re.MULTILINE | re.IGNORECASE)
    return text if text.startswith(_OZI) or raster_table else None


def _image_names(text: str) -> list[str]:
    """Return the image's file name from a calibration text: as UTF-8, else in each code page it may be in."""
    if text.startswith(_OZI):
        lines = text.splitlines()
        name = lines[2].strip() if len(lines) > 2 else ""
    else:
        found = re.search(r'^\s*file\s+"([^"]*)"', text, re.MULTILINE | re.IGNORECASE)
        name = found.group(1) if found else ""
    names = [name]
    if not name.isascii():
        for page in _CODE_PAGES:
            with suppress(UnicodeError):  # `read_text` gives bytes that are no UTF-8 as Latin-1
                names.append(name.encode("latin-1").decode(page))
    bare = [each.replace("\\", "/").rpartition("/")[2] for each in names]
    return [each for each in dict.fromkeys([*bare[1:], *bare]) if each and "\0" not in each]


def _alike(name: str) -> str:
    """Fold a file name for comparison: case and Unicode normalization do not count."""
    return unicodedata.normalize("NFC", name).casefold()


def _read_ozi(file: Path, text: str) -> _Calibration:
    lines = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    datum = lines[4][0]
    projection = next((line[1] for line in lines if line[0] == "Map Projection" and len(line) > 1), "")
    points = [line for line in lines if re.fullmatch(r"Point\d+", line[0]) and len(line) > 11 and line[2] and line[3]]
    degrees = all(line[6] and line[9] for line in points)
    if degrees:
        places = [(*map(float, line[2:4]), _degrees(line[9:12]), _degrees(line[6:9])) for line in points]
    else:
        places = [tuple(float(field) for field in (line[2], line[3], line[14], line[15])) for line in points]
    size = next((line for line in lines if line[0] == "IWH" and len(line) > 3), None)
    systems: tuple[CRS, ...]
    if datum == "WGS 84" and projection == "Mercator" and degrees:
        systems = tuple(CRS(name) for name in _MERCATORS)
    elif datum == "WGS 84" and projection == "Latitude/Longitude" and degrees:
        systems = (CRS("EPSG:4326"),)
    else:
        setup = next((line[1:] for line in lines if line[0] == "Projection Setup"), [])
        systems = (_gdal_crs(file, datum, projection, setup, points),)
    return _Calibration(
        points=np.array(places, np.float64).reshape(-1, 4),
        degrees=degrees,
        systems=systems,
        size=None if size is None else (int(size[3]), int(size[2])),
        rounding=_OZI_ROUNDING if degrees else 0.0,
    )


def _degrees(fields: list[str]) -> float:
    value = float(fields[0]) + float(fields[1]) / 60
    return -value if fields[2].upper() in ("S", "W") else value


def _gdal_crs(file: Path, datum: str, projection: str, setup: list[str], points: list[list[str]]) -> CRS:
    """Return the CRS that GDAL reads from a .map.

    GDAL is given a .map of one pixel that is whole: a damaged one ends the process. It finds a UTM zone in the points.
    """
    numbers = [text if re.fullmatch(r"[-+]?\d+(\.\d*)?", text) else "" for text in (setup + [""] * 7)[:7]]
    lines = [
        f"{_OZI} Version 2.2",
        "one pixel",
        "pixel.png",
        "1 ,Map Code,",
        f"{datum},WGS 84,0,0,WGS 84",
        f"Map Projection,{projection},PolyCal,No,AutoCalOnly,No,BSBUseWPX,No",
        *(",".join([*line, *[""] * 17][:17]) for line in points),
        f"Projection Setup,{','.join(numbers)},,,",
    ]
    found = None
    if datum and projection and all(line.isascii() and line.isprintable() and len(line) < 300 for line in lines):
        with TemporaryDirectory() as folder:
            Image.new("L", (1, 1)).save(Path(folder) / "pixel.png")
            whole = Path(folder) / "pixel.map"
            whole.write_bytes("\r\n".join([*lines, ""]).encode("ascii"))
            with suppress(RasterioError, CPLE_BaseError, ProjError), quiet(), rasterio.open(whole) as dataset:
                crs = dataset.crs or dataset.gcps[1]
                found = to_odc_crs(crs) if crs else None
    if found is None or not (found.geographic or found.projected):
        raise RasterError(
            f"{file}: its coordinate system '{projection} on {datum}' is not known; save the image as a GeoTIFF."
        )
    return found


def _read_tab(file: Path, text: str) -> _Calibration:
    """Parse a .tab."""
    points = [[float(number) for number in found] for found in _TAB_POINT.findall(text)]
    line = next((line.strip() for line in text.splitlines() if "coordsys" in line.lower()), "no CoordSys")
    crs = _mapinfo_crs(line)
    if crs is None:
        raise RasterError(
            f"{file}: its coordinate system ({line}) is not one that is read; save the image as a GeoTIFF instead."
        )
    # SAS.Planet once wrote WGS 84 for both Mercators too.
    systems = (crs, *map(CRS, _MERCATORS[:2])) if crs == "EPSG:4326" else (crs,)
    return _Calibration(
        points=np.array(points, np.float64).reshape(-1, 4)[:, [2, 3, 0, 1]],
        degrees=crs.geographic or re.search(r'Units\s+"degree"', text, re.IGNORECASE) is not None,
        systems=systems,
    )


@lru_cache(maxsize=64)
def _mapinfo_crs(line: str) -> CRS | None:
    """Return the CRS of a CoordSys clause, read by GDAL in a MapInfo file without features; None if it knows none.

    The images of a mosaic mostly have one clause, and to read it takes a twentieth of a second.
    """
    import pyogrio  # brings pyarrow, which other images need not wait for
    from pyogrio.errors import DataSourceError

    if not re.fullmatch(r"CoordSys Earth Projection [\w\s.,\"()+-]+", line, re.IGNORECASE | re.ASCII):
        return None
    with TemporaryDirectory() as folder, suppress(DataSourceError, ProjError, CRSError):
        table = Path(folder) / "empty.mif"
        table.write_text(f"Version 300\n{line}\nColumns 1\n  id Integer\nData\n", "ascii")
        table.with_suffix(".mid").touch()
        found = pyogrio.read_info(table)["crs"]
        return to_odc_crs(RasterioCRS.from_user_input(found)) if found else None
    return None


def _projected(said: _Calibration, crs: CRS) -> NDArray[np.float64]:
    """Return the points of a calibration with their coordinates in a CRS."""
    if not said.degrees or crs.geographic:
        return said.points
    base = crs.proj.geodetic_crs
    x, y = Transformer.from_crs(base, crs.proj, always_xy=True).transform(said.points[:, 2], said.points[:, 3])
    return np.column_stack([said.points[:, :2], x, y])


def _rounding_pixels(said: _Calibration) -> float:
    """Return the error of a calibration's written coordinates, in pixels."""
    spans = np.ptp(said.points, axis=0)
    return float(said.rounding * np.max(spans[:2] / np.maximum(spans[2:], 1e-12)))
