"""Facts beside the scores: protocol, bundle and map classes."""

from __future__ import annotations

from typing import Any

import torch

from terramorph._version import __version__
from terramorph.evaluation.classes import Classes
from terramorph.evaluation.samples import Samples
from terramorph.metrics import PSNR_CAP
from terramorph.translate import Model


def protocol_facts(samples: Samples, ids: list[str], model: Model) -> dict[str, Any]:
    """Protocol of an evaluation of the pairs ``ids``."""
    size = samples.header.size
    name, resize = "maps-256" if size == 256 else f"maps-256 at {size} px", "PIL bicubic, stored dtype"
    if samples.native:
        name = f"maps-256 at {size} px and the scale of the files"
        enlarged = len(samples.enlarged.intersection(ids))
        resize = f"none, the centre of {size} px is cut out" + (
            f"; {enlarged} of {len(ids)} pairs with a side under that: {resize}" if enlarged else ""
        )
    return {
        "name": name,
        "size": size,
        "resize": resize,
        "compared_as": "uint8",
        "features": "SqueezeNet 1.1, globally pooled, 512-d (FD is not FID)",
        "psnr_cap": PSNR_CAP,
        "mode": model.mode,
        "precision": str(getattr(model.backend, "dtype", torch.float32)).removeprefix("torch."),
        "ensemble": model.ensemble,
        "batch_size_one": model.mode == "paper",
        "seed": model.seed if model.mode == "paper" else None,
    }


def bundle_facts(model: Model) -> dict[str, Any]:
    """Bundle that was evaluated; its path is ``None`` for one in memory."""
    header = model.header
    return {
        "path": None if model.path is None else str(model.path),
        "network": header.architecture.name,
        "direction": header.direction,
        "source": f"{header.source.count} x {header.source.dtype} ({', '.join(header.source.names)})",
        "target": f"{header.target.count} x {header.target.dtype} ({', '.join(header.target.names)})",
        "size": header.size,
        "mode": model.mode,
        "recalibrated": header.recalibrated,
        "ground_resolution": header.ground_resolution,
        "made_by": header.made_by,
        "note": header.note,
        "evaluated_by": __version__,
    }


def palette_facts(classes: Classes) -> dict[str, Any]:
    """The map classes and their colours, or why there are none."""
    palette = classes.palette
    return {
        "name": None if palette is None else palette.name,
        "share": classes.share,
        "why": classes.why,
        "classes": [] if palette is None else [{"name": one.name, "rgb": list(one.rgb)} for one in palette.classes],
    }
