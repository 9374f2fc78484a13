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


class Precision(StrEnum):
    """What numbers a network is computed in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    """Where the work is done."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Backend(StrEnum):
    """What runs a network."""

    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


MAX_SEED = 2**63 - 1
"""The largest seed that every generator takes."""
