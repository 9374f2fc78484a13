"""Settings of a server: layers, addresses, and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from terramorph.documents import DocumentError, first_fault, parse_toml
from terramorph.errors import ConfigError

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
"""Pattern of the names of layers, which are part of URLs."""

_PATTERNS = {
    "name": "use lower-case letters, digits and hyphens",
    "root_path": "give a path that begins with /, such as /maps",
    "public_url": "give an address that begins with http:// or https://, such as https://example.org/maps",
}
"""Advice by setting, where its pattern does not match."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerSettings(_Frozen):
    """A raster and the model that translates it.

    Attributes:
        name: Name in URLs; lower-case letters, digits and hyphens.
        model: Path or name of a bundle.
        source: Path or URL of a raster or of vectors.
        truth: Path or URL of the true map or photograph; None if there is none.
        asset: Assets of the source that are read, if it is of STAC items.
        resolution: Metres per pixel at which the model reads the source; default: the source's own, which must be near
            the model's.
        style: Style of sources and truths that are vectors.
        title: Title for people; default: the name.
        attribution: Terms of use of the source, for people.
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
    """Settings of a server.

    Attributes:
        layers: At least one, with different names.
        allow: Modules from outside whose code may run, for models of their classes.
        sign: Function, as module:name, that signs the URLs of STAC assets.
        host, port: Address and port to listen on; port 0 for a free one.
        root_path: Path at which a proxy offers the server, such as /maps.
        public_url: Scheme, host and path of links, for clients behind a proxy; default: those of the request, if its
            host is the server's own.
        window: Side of the model's windows in pixels; default: that of `translate`, so that tiles are equal to its
            tiles. Smaller windows answer sooner and cost more per tile.
        window_cache_mb, tile_cache_mb: Bounds of the two caches in memory, MB.
        cache: Folder of encoded tiles that several servers may share; None for none.
        cache_mb: Bound of the folder, MB.
        max_wait: Seconds of queued work over which a request is answered 503.
        rate_limit: Windows per minute that the model predicts for a client, over which its requests are answered 429;
            None for no limit. Tiles that are cached do not count.
        metrics_port: Port on which `/metrics` is offered, instead of with the layers; 0 for a free one.
        export_pixels: Largest number of pixels of an exported view.
        uploads: Whether clients may send GeoTIFFs.
        upload_mb: Largest size of an upload, MB; all uploads together may have four times that.
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
    rate_limit: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    export_pixels: int = Field(default=16_000_000, ge=1)
    uploads: bool = False
    upload_mb: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Settings:
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names of layers must differ, got {name} twice")
        return self


def load_settings(path: str | Path | None = None, values: dict[str, Any] | None = None) -> Settings:
    """Read settings from a TOML file (tables `[[layers]]`, other settings above them); ``values`` override it.

    Raises:
        ConfigError: If the file cannot be read, or a setting is unknown or out of range.
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
