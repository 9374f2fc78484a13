"""Layers of a server, and their addresses in QGIS. Nothing here knows QGIS."""

import json
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit


class ServerError(Exception):
    """The address is not a terramorph server's, in one sentence."""


@dataclass(frozen=True)
class Tiles:
    """A view of a layer, as tiles.

    Attributes:
        layer, title: Of the layer: its name in addresses, and the one for people.
        view: What is seen of it, such as Output.
        uri: Of a raster layer of QGIS' provider wms.
        bounds: (west, south, east, north), degrees.
        attribution: Terms of use, or an empty string.
    """

    layer: str
    title: str
    view: str
    uri: str
    bounds: tuple
    attribution: str

    @property
    def name(self):
        """Name of the layer in QGIS, as in the server's own layer files."""
        return f"{self.title}: {self.view.lower()}"


def base_address(text):
    """Return a typed address as one that ends in a slash.

    Raises:
        ServerError: If it is none.
    """
    text = text.strip()
    if "://" not in text:
        text = f"http://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ServerError(f"{text} is not the address of a server; give one such as http://127.0.0.1:8765.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"


def read_listing(address, data):
    """Read the views that a server lists at /layers.

    Args:
        address: Of the server, as `base_address` gives it.
        data: bytes of the listing.

    Returns:
        `Tiles`, in the server's order.

    Raises:
        ServerError: If it is no listing.
    """
    try:
        return [_tiles(address, layer, view) for layer in json.loads(data)["layers"] for view in layer["views"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{address} is not a terramorph server: what it lists cannot be read.") from error


def _tiles(address, layer, view):
    # Its tiles are listed relative to the server, so they are right behind any proxy; and every view has PNG.
    template = view["tiles"].rpartition(".")[0] + ".png"
    url = urljoin(address, template)
    low, high = int(view["minzoom"]), int(view["maxzoom"])
    return Tiles(
        layer=layer["name"],
        title=layer["title"],
        view=view["title"],
        uri=f"type=xyz&url={quote(url, safe='')}&zmin={low}&zmax={high}&tilePixelRatio=1",
        bounds=tuple(float(side) for side in layer["bounds"]),
        attribution=layer.get("attribution") or "",
    )
