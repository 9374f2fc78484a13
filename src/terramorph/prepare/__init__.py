"""Preparation of datasets: pairs cut from rasters, tiles and vectors on one grid, measured and split by place.

prepare("data/town", [Inputs("ortho.tif", "streets.gpkg")], Options(scale=Scale(resolution=0.6)))
inspect("data/town")     # a page about it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from terramorph.imports import lazily

if TYPE_CHECKING:
    from terramorph.prepare.build import prepare
    from terramorph.prepare.options import Inputs, Opening, Options
    from terramorph.prepare.page.inspect import inspect, summary
    from terramorph.prepare.plan import Scale
    from terramorph.prepare.split import SplitRule

__all__ = ["Inputs", "Opening", "Options", "Scale", "SplitRule", "inspect", "prepare", "summary"]

__getattr__ = lazily(
    __name__,
    {
        "Inputs": "terramorph.prepare.options",
        "Opening": "terramorph.prepare.options",
        "Options": "terramorph.prepare.options",
        "Scale": "terramorph.prepare.plan",
        "SplitRule": "terramorph.prepare.split",
        "inspect": "terramorph.prepare.page.inspect",
        "prepare": "terramorph.prepare.build",
        "summary": "terramorph.prepare.page.inspect",
    },
)
