"""Benchmark of the backends on this machine, a few seconds each; `terramorph doctor --bench` shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terramorph.bundle import Bundle, Header
from terramorph.errors import MissingPackageError
from terramorph.networks.inference import cpu_form
from terramorph.processor import native_bf16
from terramorph.translate.backends import OnnxBackend, OpenVinoBackend, TorchBackend
from terramorph.translate.backends.pytorch import Run, Tuning, fastest_runs, remember
from terramorph.translate.plan import WINDOW_SIDES

BATCHES = (1, 2, 4, 8)
WORTH_A_WINDOW = 1.5
"""A backend slower on tiles than the fastest by more than this factor is not timed on a window, which takes seconds."""


@dataclass(frozen=True)
class Way:
    """A backend and precision, and its speed once it is measured.

    Attributes:
        make: Prepares the network.
        batches: Batch sizes to try.
        batch: The fastest of them.
        tiles: Images of the training size per second.
        megapixels: Million pixels per second in one window of a raster; None if not measured.
        missing: Reason why nothing was measured; "" if it was.
    """

    backend: str
    precision: str
    make: Callable[[], Run]
    batches: tuple[int, ...] = BATCHES
    batch: int = 1
    tiles: float = 0.0
    megapixels: float | None = None
    missing: str = ""


def ways_of_bundle(bundle: Bundle) -> list[Way]:
    """Return the ways of PyTorch; the plain network comes first, and the others are compared with it."""
    precisions = ("fp32", "bf16") if native_bf16("cpu") else ("fp32",)
    forms = {"torch folded": False, **({"torch": True} if cpu_form(bundle.network) else {})}
    prepared = [
        Way(backend, precision, partial(_torch, bundle, precision, rearranged))
        for precision in precisions
        for backend, rearranged in forms.items()
    ]
    return [Way("torch eager", "fp32", lambda: bundle.network, (1,)), *prepared]


def remember_fastest(bundle: Bundle, speeds: Sequence[Way]) -> None:
    """Note the faster form of a network, where it has one for the CPU, and its batch size for each precision."""
    if not cpu_form(bundle.network):
        return
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ours = [s for s in speeds if s.precision == precision and s.backend in ("torch folded", "torch")]
        if ours:
            best = max(ours, key=lambda speed: speed.tiles)
            remember(bundle.network, dtype, Tuning(best.backend == "torch", best.batch))


def ways_of_exported(path: Path, precision: str = "fp32") -> list[Way]:
    """Return the ways of ONNX Runtime and OpenVINO; a file whose quality was refused is measured too."""
    how: dict[str, Any] = {"threads": torch.get_num_threads(), "accept_quality_loss": True}
    ways = [
        Way("onnxruntime", precision, lambda: OnnxBackend(path, **how).run),
        Way("openvino", precision, lambda: OpenVinoBackend(path, precision="fp32", **how).run),
    ]
    if native_bf16("cpu") and precision == "fp32":
        ways.append(Way("openvino", "bf16", lambda: OpenVinoBackend(path, precision="bf16", **how).run))
    return ways


def _torch(bundle: Bundle, precision: str, rearranged: bool) -> Run:
    return TorchBackend(bundle.network, device="cpu", precision=precision, rearranged=rearranged).run


def measure(ways: Sequence[Way], header: Header, seconds: float) -> Iterator[Way]:
    """Measure one way after another.

    Yields:
        Each with its speed, as soon as it is measured.
    """
    best = 0.0
    for way in ways:
        speed = _measured(way, header, seconds / len(ways), best)
        best = max(best, speed.tiles)
        yield speed


@torch.no_grad()
def _measured(way: Way, header: Header, seconds: float, best: float) -> Way:
    try:
        run = way.make()
    except MissingPackageError as error:
        return replace(way, missing=str(error))
    found = []
    for batch in way.batches:
        (took,) = fastest_runs([run], _images(header, batch, header.size), seconds / 2 / len(way.batches))
        found.append(replace(way, batch=batch, tiles=batch / took))
    speed = max(found, key=lambda one: one.tiles)
    if speed.tiles * WORTH_A_WINDOW < best:
        return speed
    side = WINDOW_SIDES * header.size
    (took,) = fastest_runs([run], _images(header, 1, side), seconds / 2)
    return replace(speed, megapixels=side**2 / took / 1e6)


def _images(header: Header, count: int, side: int) -> Tensor:
    """Return noise, float32 (count, C, side, side) in [-1, 1]: times do not depend on the content."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, header.source.count, side, side, generator=generator).mul_(2.0).sub_(1.0)
