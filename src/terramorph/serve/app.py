"""The web application: routes, and headers of responses."""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from terramorph.errors import InputError, TerramorphError
from terramorph.geo.mercator import MAX_ZOOM
from terramorph.raster.tiles.write import SIZE
from terramorph.redaction import redact_text
from terramorph.serve.documents import export_view, qlr, tile_path, tilejson, values_at, wmts, zooms
from terramorph.serve.drawing import DrawPage, is_held
from terramorph.serve.layers import ENLARGED, TITLES, Layer, View
from terramorph.serve.metrics import Metrics
from terramorph.serve.tiles import FORMATS, Tile, TileServer
from terramorph.serve.uploads import RefusedError, check_sender, drained

STATIC = Path(__file__).parent / "static"
for suffix in (".js", ".mjs"):  # Windows takes types from its registry, where those of scripts may be text/plain
    mimetypes.add_type("text/javascript", suffix)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "worker-src 'self' blob:; connect-src 'self'; frame-ancestors *"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Access-Control-Allow-Origin": "*",
}
_FOREVER = "public, max-age=31536000, immutable"
_BRIEFLY = "public, max-age=60"
_ONCE = "private, max-age=600"
_LOG = logging.getLogger("terramorph.serve")

Handler = Callable[[Request], Awaitable[Response]]


def _absent() -> HTTPException:
    """Return the error of what does not exist. Its text is always the same, so that clients learn nothing from it."""
    return HTTPException(404, "There is no such thing here.")


