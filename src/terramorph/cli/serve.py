"""`terramorph serve`: a raster and a model as map layers, computed when tiles are requested."""

from __future__ import annotations

import logging
import webbrowser
from pathlib import Path
from typing import Annotated, Any

from terramorph.cli.choices import Allow, Asset, Resolution, argument, from_here, option, stac_signer
from terramorph.cli.console import say
from terramorph.errors import ConfigError
from terramorph.imports import needs
from terramorph.redaction import stem_of

NAME = "serve"
EXAMPLE = "Example: terramorph serve sat2map ortho.tif --open"

_TOWN_MODEL, _TOWN_PIXELS = "town-sat2map", 1536


def _env(name: str) -> str:
    return f"TERRAMORPH_SERVE_{name}"


def run(
    model: Annotated[
        str | None, argument("Model: a bundle or a published name; or a serve.toml. Default: the procedural town.")
    ] = None,
    source: Annotated[str | None, argument("Raster, tiles or vectors that the model translates.")] = None,
    truth: Annotated[str | None, option("Raster, tiles or vectors of the true output, to compare with.")] = None,
    asset: Asset = None,
    resolution: Resolution = None,
    host: Annotated[str | None, option("Address to listen on. Default: 127.0.0.1.", envvar=_env("HOST"))] = None,
    port: Annotated[
        int | None, option("Port to listen on; 0 takes a free one. Default: 8765.", envvar=_env("PORT"))
    ] = None,
    root_path: Annotated[
        str | None, option("Path prefix behind a proxy, such as /maps.", envvar=_env("ROOT_PATH"))
    ] = None,
    public_url: Annotated[
        str | None, option("Public URL of the server, used in links.", envvar=_env("PUBLIC_URL"))
    ] = None,
    window: Annotated[int | None, option("Size of the model's windows in pixels.", envvar=_env("WINDOW"))] = None,
    cache: Annotated[Path | None, option("Cache folder for tiles; servers may share it.", envvar=_env("CACHE"))] = None,
    max_wait: Annotated[
        float | None, option("Answer 503 above this many seconds of queued work.", envvar=_env("MAX_WAIT"))
    ] = None,
    rate_limit: Annotated[
        float | None,
        option("Answer 429 to a client above this many new windows per minute.", envvar=_env("RATE_LIMIT")),
    ] = None,
    metrics_port: Annotated[
        int | None, option("Port of /metrics, instead of with the layers.", envvar=_env("METRICS_PORT"))
    ] = None,
    uploads: Annotated[bool, option("Accept GeoTIFFs from clients.", "--uploads", envvar=_env("UPLOADS"))] = False,
    browse: Annotated[bool, option("Open the page in a browser.", "--open")] = False,
    dry_run: Annotated[bool, option("Print the settings and stop.", "--dry-run")] = False,
    allow: Allow = None,
) -> None:
    """Serve a translation as map layers: a page, TileJSON, XYZ, WMTS and QGIS, the same pixels as `translate`."""
    with needs("A package of the server", "serve"):
        from terramorph.serve import load_settings
    given = {
        "host": host,
        "port": port,
        "root_path": root_path,
        "public_url": public_url,
        "window": window,
        "cache": cache,
        "max_wait": max_wait,
        "rate_limit": rate_limit,
        "metrics_port": metrics_port,
        "uploads": uploads or None,
        "allow": allow,
        "sign": stac_signer(),
    }
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    file = model if model is not None and model.endswith(".toml") else None
    if file is not None and any(value is not None for value in (source, truth, asset, resolution)):
        raise ConfigError(f"{file} defines the layers; leave out SOURCE, --truth, --asset and --resolution.")
    if file is None:
        values["layers"] = [{**_layer(model, source, truth), "resolution": resolution, "asset": asset}]
    settings = load_settings(file, values)
    if dry_run:
        say(settings.model_dump_json(indent=2))
        return
    from_here(settings.allow)
    _serve(settings, browse)


def _layer(model: str | None, source: str | None, truth: str | None) -> dict[str, Any]:
    """Return the layer of the command line; the town if it names none."""
    if model is None:
        return _town()
    if source is None:
        raise ConfigError(f"SOURCE is missing: give a raster for {model}, such as: terramorph serve {model} ortho.tif")
    title = stem_of(source.rstrip("/"))
    stem = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
    name = stem[:64] if stem.isascii() and stem else "layer"
    return {"name": name, "title": title or name, "model": model, "source": source, "truth": truth}


def _town() -> dict[str, Any]:
    """Return the layer of the procedural town, whose image and map are in the cache."""
    from terramorph.data.cache import DEFAULT_CACHE
    from terramorph.header import read_header
    from terramorph.raster import write_image
    from terramorph.town import make_town

    folder = DEFAULT_CACHE / "town"
    resolution = read_header(_TOWN_MODEL).ground_resolution or 1.0
    sides = [folder / f"{side}-{_TOWN_PIXELS}-{resolution:g}.tif" for side in ("aerial", "map")]
    if not all(path.is_file() for path in sides):
        folder.mkdir(parents=True, exist_ok=True)
        town = make_town(_TOWN_PIXELS, resolution=resolution)
        write_image(town.aerial(), sides[0])
        write_image(town.map(), sides[1])
    return {
        "name": "town",
        "title": "Procedural town",
        "model": _TOWN_MODEL,
        "source": str(sides[0]),
        "truth": str(sides[1]),
        "attribution": "terramorph's procedural town",
    }


def _serve(settings: Any, browse: bool) -> None:
    from terramorph.serve import Server, open_server
    from terramorph.translate.memory import keep_freed_memory

    keep_freed_memory()  # not where a notebook has a server: it holds for the whole process
    server = Server(open_server(settings))
    log = logging.getLogger("terramorph.serve")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())

    def ready(address: str) -> None:
        say(f"Serving at {address}")
        if browse:
            webbrowser.open(address)

    server.serve_until_told(ready)
