"""Tiles of a server, fetched with a rate limit, one at a time, with a User-Agent, and each tile once."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import urllib3

from terramorph._version import __version__
from terramorph.atomic import atomic, write_text
from terramorph.errors import RasterError, unreadable
from terramorph.geo.mercator import MAX_ZOOM, TileBox, whole_world
from terramorph.raster.tiles.reader import VECTOR_ADVICE, TileReader
from terramorph.redaction import RedactedLog, redact

USER_AGENT = f"terramorph/{__version__}"
"""The User-Agent sent to servers."""

REQUESTS_PER_SECOND = 2.0
"""The pace at which a server is asked, at most."""

RETRIES = 5
"""How often a request is repeated that failed on the way or was answered with 429, 500, 502, 503 or 504. It waits for
as long as the answer's Retry-After says."""

BACKOFF = 1.0
"""Seconds before the first repetition where there is no Retry-After; it doubles with each."""

_ABSENT = (204, 404, 410)
_AGAIN = (429, 500, 502, 503, 504)
_KINDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
_NONE = ".none"


# It warns of every repetition, with the address.
logging.getLogger("urllib3.connectionpool").addFilter(RedactedLog())


class _Patience(urllib3.Retry):
    """Retries that wait before the first repetition too; urllib3's own does not."""

    def get_backoff_time(self) -> float:
        """Return seconds before the next repetition."""
        waited = float(self.backoff_factor) * 2.0 ** (len(self.history) - 1)
        return min(waited, float(self.backoff_max))


class ServerTiles(TileReader):
    """Tiles of a URL with {z}, {x} and {y}, or {-y} for rows from the south; {r} stands for @2x, 512 pixels.

    Fetched tiles stay in a folder, as z/x/y of their kind, and are never requested again; missing tiles (404, 204, 410
    or an empty answer) are recorded too. `FolderTiles` reads that folder. User and password before the host
    (https://user:password@host) are sent as HTTP Basic. Secrets of the URL are in no message, name, fingerprint or file
    (see `redact`).

    Args:
        terms: The licence or terms of use that allow it; a text for people.
        cache: Folder for what was fetched; each template has a folder of its own in it.

    Attributes:
        folder: Folder of the cached tiles.

    Raises:
        RasterError: If the template, zoom, terms or cache are missing or cannot be used.
        StorageError: If the cache cannot be written.
    """

    def __init__(self, template: str, zoom: int | None, terms: str | None, cache: str | Path | None) -> None:
        self.name = redact(template)
        _check_template(self.name)
        if not (terms and terms.strip()):
            raise RasterError(f"{self.name}: name the licence or terms of use; tiles are not free to take.")
        if zoom is None or not 0 <= zoom <= MAX_ZOOM:
            raise RasterError(f"{self.name}: name the `zoom` of the tiles, 0 to {MAX_ZOOM}.")
        if cache is None:
            raise RasterError(f"{self.name}: name a folder (cache) that keeps the fetched tiles.")
        self.licence = terms.strip()
        self.zooms = (zoom,)
        self._template, headers = _with_login(template.replace("{r}", "@2x"))
        self._interval = 1 / REQUESTS_PER_SECOND
        self._lock = threading.Lock()
        self._next = 0.0
        retry = _Patience(
            total=RETRIES,
            redirect=3,
            backoff_factor=BACKOFF,
            status_forcelist=_AGAIN,
            allowed_methods=("GET",),
            raise_on_status=False,
        )
        timeout = urllib3.Timeout(connect=15, read=60)
        self._pool = urllib3.PoolManager(headers={"User-Agent": USER_AGENT, **headers}, retries=retry, timeout=timeout)
        self.folder = Path(cache) / hashlib.blake2b(self.name.encode(), digest_size=8).hexdigest()
        about = {"source": self.name, "attribution": self.licence, "scheme": "xyz"}
        write_text(self.folder / "metadata.json", json.dumps(about, indent=1, ensure_ascii=False), make_folder=True)

    def box(self, zoom: int) -> TileBox:
        return whole_world(zoom)

    def first(self, zoom: int) -> None:
        return

    def has(self, zoom: int, x: int, y: int) -> bool:
        return True

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """Read a tile from the cache, else fetch it from the server, one at a time.

        Raises:
            RasterError: If the server refuses, fails after all repetitions, or answers with something else.
            StorageError: If the cache cannot be written.
        """
        stem = self.folder / str(zoom) / str(x) / str(y)
        cached = _cached(stem)
        if cached is not None:
            return cached or None
        with self._lock:
            cached = _cached(stem)  # another thread may have fetched it meanwhile
            if cached is not None:
                return cached or None
            data = self._fetch(zoom, x, y)
            suffix = _suffix(data, f"{self.name} at {zoom}/{x}/{y}") if data else _NONE
            with atomic(stem.with_name(stem.name + suffix), make_folder=True) as part:
                part.write_bytes(data)
        return data or None

    def fingerprint(self) -> str:
        """Digest the template without keys, zoom and terms; the server's content is unknown."""
        text = json.dumps([self.name, self.zooms[0], self.licence])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        self._pool.clear()

    def _fetch(self, zoom: int, x: int, y: int) -> bytes:
        """Fetch the body of a tile, empty where there is none. Called by one thread at a time."""
        row = (1 << zoom) - 1 - y
        url = self._template.replace("{z}", str(zoom)).replace("{x}", str(x))
        url = url.replace("{y}", str(y)).replace("{-y}", str(row))
        where = f"{self.name} at {zoom}/{x}/{y}"
        time.sleep(max(0.0, self._next - time.monotonic()))
        try:
            answer = self._pool.request("GET", url)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise RasterError(
                f"{where} cannot be reached ({type(reason).__name__}); check the address and the connection and run "
                "again: what was fetched is kept."
            ) from None  # the library's message holds the URL with its keys
        finally:
            self._next = time.monotonic() + self._interval
        if answer.status in _ABSENT:
            return b""
        if answer.status != 200:
            raise RasterError(f"{where} {_refusal(answer.status)}")
        return answer.data


