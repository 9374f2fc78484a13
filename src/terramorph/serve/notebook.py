"""The viewer in a notebook."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from terramorph.serve.server import Server, one_layer
from terramorph.translate import Model


@dataclass(frozen=True)
class Shown:
    """A viewer that a notebook draws.

    Attributes:
        address: URL of the page.
        height: Height of the frame, pixels.
        server: The server; `server.should_exit = True` stops it.
    """

    address: str
    height: int
    server: Server = field(repr=False)

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:1px solid #8884;border-radius:10px"
        return f'<iframe src="{escape(self.address, quote=True)}" style="{style}" title="terramorph"></iframe>'


def show(
    model: Model | str | Path,
    source: str | Path,
    *,
    truth: str | Path | None = None,
    height: int = 520,
    port: int = 0,
    **more: Any,
) -> Shown:
    """Show a translation in a notebook, computed as one looks at it. The server ends with the process.

        terramorph.show(model, "ortho.tif")

    Args:
        model: A model of `load`, or an argument of `load`.
        source: Path or URL of the raster or vectors to translate.
        truth: Path or URL of the true map or photograph, if there is one.
        height: Height of the frame, pixels.
        port: Port of the server; 0 for a free one.
        more: Other fields of `Settings`. With `public_url` the frame has that address, as behind JupyterHub's proxy.

    Raises:
        TerramorphError: If the source cannot be opened or does not fit the model, or is held in memory.
    """
    server = one_layer(model, source, truth=truth, port=port, **more)
    threading.Thread(target=server.serve_until_told, args=(lambda address: None,), daemon=True).start()
    return Shown(more.get("public_url") or server.address, height, server)