class App:
    """The routes over a `TileServer`.

    Attributes:
        draining: Whether the server is shutting down, so that readiness says no.
    """

    def __init__(self, tiles: TileServer) -> None:
        self.tiles, self.settings, self.draining = tiles, tiles.settings, False
        self.metrics = Metrics(tiles)
        self._hosts = {"localhost", "127.0.0.1", "[::1]", self.settings.host}
        guarded = {
            "/t/{layer}/{view}/{identity}/{z}/{x}/{y}.{format}": self._tile,
            "/t/{layer}/{view}/{z}/{x}/{y}.{format}": self._tile,
            "/layers": self._layers,
            "/layers/{layer}.json": self._tilejson,
            "/layers/{layer}/{view}.json": self._tilejson,
            "/layers/{layer}.qlr": self._qlr,
            "/qgis.qlr": self._qlr,
            "/wmts/1.0.0/WMTSCapabilities.xml": self._capabilities,
            "/wmts": self._wmts,
            "/point": self._point,
            "/export": self._export,
            "/status": self._status,
        }
        routes = [
            *(Route(path, self._guarded(handler)) for path, handler in guarded.items()),
            Route("/", self._page),
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
            *([Route("/metrics", self._metrics)] if self.settings.metrics_port is None else []),
            *([Route("/uploads", self._guarded(self._upload), methods=["PUT"])] if self.settings.uploads else []),
            *DrawPage(self.settings).routes,
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        self._routes = Starlette(routes=routes, lifespan=self._lifespan)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer requests, behind proxies that keep the root path in requests and behind those that strip it."""
        root = self.settings.root_path
        if root and str(scope.get("path", "")).startswith(f"{root}/"):
            scope = {**scope, "path": scope["path"][len(root) :], "raw_path": None}
        await self._routes(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        self.tiles.start()
        yield
        self.draining = True
        await self.tiles.close()

    def _guarded(self, handler: Handler) -> Handler:
        """Wrap a handler: errors become responses, headers are added, and the request is logged and counted."""

        async def handle(request: Request) -> Response:
            begun = time.monotonic()
            try:
                response = await handler(request)
            except HTTPException as error:
                response = PlainTextResponse(error.detail, error.status_code, error.headers)
            except InputError as error:
                response = PlainTextResponse(str(error), 400)
            except Exception as error:
                known = isinstance(error, TerramorphError)
                line = {"path": request.url.path, "error": str(error) if known else traceback.format_exc()}
                _LOG.error(redact_text(json.dumps(line)))
                response = PlainTextResponse("It could not be made; the log of the server says why.", 500)
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
            self._note(request, response, time.monotonic() - begun)
            return response

        return handle

    def _note(self, request: Request, response: Response, seconds: float) -> None:
        path = request.scope["path"]
        route = path.split("/")[1] or "page"
        self.metrics.answered(route, response.status_code, seconds)
        length = response.headers.get("Content-Length")
        line = {
            "path": path,
            "status": response.status_code,
            "ms": round(1000 * seconds, 1),
            "bytes": int(length or 0),
            "tile": response.headers.get("X-Terramorph"),
        }
        _LOG.info(json.dumps({key: value for key, value in line.items() if value is not None}))

    def _base(self, request: Request) -> str:
        """Return the base of links. A host that a client made up is not repeated."""
        if self.settings.public_url is not None:
            return self.settings.public_url.rstrip("/")
        named = request.headers.get("host", "")
        host = named.rpartition(":")[0] if ":" in named and not named.endswith("]") else named
        if host not in self._hosts:
            server = request.scope.get("server") or (self.settings.host, self.settings.port)
            named = f"{server[0]}:{server[1]}"
        return f"http://{named}{self.settings.root_path}"

    def _layer(self, request: Request) -> Layer:
        name = request.path_params.get("layer") or request.query_params.get("layer", "")
        layer = self.tiles.find(name, request.path_params.get("identity"))
        if layer is None:
            raise _absent()
        return layer

    def _view(self, request: Request, layer: Layer) -> View:
        name = request.path_params.get("view") or request.query_params.get("view", "output")
        if name not in layer.views:
            raise _absent()
        return layer.views[name]

    async def _page(self, _: Request) -> Response:
        return FileResponse(STATIC / "viewer.html", headers={**_HEADERS, "Cache-Control": "no-cache"})

    async def _layers(self, request: Request) -> Response:
        also = [self.tiles.uploads.find(name) for name in request.query_params.getlist("also")]
        shown = [*self.tiles.layers.values(), *(layer for layer in also if layer is not None)]
        uploads = {"mb": self.settings.upload_mb} if self.settings.uploads else None
        found = {"layers": [self._described(layer) for layer in shown], "uploads": uploads}
        return JSONResponse(found, headers={"Cache-Control": "no-cache"})

    def _described(self, layer: Layer) -> dict[str, Any]:
        def view(one: View) -> dict[str, Any]:
            low, high = zooms(layer, one)
            return {
                "name": one.name,
                "title": TITLES[one.name],
                # Relative, so that they are right behind any proxy.
                "tiles": tile_path(layer, one, one.format).lstrip("/"),
                "minzoom": low,
                "maxzoom": high,
            }

        palette = layer.palette.classes if layer.palette is not None else ()
        return {
            "name": layer.name,
            "title": layer.title,
            "identity": layer.identity,
            "bounds": layer.bounds,
            "native": layer.native,
            "attribution": layer.attribution,
            "crs": str(layer.grid.crs),
            "views": [view(one) for one in layer.views.values()],
            "classes": [{"name": one.name, "colour": "#{:02x}{:02x}{:02x}".format(*one.rgb)} for one in palette],
            "about": dict(layer.about),
        }

    async def _tilejson(self, request: Request) -> Response:
        layer = self._layer(request)
        view = self._view(request, layer)
        document = tilejson(layer, view, self._base(request), request.query_params.get("format", "png"))
        return JSONResponse(document, headers={"Cache-Control": "no-cache"})

    async def _qlr(self, request: Request) -> Response:
        layers = [self._layer(request)] if "layer" in request.path_params else list(self.tiles.layers.values())
        name = layers[0].name if len(layers) == 1 else "terramorph"
        return Response(
            qlr(layers, self._base(request)),
            media_type="application/x-qgis-layer-definition",
            headers={"Content-Disposition": f'attachment; filename="{name}.qlr"', "Cache-Control": "no-cache"},
        )

    async def _capabilities(self, request: Request) -> Response:
        document = wmts(self.tiles.layers.values(), self._base(request))
        return Response(document, media_type="application/xml", headers={"Cache-Control": "no-cache"})

    async def _wmts(self, request: Request) -> Response:
        values = {key.lower(): value for key, value in request.query_params.items()}
        asked = values.get("request", "").lower()
        if asked == "getcapabilities":
            return await self._capabilities(request)
        if asked != "gettile":
            raise InputError("REQUEST must be GetCapabilities or GetTile.")
        name, _, called = values.get("layer", "").partition(".")
        layer = self.tiles.layers.get(name)
        view = layer.views.get(called or "output") if layer is not None else None
        if layer is None or view is None:
            raise _absent()
        numbers = [values.get(key, "") for key in ("tilematrix", "tilecol", "tilerow")]
        if not _are_whole(numbers):
            raise InputError("TILEMATRIX, TILECOL and TILEROW must be whole numbers.")
        format = values.get("format", "image/png").removeprefix("image/").replace("jpeg", "jpg")
        zoom, x, y = map(int, numbers)
        return await self._answer(request, Tile(layer, view, zoom, x, y, SIZE, format), _BRIEFLY)

    async def _tile(self, request: Request) -> Response:
        layer = self._layer(request)
        view, parts = self._view(request, layer), request.path_params
        row, at, twice = parts["y"].partition("@")
        numbers = [parts["z"], parts["x"], row]
        if not _are_whole(numbers) or (at and twice != "2x"):
            raise _absent()
        zoom, x, y = map(int, numbers)
        tile = Tile(layer, view, zoom, x, y, 2 * SIZE if twice else SIZE, parts["format"])
        return await self._answer(request, tile, _FOREVER if "identity" in parts else _BRIEFLY)

    async def _answer(self, request: Request, tile: Tile, keep: str) -> Response:
        """Answer with a tile and its caching headers."""
        layer, view, zoom, x, y, _, format = tile
        if format not in FORMATS or zoom > MAX_ZOOM or not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
            raise _absent()
        headers = {"Cache-Control": _ONCE if layer.private else keep, "ETag": f'"{tile.key}"'}
        if is_held(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        low, high = zooms(layer, view)
        if view.computed and zoom < low and layer.touches(zoom, x, y):
            return Response(status_code=204, headers={"Cache-Control": _BRIEFLY, "X-Terramorph": "zoom-in"})
        if zoom > high + ENLARGED:
            raise _absent()
        data, headers["X-Terramorph"] = self.tiles.held(tile), "memory"
        if data is None:
            found = await _unless_gone(request, self.tiles.tile(tile, _client(request)))
            if found is None:
                return Response(status_code=499)  # the client has left
            data, headers["X-Terramorph"] = found
        if not data:
            return Response(status_code=204, headers=headers)
        return Response(data, media_type=FORMATS[format][0], headers=headers)

    async def _point(self, request: Request) -> Response:
        layer = self._layer(request)
        longitude, latitude = _numbers(request, "lon"), _numbers(request, "lat")
        if len(longitude) != 1 or len(latitude) != 1:
            raise InputError("lon and lat must be degrees, such as lon=11.25&lat=43.77.")
        client = _client(request)
        work = lambda: values_at(layer, longitude[0], latitude[0])  # noqa: E731
        found = await self.tiles.run(("point", layer.identity, *longitude, *latitude), client, work)
        return JSONResponse(found, headers={"Cache-Control": _ONCE if layer.private else _BRIEFLY})

    async def _export(self, request: Request) -> Response:
        layer = self._layer(request)
        view, bounds = self._view(request, layer), _numbers(request, "bbox")
        if len(bounds) != 4:
            raise InputError("bbox must be west,south,east,north in degrees.")
        most = self.settings.export_pixels
        client = _client(request)
        key = ("export", layer.identity, view.name, *bounds)
        data = await _unless_gone(request, self.tiles.run(key, client, lambda: export_view(layer, view, bounds, most)))
        if data is None:
            return Response(status_code=499)
        name = f'attachment; filename="{layer.name}-{view.name}.tif"'
        return Response(
            data, media_type="image/tiff", headers={"Content-Disposition": name, "Cache-Control": "no-store"}
        )

    async def _upload(self, request: Request) -> Response:
        """Receive a GeoTIFF, and answer with the name of its layer."""
        own = {request.headers.get("host", ""), urlsplit(self.settings.public_url or "").netloc}
        body = request.stream()
        name = request.query_params.get("layer", "")
        named = (one for one in self.settings.layers if one.name == name)
        like = next(named, None) or self.tiles.uploads.like(name)
        if like is None:
            raise _absent()
        try:
            check_sender(request.headers, own, self.settings.upload_mb)
            layer = await self.tiles.uploads.receive(body, like)
        except RefusedError:
            await drained(body, self.settings.upload_mb)
            raise
        except ClientDisconnect:
            return Response(status_code=499)
        return JSONResponse({"layer": layer.name}, 201, headers={"Cache-Control": "no-store"})

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self.tiles.status(), headers={"Cache-Control": "no-store"})

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def _ready(self, _: Request) -> Response:
        if self.draining:
            return PlainTextResponse("The server is about to end.", 503)
        problem = await self.tiles.problem()
        return PlainTextResponse(problem or "ready", 503 if problem else 200)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _client(request: Request) -> str:
    """Return the key by which the queue tells clients apart."""
    return request.client.host if request.client else ""


def _numbers(request: Request, key: str) -> list[float]:
    """Parse finite numbers of a query, separated by commas; an empty list where one is not a number."""
    try:
        found = [float(part) for part in request.query_params.get(key, "")[:200].split(",")]
    except ValueError:
        return []
    return found if all(abs(number) < 1e6 for number in found) else []


def _are_whole(numbers: list[str]) -> bool:
    """Return whether texts are whole numbers, short enough for Python to read."""
    return all(number.isdecimal() and len(number) < 12 for number in numbers)


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """Return the result of work; None as soon as the client has left, and the work is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        for one in (task, watch):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError):
                    await one
