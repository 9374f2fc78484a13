"""The draw page at `/draw/`, with the models of the layers or those of the town."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mimetypes
import tempfile
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from terramorph.cartography import load_style
from terramorph.draw import WebModel, check_network, site_files
from terramorph.draw.site import CONFIG, PAGE, direction
from terramorph.errors import TerramorphError
from terramorph.header import read_header
from terramorph.serve.settings import Settings

TOWN = "town-map2sat"
"""The model from maps to photographs of a server whose layers have none."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' blob:; frame-ancestors *"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # These two allow threads in the page.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class DrawPage:
    """The files of the page, made on the first request and kept in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files: dict[str, tuple[bytes, str]] | None = None
        self._making = asyncio.Lock()

    @property
    def routes(self) -> list[Route]:
        """Routes at and below `/draw/`."""
        return [Route("/draw", lambda _: RedirectResponse("draw/")), Route("/draw/{name:path}", self._answer)]

    async def _answer(self, request: Request) -> Response:
        try:
            async with self._making:
                if self._files is None:
                    self._files = await asyncio.to_thread(self._make)
        except TerramorphError as error:
            return PlainTextResponse(f"The draw page could not be made: {error}", 501)
        name = request.path_params["name"] or PAGE
        if name not in self._files:
            return PlainTextResponse("There is no such thing here.", 404)
        content, tag = self._files[name]
        # The name of a network has its digest.
        keep = "public, max-age=31536000, immutable" if name.endswith(".onnx.gz") else "no-cache"
        headers = {**_HEADERS, "ETag": tag, "Cache-Control": keep}
        if is_held(request, tag):
            return Response(status_code=304, headers=headers)
        # The page decompresses files itself, so the type is not that of their content.
        kind = "application/gzip" if name.endswith(".gz") else mimetypes.guess_type(name)[0]
        return Response(content, media_type=kind or "application/octet-stream", headers=headers)

    def _make(self) -> dict[str, tuple[bytes, str]]:
        """Make the files: content and ETag by name.

        Raises:
            TerramorphError: If a network cannot be exported.
        """
        from terramorph.bundle import load_bundle
        from terramorph.interop import export_web

        with tempfile.TemporaryDirectory() as folder:
            models, names = [], self._models()
            for number, name in enumerate(names):
                bundle = load_bundle(name, self._settings.allow)
                models.append(WebModel.of(bundle, export_web(bundle, Path(folder) / f"{number}.onnx"), name))
            layer = next((one for one in self._settings.layers if one.model == names[0]), None)
            style = load_style(layer.style) if layer is not None else None
            server = {"viewer": "../", "layer": layer.name} if layer is not None and self._settings.uploads else None
            files, config = site_files(models, style=style, server=server)
        files[CONFIG] = json.dumps(config).encode()
        return {name: (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"') for name, content in files.items()}

    def _models(self) -> list[str]:
        """Return the first model of each direction that the page can use, and always one from maps to photographs."""
        found: dict[str, str] = {}
        for layer in self._settings.layers:
            try:
                header = read_header(layer.model)
                check_network(header, layer.model)
            except TerramorphError:
                continue  # an exported network, or one of other bands
            found.setdefault(direction(header), layer.model)
        return [found.pop("map2sat", TOWN), *found.values()]


def is_held(request: Request, tag: str) -> bool:
    """Return whether a client holds the content of an ETag: one of several, or made weak by a proxy that compresses."""
    return tag in {held.strip().removeprefix("W/") for held in request.headers.get("if-none-match", "").split(",")}