def _with_login(template: str) -> tuple[str, dict[str, str]]:
    """Split user and password off a URL; return the URL and the header they become."""
    scheme, slashes, rest = template.partition("://")
    login, at, host = rest.partition("/")[0].rpartition("@")
    if not at:
        return template, {}
    bare = scheme + slashes + host + rest[len(login) + 1 + len(host) :]
    return bare, urllib3.make_headers(basic_auth=unquote(login))


def _check_template(template: str) -> None:
    """Refuse a URL without placeholders for a tile's numbers, or with unknown ones."""
    named = set(re.findall(r"\{([^{}]*)\}", template))
    if not {"z", "x"} <= named or not named & {"y", "-y"}:
        raise RasterError(f"{template} names no tiles; write {{z}}, {{x}} and {{y}} where a tile's numbers belong.")
    unknown = sorted(named - {"z", "x", "y", "-y", "r"})
    if unknown:
        raise RasterError(
            f"{template} has {{{unknown[0]}}}, which is not known; write {{z}}, {{x}}, {{y}} or {{-y}}, and one of the "
            "server's names where it has several."
        )


def _cached(stem: Path) -> bytes | None:
    """Return a cached tile, empty where it is known not to exist, None where nothing is known."""
    for suffix in (*_KINDS.values(), _NONE):
        path = stem.with_name(stem.name + suffix)
        if path.exists():
            with unreadable(path):
                return path.read_bytes()
    return None


def _suffix(data: bytes, where: str) -> str:
    for start, suffix in _KINDS.items():
        if data.startswith(start):
            return suffix
    if data.startswith(b"\x1f\x8b") or data[:1] == b"\x1a":
        raise RasterError(f"{where} {VECTOR_ADVICE}")
    raise RasterError(f"{where} is not a PNG, JPEG or WebP; open the address in a browser to see what the server says.")


def _refusal(status: int) -> str:
    """Return the end of a sentence about a refused request."""
    if status in (401, 403):
        return f"is refused by the server ({status}); check the key in the address and that its terms allow this."
    if status == 429:
        return "is refused because of too many requests (429); wait, and run again: what was fetched is kept."
    return f"was answered with {status}; run again later: what was fetched is kept."
