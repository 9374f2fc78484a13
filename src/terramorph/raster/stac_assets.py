"""Assets of a STAC Item: which are read, and their metadata (projection, raster, eo and file extensions)."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import numpy as np
import pyproj
from affine import Affine
from odc.geo.crs import CRS
from rasterio.crs import CRS as RasterioCRS

from terramorph.bands import Units, band_order, colour_of
from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.geo.crs import nearest, transformer
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.image import IMAGE_SUFFIXES
from terramorph.raster.layout import ReadOptions
from terramorph.raster.mosaic import Part
from terramorph.raster.storage import Remote, as_remote

Place = Path | Remote
Item = Mapping[str, Any]
"""A STAC Item."""
_NO_PIXELS = frozenset({"thumbnail", "overview", "metadata"})
"""Roles of assets that are no data."""
_DEGREES = CRS("EPSG:4326")
_SLACK = 0.05
"""Share of its own size by which an item may reach beyond the grid of its asset."""


@dataclass(frozen=True)
class Asset:
    """A file of an item.

    Attributes:
        key: Its name in the item.
        data: Its metadata, with the item's properties as defaults.
        bands: Common name (red, nir) or else name of each band; empty where they are not said.
    """

    key: str
    href: str
    data: Mapping[str, Any]
    bands: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        """Whether it is image data, by its roles and its media type or suffix."""
        roles, kind = {str(role) for role in listed(self.data.get("roles"))}, str(self.data.get("type") or "")
        suffix = PurePosixPath(re.split(r"[?#]", self.href)[0]).suffix.lower()
        image = kind.startswith("image/") if kind else suffix in IMAGE_SUFFIXES | {".vrt", ".jp2"}
        return image and not roles & _NO_PIXELS

    @property
    def size(self) -> float:
        """Metres per pixel, where stated; else infinite."""
        bands = objects(self.data.get("raster:bands")) + objects(self.data.get("bands"))
        said = [self.data.get("gsd"), self.data.get("raster:spatial_resolution")]
        said += [band.get(key) for band in bands for key in ("spatial_resolution", "raster:spatial_resolution", "gsd")]
        return min((size for size in map(_finite, said) if size is not None), default=math.inf)

    def __str__(self) -> str:
        """Return its key, and its band names."""
        return f"{self.key} ({', '.join(self.bands)})" if self.bands else self.key


Chosen = tuple[Asset, tuple[int, ...] | None]
"""An asset, and the numbers of its bands from 1; None: all of them."""


def choose(item: Item, asset: str | None, wanted: Sequence[str]) -> list[Chosen]:
    """Choose the assets of an item to read, their bands to be stacked.

    Args:
        asset: The key of an asset, the role that one has, or bands by common name or name; several with commas
            between them, such as B04,B03,B02 or red,green,blue. None: the only image; else the image that has the
            wanted bands; else single images that have one each.
        wanted: Names of bands, such as red, green, blue.

    Raises:
        RasterError: If there is none such; the sentence lists the assets.
    """
    given = item.get("assets")
    found_assets = (_asset(key, data, item) for key, data in (given.items() if isinstance(given, Mapping) else ()))
    assets = [one for one in found_assets if one is not None]
    if not assets:
        raise RasterError(f"The item {name_of(item)} has no assets; give an item that has files.")
    images = [one for one in assets if one.is_image]
    if asset is not None:
        words = [word.strip() for word in asset.split(",")]
        found = [_named(word, assets, images) for word in words]
        if None not in found:
            return [one for one in found if one]
        raise RasterError(f"The item {name_of(item)} has no asset or band {words[found.index(None)]}; {_told(assets)}.")
    if len(images) == 1:
        return [(images[0], None)]
    whole = [one for one in images if one.bands and band_order(one.bands, wanted) is not None]
    if whole:
        return [(min(whole, key=lambda one: (one.key != "visual", one.size)), None)]
    single = [_band(name, images) for name in wanted]
    if None in single:
        raise RasterError(f"The item {name_of(item)} has no image of {', '.join(wanted)}; {_told(assets)}.")
    return [one for one in single if one]


def _named(word: str, assets: Sequence[Asset], images: Sequence[Asset]) -> Chosen | None:
    """Find what a word means: an asset's key, a role, or a band."""
    for asset in assets:
        if asset.key == word:
            return asset, None
    roles = [asset for asset in images if word in listed(asset.data.get("roles"))]
    return (roles[0], None) if len(roles) == 1 else _band(word, images)


def _band(name: str, images: Sequence[Asset]) -> Chosen | None:
    """Find the finest image that has a band of that name, and the band's number."""
    found = []
    for asset in images:
        bands = [_key(band) for band in asset.bands]
        names = [str(band.get("name", "")).lower() for band in _band_objects(asset.data)]
        for known in (bands, names):
            if known.count(_key(name)) == 1:
                number = None if len(known) == 1 else (known.index(_key(name)) + 1,)
                found.append((asset, number))
                break
    return min(found, key=lambda one: one[0].size, default=None)


def _key(name: str) -> str:
    return colour_of(name) or name.lower()


def _told(assets: Sequence[Asset]) -> str:
    return f"it has {', '.join(map(str, assets))}; name one, or bands with commas between them"


def _asset(key: str, data: Any, item: Item) -> Asset | None:
    """Return an asset, with the item's extension properties as defaults; None without an address."""
    if not isinstance(data, Mapping) or not isinstance(data.get("href"), str) or not data["href"]:
        return None
    beneath = {name: value for name, value in properties(item).items() if ":" in name}
    return Asset(key, data["href"], {**beneath, **data}, tuple(map(_band_name, _band_objects(data))))


