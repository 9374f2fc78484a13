"""STAC Items as a source: an Item, an ItemCollection, or a Collection with its items (STAC 1.0 and 1.1).

https://github.com/radiantearth/stac-spec; an Item is a dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from odc.geo.crs import CRS

from terramorph.bands import RGB
from terramorph.documents import DocumentError, parse_json_object
from terramorph.errors import ConfigError, RasterError, unreadable
from terramorph.imports import module_of, resolve, running
from terramorph.raster.layout import ReadOptions
from terramorph.raster.mosaic import Layer, MosaicSource
from terramorph.raster.stac_assets import Item, Place, choose, name_of, objects, part_of, properties, resolved
from terramorph.raster.storage import Remote, as_remote

MAX_ITEMS = 10_000
"""Items of one source."""

_SUFFIXES = (".json", ".geojson")
_HEAD = 2**22
"""Bytes of a file here among which a `stac_version` stands."""


def open_stac(
    spec: str | Path, options: ReadOptions | None = None, *, wanted: Sequence[str] = RGB, crs: CRS | None = None
) -> MosaicSource | None:
    """Open the images of STAC Items as a mosaic, the newest on top; None if the file or URL holds no items.

    Relative addresses are resolved against the item. The grid comes from the projection extension where it agrees with
    the item's bbox; otherwise an image is opened for it. What the raster extension says of nodata, scale and offset
    counts where the file says nothing.

    Args:
        spec: An Item, an ItemCollection (all its pages), or a Collection.
        options: How the assets are read; its ``asset`` says which: see `choose`.
        wanted: Names of the bands for which assets are chosen where none is named.
        crs: CRS of georeferenced images that do not state it.

    Raises:
        RasterError: If an item is damaged, has no such asset, or an image cannot be opened.
        StorageError: If a server cannot be asked.
        ConfigError: If the function that signs is not found or fails.
    """
    options = options or ReadOptions()
    place = _place_of(spec)
    document = None if place is None else _read(place)
    if place is None or document is None:
        return None
    signer = partial(_signed, options.sign) if options.sign else None
    plain = replace(options, asset=None, sign=None)
    found, licences = [], set()
    for item, base in _items(document, place):
        chosen = choose(item, options.asset, wanted)
        if options.bands and (len(chosen) > 1 or chosen[0][1]):
            raise RasterError(f"`bands` are of one asset, and of {name_of(item)} several are read; leave them out.")
        licences.add(str(properties(item).get("license") or ""))
        parts = [part_of(item, asset, numbers, plain, crs, signer, base) for asset, numbers in chosen]
        found.append(Layer(tuple(parts), name_of(item), _absolute(base), *_times(item)))
        if len(found) > MAX_ITEMS:
            raise RasterError(f"{place} has over {MAX_ITEMS:,} items; search for fewer, or give a part of them.")
    if not found:
        raise RasterError(f"{place} has no items; search for others.")
    oldest = datetime.min.replace(tzinfo=UTC)
    found.sort(key=lambda layer: layer.end or oldest, reverse=True)
    return MosaicSource(str(place), found, licences.pop() or None if len(licences) == 1 else None)


def _place_of(spec: str | Path) -> Place | None:
    """Return where items may be; None for names of other things."""
    text = str(spec)
    remote = None if "{" in text else as_remote(spec)
    if remote is not None:
        suffixes = (*_SUFFIXES, "") if remote.url.startswith("http") else _SUFFIXES
        return remote if remote.suffix.lower() in suffixes else None
    path = Path(spec)
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return None
    with path.open("rb") as file:
        return path if b'"stac_version"' in file.read(_HEAD) else None


def _read(place: Place) -> dict[str, Any] | None:
    with unreadable(place):
        data = place.read_bytes()
    try:
        document = parse_json_object(data)
    except DocumentError as error:
        if b'"stac_version"' not in data:
            return None
        raise RasterError(f"{place} is damaged ({error}); fetch it again.") from error
    first = next(iter(objects(document.get("features"))), {})
    is_stac = "stac_version" in document or "stac_version" in first or "assets" in first
    return document if is_stac or _links(document, "next") else None


def _items(document: dict[str, Any], place: Place) -> Iterator[tuple[Mapping[str, Any], Place]]:
    """Yield the items of a document, of its links and of its further pages, each with its location."""
    seen = {place}
    ahead: list[tuple[Mapping[str, Any], dict[str, Any], Place]] = []  # links, the next one last, and who has them
    while True:
        yield from _features(document, place)
        if document.get("type") == "Catalog":
            raise RasterError(f"{place} is a Catalog; give one of its Collections or Items.")
        linked = [*_links(document, "item"), *_links(document, "items")] if document.get("type") == "Collection" else []
        ahead += [(link, document, place) for link in reversed([*linked, *_links(document, "next")])]
        if not ahead:
            return
        link, parent, base = ahead.pop()
        at = resolved(str(link.get("href", "")), base, parent)
        if str(link.get("method", "GET")).upper() != "GET" or at in seen or len(seen) > MAX_ITEMS:
            raise RasterError(f"{at}, where {base} goes on, cannot be fetched by address; save all items in one file.")
        seen.add(at)
        found = _read(at)
        if found is None:
            raise RasterError(f"{at}, where {base} goes on, holds no items; save all items in one file.")
        document, place = found, at


def _features(document: Mapping[str, Any], place: Place) -> Iterator[tuple[Mapping[str, Any], Place]]:
    """Yield the items in a document; an item of a collection may state its own location."""
    if document.get("type") == "Feature":
        yield document, place
    for item in objects(document.get("features")):
        own = [str(link.get("href")) for link in _links(item, "self")]
        yield item, (as_remote(own[0]) if own else None) or place


def _signed(name: str, file: Remote) -> Remote:
    """Return a signed address from the user's function."""
    sign = resolve(name, [module_of(name)])
    with running(f"The function {name}, which signs addresses,"):
        found = as_remote(str(sign(file.url)))
    if found is None:
        raise ConfigError(f"The function {name} signed {file} and gave no address; it must return a URL.")
    return found


def _times(item: Item) -> tuple[datetime | None, datetime | None]:
    at, start, end = (_time(properties(item).get(key)) for key in ("datetime", "start_datetime", "end_datetime"))
    return start or at, end or at


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _absolute(place: Place) -> str:
    return str(place) if isinstance(place, Remote) else str(place.absolute())


def _links(document: Mapping[str, Any], rel: str) -> list[Mapping[str, Any]]:
    return [link for link in objects(document.get("links")) if link.get("rel") == rel]
