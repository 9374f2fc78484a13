"""The words an option takes where it takes one of a few."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How a network is run; see docs/glossary.md."""

    paper = "paper"
    raster = "raster"


class Direction(StrEnum):
    """Which side of a pair is the source."""

    AtoB = "AtoB"
    BtoA = "BtoA"


class Device(StrEnum):
    """Where the work is done."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
