"""terramorph: translate between satellite or aerial imagery and maps, both ways.

The public names are `load`, `Model`, `train`, `evaluate` and `open_source`:

    model = terramorph.load("runs/town/model.safetensors")
    drawn = model.translate("aerial.png")           # a Raster: pixels (C, H, W), mask, grid
    model.translate_to("ortho.vrt", "map.pmtiles")  # of any size, in bounded memory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from terramorph._version import __version__
from terramorph.imports import lazily

__all__ = ["Model", "__version__", "evaluate", "load", "open_source", "show", "train"]

if TYPE_CHECKING:
    from terramorph.evaluation import evaluate
    from terramorph.serve import show
    from terramorph.sources import open_source
    from terramorph.training import train
    from terramorph.translate import Model, load

# The names are resolved on first use: `terramorph --help` must not wait for torch to be imported.
__getattr__ = lazily(
    __name__,
    {
        "Model": "terramorph.translate",
        "evaluate": "terramorph.evaluation",
        "load": "terramorph.translate",
        "open_source": "terramorph.sources",
        "show": "terramorph.serve",
        "train": "terramorph.training",
    },
)
