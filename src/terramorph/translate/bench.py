"""How fast each backend translates on this machine, in a few seconds: what `terramorph doctor --bench` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from terramorph.bundle import Bundle, Header
from terramorph.errors import MissingPackageError
from terramorph.pixels import native_bf16
from terramorph.translate.backends import OnnxBackend, OpenVinoBackend, TorchBackend
from terramorph.translate.translator import WINDOW_SIDES
from terramorph.translate.tuning import Tuning

BATCHES = (1, 2, 4, 8)
WORTH_A_WINDOW = 1.5
"""A window takes seconds; what is slower on tiles than the best by more than this is not tried on one."""
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run a network.

    Attributes:
        backend: torch eager (the plain network, nothing prepared), torch, onnxruntime or openvino.
        precision: fp32, bf16, or what an exported file is called.
        make: prepares it.
        threads: numbers of threads of PyTorch to try; the other runtimes are made with theirs.
        batches: images at once to try.
    """

    backend: str
    precision: str
    make: Callable[[], Run]
    threads: tuple[int, ...]
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True)
class Speed:
    """What was measured of one way, with the threads and the batch that were fastest.

    Attributes:
        backend, precision: see `Way`.
        tuning: the threads and the batch.
        tiles: images of the training size a second.
        megapixels: million pixels a second in one window of a sweep; None if that was not tried.
        missing: why nothing was measured; empty if something was.
    """

    backend: str
    precision: str
    tuning: Tuning
    tiles: float
    megapixels: float | None = None
    missing: str = ""


def ways_of_bundle(bundle: Bundle) -> list[Way]:
    """PyTorch: the plain network first, which others are compared with."""
    most = torch.get_num_threads()
    some = tuple(sorted({1, max(1, most // 2), most}))
    precisions = ("fp32", "bf16") if native_bf16("cpu") else ("fp32",)
    prepared = [Way("torch", name, partial(_torch, bundle, name), some) for name in precisions]
    return [Way("torch eager", "fp32", lambda: bundle.network, (most,), (1,)), *prepared]


def ways_of_exported(path: Path, precision: str = "fp32") -> list[Way]:
    """ONNX Runtime and OpenVINO. A file whose quality was refused is measured all the same.

    Args:
        path: the .onnx file.
        precision: what it is in; only one in fp32 can be computed in bf16.
    """
    most = torch.get_num_threads()
    ways = [
        Way("onnxruntime", precision, partial(_onnxruntime, path), (most,)),
        Way("openvino", precision, partial(_openvino, path, "fp32"), (most,)),
    ]
    if native_bf16("cpu") and precision == "fp32":
        ways.append(Way("openvino", "bf16", partial(_openvino, path, "bf16"), (most,)))
    return ways


def _torch(bundle: Bundle, precision: str) -> Run:
    return TorchBackend(bundle.network, device="cpu", precision=precision).run


def _onnxruntime(path: Path) -> Run:
    return OnnxBackend(path, threads=torch.get_num_threads(), accept_quality_loss=True).run


def _openvino(path: Path, precision: str) -> Run:
    return OpenVinoBackend(path, precision=precision, threads=torch.get_num_threads(), accept_quality_loss=True).run


def measure(ways: Sequence[Way], header: Header, seconds: float, *, thorough: bool = False) -> Iterator[Speed]:
    """Measures one way after another.

    Args:
        ways: of one network.
        header: says the training size and the bands.
        seconds: about how long all of it may take. Everything is tried once at least, so a slow machine takes longer.
        thorough: try all of them on a window, not only those that are fast on tiles.

    Yields:
        A speed for each, as soon as it is known.
    """
    before = torch.get_num_threads()
    best = 0.0
    try:
        for way in ways:
            speed = _measured(way, header, seconds / len(ways), 0.0 if thorough else best)
            best = max(best, speed.tiles)
            yield speed
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _measured(way: Way, header: Header, seconds: float, best: float) -> Speed:
    try:
        run = way.make()
    except MissingPackageError as error:
        return Speed(way.backend, way.precision, Tuning(1, 1), 0.0, missing=str(error))
    tries = [(threads, batch) for threads in way.threads for batch in way.batches]
    found = []
    for threads, batch in tries:
        torch.set_num_threads(threads)
        pace = batch / _seconds_a_run(run, _images(header, batch, header.size), seconds / 2 / len(tries))
        found.append(Speed(way.backend, way.precision, Tuning(batch, threads), pace))
    speed = max(found, key=lambda one: one.tiles)
    if speed.tiles * WORTH_A_WINDOW < best:
        return speed
    torch.set_num_threads(speed.tuning.threads)
    side = WINDOW_SIDES * header.size
    took = _seconds_a_run(run, _images(header, 1, side), seconds / 2)
    return replace(speed, megapixels=side**2 / took / 1e6)


def _seconds_a_run(run: Run, source: Tensor, budget: float) -> float:
    """The fastest of some runs, after one that does not count: what else the machine does only ever adds."""
    run(source)
    fastest, end = float("inf"), time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        run(source)
        fastest = min(fastest, time.perf_counter() - start)
        if time.perf_counter() > end:
            return fastest


def _images(header: Header, count: int, side: int) -> Tensor:
    """float32 (count, C, side, side) in [-1, 1]: noise, for the time does not depend on what is seen."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, header.source.count, side, side, generator=generator).mul_(2.0).sub_(1.0)