def _band_objects(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the band objects: STAC 1.1's `bands`, else the eo extension's."""
    return objects(data.get("bands")) or objects(data.get("eo:bands"))


def _band_name(band: Mapping[str, Any]) -> str:
    return str(band.get("eo:common_name") or band.get("common_name") or band.get("name") or "")


def part_of(
    item: Item,
    asset: Asset,
    numbers: tuple[int, ...] | None,
    options: ReadOptions,
    crs: CRS | None,
    signer: Callable[[Remote], Remote] | None,
    base: Place,
) -> Part:
    """Return the part of a mosaic that an asset is."""
    said = objects(asset.data.get("raster:bands")) or objects(asset.data.get("bands"))
    names = asset.bands if all(asset.bands) else ()
    picked = numbers or options.bands
    if picked:
        said = [said[number - 1] for number in picked if number <= len(said)]
        names = tuple(names[number - 1] for number in picked if number <= len(names))
    said = said or [{}]  # what is said of the whole asset
    nodata = {_number(band, asset.data, "nodata") for band in said} - {None}
    pairs = [(_number(band, asset.data, "scale"), _number(band, asset.data, "offset")) for band in said]
    units = Units.of([1.0 if s is None else s for s, _ in pairs], [o or 0.0 for _, o in pairs])
    checksum = asset.data.get("file:checksum")
    return Part(
        file=resolved(asset.href, base, item),
        names=options.names or names or None,
        grid=_grid(asset.data, item),
        options=replace(
            options,
            bands=picked,
            names=None,
            default_nodata=nodata.pop() if len(nodata) == 1 else None,
            default_units=None if options.raw else units,
        ),
        crs=crs,
        signer=signer,
        checksum=checksum if isinstance(checksum, str) else None,
    )


def _number(band: Mapping[str, Any], asset: Mapping[str, Any], key: str) -> float | None:
    """Read a number of the raster extension, of a band or of the whole asset; "nan" counts as none."""
    said = (band.get(key), band.get(f"raster:{key}"), asset.get(f"raster:{key}"), asset.get(key))
    return next((number for number in map(_finite, said) if number is not None), None)


def _finite(value: Any) -> float | None:
    """Return a number of JSON; None for other values, and for what no float holds."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _grid(data: Mapping[str, Any], item: Item) -> Grid | None:
    """Return the grid of the projection extension; None where it is incomplete or does not fit the item's bbox."""
    try:
        code, epsg, wkt, projjson = (data.get(f"proj:{key}") for key in ("code", "epsg", "wkt2", "projjson"))
        said = code or (epsg and f"EPSG:{epsg}") or pyproj.CRS.from_user_input(wkt or projjson).to_wkt()
        crs = to_odc_crs(RasterioCRS.from_string(said))
        (height, width), numbers = data["proj:shape"], data["proj:transform"]
        grid = Grid(int(height), int(width), Affine(*map(float, numbers[:6])), crs)
        points = [grid.affine @ (width * i / 2, height * j / 2) for i in range(3) for j in range(3)]
        longitude, latitude = transformer(crs, _DEGREES).transform(*np.array(points, float).T)
        longitude = nearest(longitude, longitude[4], 360)  # around the middle
        box = [float(value) for value in item["bbox"]]
        west, south, east, north = box if len(box) == 4 else (*box[:2], *box[3:5])
        east += 360 if east < west else 0
        turn = 360 * round((longitude[4] - (west + east) / 2) / 360)
        x, y = _SLACK * np.ptp(longitude), _SLACK * np.ptp(latitude)
        inside = longitude.min() - x <= west + turn and east + turn <= longitude.max() + x
        return grid if inside and latitude.min() - y <= south and north <= latitude.max() + y else None
    except Exception:  # whatever a stranger wrote there: the image is opened instead
        return None


def resolved(href: str, base: Place, item: Item) -> Place:
    """Resolve an address that may be relative.

    Raises:
        RasterError: If it is no URL or of a kind that is not read, or something on a server names a file here.
    """
    try:
        scheme = urlsplit(href).scheme
    except ValueError as error:
        raise RasterError(f"A file of {name_of(item)} is at {href}, which is no URL ({error}); correct it.") from error
    remote = as_remote(href)
    if remote is not None:
        return remote
    if len(scheme) > 1 and scheme != "file":
        raise RasterError(f"A file of {name_of(item)} is at {href}, and {scheme}:// is not read; download it.")
    if isinstance(base, Remote):
        if scheme == "file":
            raise RasterError(f"The item {name_of(item)} lies on a server and names a file here, {href}; download it.")
        if base.url.startswith("http"):
            return Remote(urljoin(base.url, href))
        bucket = "{0.scheme}://{0.netloc}".format(urlsplit(base.url))
        folder = posixpath.dirname(urlsplit(base.url).path)
        return Remote(bucket + posixpath.normpath(posixpath.join(folder, href)))
    text = url2pathname(urlsplit(href).path) if scheme == "file" else href
    path = base.parent / text
    return path if path.exists() else base.parent / unquote(text)


def name_of(item: Item) -> str:
    """Return the id of an item."""
    return str(item.get("id", "?"))


def properties(item: Item) -> Mapping[str, Any]:
    """Return the properties of an item."""
    found = item.get("properties")
    return found if isinstance(found, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """Return a list; an empty one in place of other values."""
    return value if isinstance(value, list) else []


def objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects in a list."""
    return [one for one in listed(value) if isinstance(one, Mapping)]
