"""Opening of the layers in the settings, again when their files change."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from terramorph._version import __version__
from terramorph.cartography import load_style, palette_of
from terramorph.errors import BundleError, InputError, TerramorphError
from terramorph.header import find_bundle
from terramorph.raster import ReadOptions, Source
from terramorph.raster.mosaic import MosaicSource
from terramorph.raster.packed import zipped
from terramorph.raster.storage import Remote, as_remote
from terramorph.serve.cache import FolderCache, Windows
from terramorph.serve.layers import Layer
from terramorph.serve.settings import LayerSettings, Settings
from terramorph.sources import open_source
from terramorph.translate import Model, load
from terramorph.translate.tiled import Part

_MB = 1_000_000
UPLOADS = 8
"""Most uploads at once; together they may cache windows of as many bytes as all other layers."""
_END = 1 << 16
"""Bytes at each end of a file that tell it from another of the same size and time."""
ASK = 60.0
"""Seconds between two questions to a server whether a file has changed."""
_NONE = "-"
"""Stamp of what is no file."""


class Opener:
    """Opens layers, and finds out whether their files have changed. A model of several layers is loaded once.

    Attributes:
        folder: Cache of tiles and windows, shared with other servers; None for none.
        windows: Windows of all outputs.

    Args:
        settings: Settings of the server.
        models: Loaded models by their names in the settings; they do not change.
    """

    def __init__(self, settings: Settings, models: Mapping[str, Model] | None = None) -> None:
        self._settings, self._given = settings, dict(models or {})
        self._loaded: dict[str, tuple[str, Model]] = {}
        self._bundles: dict[str, str] = {}
        self._asked: dict[Remote, tuple[float, str]] = {}
        self.folder = FolderCache(settings.cache, settings.cache_mb * _MB) if settings.cache is not None else None
        self.windows = Windows(self.folder)

    @property
    def gathers(self) -> bool:
        """Whether a model gathers the windows of several threads into one pass."""
        return any(model.gather for model in (*self._given.values(), *(model for _, model in self._loaded.values())))

    def state(self, one: LayerSettings, files: Sequence[Path | Remote] = ()) -> tuple[str, ...]:
        """Return texts that change with the files of a layer, so that it must be opened again.

        Args:
            one: Settings of the layer.
            files: `Layer.files`, where it is open.
        """
        bundle = "" if one.model in self._given else self._bundle(one.model)
        named = [Path(path) for path in (bundle, one.source, one.truth, one.style) if path]
        return tuple(map(self._stamp, (*named, *files)))

    def open(self, one: LayerSettings, *, upload: bool = False) -> Layer:
        """Open a layer.

        Args:
            one: Settings of the layer.
            upload: Whether the source is an upload: a checked GeoTIFF, which no other driver may open.

        Raises:
            TerramorphError: If the model or a source cannot be opened, or they do not fit.
        """
        begun = self.state(one)  # first, so that a change meanwhile is seen
        model = self._model(one.model)
        header, style = model.header, load_style(one.style)
        options = ReadOptions(driver="GTiff") if upload else ReadOptions(asset=one.asset, sign=self._settings.sign)
        source = open_source(one.source, options, style=one.style, wanted=header.source.names)
        truth = open_source(one.truth, style=one.style) if one.truth is not None else None
        for side in (source, truth):
            if side is not None and side.extent.crs is None:
                raise InputError(f"{side.name} has no CRS, so the place of its tiles is unknown; georeference it.")
        files = (*_files(one.source, source), *_files(one.truth, truth))
        state = (*begun, *map(self._stamp, files))
        memory = self._settings.window_cache_mb * _MB // (UPLOADS if upload else len(self._settings.layers))
        how: dict[str, Any] = {"resolution": one.resolution, "window": self._settings.window, "memory": memory}
        identity: str  # known once the grid of the output is

        def kept(what: str, number: int, predict: Callable[[], Part | None]) -> Part | None:
            return self.windows.get(None if upload else f"{identity} {what} {number}", predict)

        output = model.lazy(source, kept=partial(kept, "window"), **how)

        def probabilities() -> Source:
            return model.probabilities(one.style).lazy(source, kept=partial(kept, "probabilities"), **how)

        map_made = header.direction == "AtoB" and header.target.count == 3 and header.target.dtype == "uint8"
        decides = [__version__, model.digest, model.backend.name, model.mode, model.seed]
        decides += [self._settings.window, output.grid, style]
        decides += [self._identity(one.source, source), self._identity(one.truth, truth)]
        identity = hashlib.blake2b(repr(decides).encode(), digest_size=8).hexdigest()
        return Layer(
            name=one.name,
            title=one.title or one.name,
            identity=identity,
            source=source,
            output=output,
            truth=truth,
            palette=palette_of(style) if map_made else None,
            probabilities=probabilities if model.scores_classes else None,
            low=header.source.low,
            high=header.source.high,
            attribution=one.attribution or source.licence,
            about={
                "model": one.model,
                "digest": model.digest,
                "note": header.note,
                "ground_resolution": header.ground_resolution,
                "data": dict(header.data),
                "scores": {name: value for name, value in header.scores.items() if value is not None},
            },
            private=upload,
            files=files,
            state=state,
        )

    def _model(self, name: str) -> Model:
        if name in self._given:
            return self._given[name]
        path = self._bundle(name)
        stamp = self._stamp(Path(path))
        if name not in self._loaded or self._loaded[name][0] != stamp:
            self._loaded[name] = stamp, load(path, allowed=self._settings.allow)
        return self._loaded[name][1]

    def _bundle(self, name: str) -> str:
        """Return the file of a model's name; kept, as files are checked often and a published one must be read."""
        if name not in self._bundles:
            try:
                self._bundles[name] = str(find_bundle(name))
            except BundleError:
                return name  # an exported network; other files are refused when loaded
        return self._bundles[name]

    def _identity(self, path: str | None, source: Source | None) -> str:
        """Return a digest of a source's content, without reading all of a large file."""
        if source is None or path is None or isinstance(source, MosaicSource) or not Path(path).is_file():
            return source.fingerprint() if source is not None else ""
        return " ".join(f"{self._stamp(file)} {_ends(file)}" for file in _files(path, source))

    def _stamp(self, file: Path | Remote) -> str:
        """Return size, time and inode of a file, or the checksum of a server; a constant where there is none."""
        if isinstance(file, Remote):
            asked, stamp = self._asked.get(file, (-math.inf, _NONE))
            if time.monotonic() - asked > ASK:
                with suppress(TerramorphError):  # a server that does not answer says nothing of a change
                    stamp = file.identity()
                self._asked[file] = time.monotonic(), stamp
            return stamp
        try:
            found = file.stat()
        except (OSError, ValueError):
            return _NONE
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _files(path: str | None, source: Source | None) -> list[Path | Remote]:
    """List what a source is read from, but for tiles in folders and on servers, and images of STAC items on servers."""
    if path is None or source is None:
        return []
    archive = zipped(path)
    if archive is not None:  # what is in it was unpacked to a temporary folder
        return [archive[0]]
    stac = isinstance(source, MosaicSource)
    named = None if stac or "{" in path else as_remote(path)
    found: list[Path | Remote] = [named or Path(path), *getattr(source, "files", ())]
    return list(dict.fromkeys(file for file in found if not (stac and isinstance(file, Remote))))


def _ends(file: Path | Remote) -> str:
    """Return a digest of a file's first and last bytes."""
    if isinstance(file, Remote) or not file.is_file():
        return ""
    with file.open("rb") as opened:
        start = opened.read(_END)
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _END))
        return hashlib.blake2b(start + opened.read(), digest_size=16).hexdigest()
