"""Settings of a server: its layers, where it listens, and what bounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from terramorph.documents import DocumentError, first_fault, parse_toml
from terramorph.errors import ConfigError

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
"""Names of layers; they stand in URLs."""

_PATTERNS = {
    "name": "use lower-case letters, digits and hyphens",
    "root_path": "give a path that begins with /, such as /maps",
    "public_url": "give an address that begins with http:// or https://, such as https://example.org/maps",
}
"""What to write where a pattern does not match."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerSettings(_Frozen):
    """A raster and the model that translates it.

    Attributes:
        name: in URLs; lower-case letters, digits and hyphens.
        model: path or name of a bundle.
        source: path or URL of anything that opens as a raster or as vectors.
        truth: the same for what the output should look like; None if there is none.
        asset: which assets of the source are read, if it is of STAC items.
        resolution: metres a pixel at which the model sees the ground; default: the source's own, which must be near the
            model's.
        style: of sources and truths that are vectors.
        title: for people; default: the name.
        attribution: terms of use of the source, for people.
    """

    name: str = Field(pattern=NAME)
    model: str
    source: str
    truth: str | None = None
    asset: str | None = None
    resolution: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    style: str = "classic"
    title: str | None = None
    attribution: str | None = None


class Settings(_Frozen):
    """A server.

    Attributes:
        layers: at least one, with names that differ.
        allow: modules from outside whose code may run, where a model is of one of their classes.
        sign: a function, as module:name, that signs the addresses of STAC items' assets.
        host, port: where it listens; port 0 takes a free one.
        root_path: the path under which a proxy offers it, such as /maps.
        public_url: scheme, host and path that links begin with, for clients behind a proxy; default: those of the
            request, if its host is the server's own.
        window: side in pixels of the windows in which the model computes; default: that of `translate`, so that tiles
            are those that it writes. Smaller ones answer sooner and cost more for each tile.
        window_cache_mb, tile_cache_mb: bounds of the two caches in memory, MB.
        cache: folder of encoded tiles that several servers may share; None for none.
        cache_mb: its bound, MB.
        max_wait: seconds of queued work over which a request is answered 503.
        export_pixels: the most pixels of one exported view.
        uploads: whether clients may send GeoTIFFs of theirs.
        upload_mb: the most that one of them may hold, MB; all together hold four times that.
    """

    layers: tuple[LayerSettings, ...] = Field(min_length=1)
    allow: tuple[str, ...] = ()
    sign: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65535)
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9_~.-]+)*$")
    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+$")
    window: int | None = Field(default=None, ge=64)
    window_cache_mb: int = Field(default=256, ge=1)
    tile_cache_mb: int = Field(default=128, ge=1)
    cache: Path | None = None
    cache_mb: int = Field(default=4096, ge=1)
    max_wait: float = Field(default=20.0, gt=0)
    export_pixels: int = Field(default=16_000_000, ge=1)
    uploads: bool = False
    upload_mb: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Settings:
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two layers are called {name}")
        return self


def load_settings(path: str | Path | None = None, values: dict[str, Any] | None = None) -> Settings:
    """Settings from a TOML file (tables `[[layers]]`, other settings above them), and values that win over it.

    Raises:
        ConfigError: if the file cannot be read, or a setting is unknown or impossible.
    """
    read: dict[str, Any] = {}
    if path is not None:
        try:
            read = parse_toml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, DocumentError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path} cannot be read as settings of a server ({reason}).") from error
    try:
        return Settings.model_validate({**read, **(values or {})})
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        wrong, fault = error.errors()[0], first_fault(error)
        if wrong["type"] == "string_pattern_mismatch":
            key = ".".join(str(part) for part in wrong["loc"])
            fault = f"{key}: {wrong['input']!r} does not fit; {_PATTERNS[str(wrong['loc'][-1])]}"
        raise ConfigError(f"{where}{fault}.") from error
