"""Which form of a network and which batch PyTorch is fastest with on this CPU: measured once, then remembered.

The first time that a U-Net is made ready here, a second is spent on comparing its two forms (`best_form`); `terramorph
doctor --bench MODEL` measures batches as well. A note holds for one processor, number of cores, version of torch,
network and precision. It is about time alone: with another form or batch the network's sums are the same to float32
rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from terramorph import processor
from terramorph.atomic import write_text
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import StorageError
from terramorph.networks import describe_network, network_name

TUNED = DEFAULT_CACHE / "tuned.json"

DEFAULT_BATCH = 4
WORTH_MEASURING = 1_000_000
"""Weights of a network from which its forms are compared: a smaller one is done in a few milliseconds in either."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tuning:
    """What is fastest: a form rearranged for the CPU, or the plain one with norms folded; and images a pass."""

    rearranged: bool = True
    batch_size: int = DEFAULT_BATCH


def best_form(network: nn.Module, dtype: torch.dtype, make: Callable[[bool], Run]) -> Tuning:
    """What is remembered for a network; if nothing is, its two forms are timed on one image and the result is noted."""
    if dtype == torch.bfloat16 and not processor.native_bf16("cpu"):
        return Tuning(rearranged=False)  # emulated products are slower still than emulated convolutions
    found = remembered(network, dtype)
    if found is not None or sum(weight.numel() for weight in network.parameters()) < WORTH_MEASURING:
        return found or Tuning()
    with torch.no_grad():
        side = max(int(network.stride), 256)  # type: ignore[arg-type]
        image = torch.zeros(1, describe_network(network)["in_bands"], side, side)
        plain, rearranged = fastest_runs([make(False), make(True)], image, seconds=1.0)
    tuning = Tuning(rearranged=rearranged < plain)
    with suppress(StorageError):  # then it is measured again next time
        remember(network, dtype, tuning)
    return tuning


def fastest_runs(runs: Sequence[Run], source: Tensor, seconds: float) -> list[float]:
    """Seconds of the fastest call of each, taken in turn: what else the machine does only ever adds.

    Args:
        runs: what is compared.
        source: what they are called with.
        seconds: about how long to go on after a first call of each, which does not count.
    """
    for run in runs:
        run(source)
    fastest, end = [float("inf")] * len(runs), time.perf_counter() + seconds
    while True:
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run(source)
            fastest[number] = min(fastest[number], time.perf_counter() - start)
        if time.perf_counter() > end:
            return fastest


def remembered(network: nn.Module, dtype: torch.dtype) -> Tuning | None:
    """What was measured here for such a network; None if nothing was, or the file cannot be read."""
    return notes_of_this_machine().get(_called(network, dtype))


def remember(network: nn.Module, dtype: torch.dtype, tuning: Tuning) -> None:
    """Notes what is fastest for such a network on this machine."""
    here = notes_of_this_machine() | {_called(network, dtype): tuning}
    notes = _read() | {_machine(): {called: asdict(one) for called, one in here.items()}}
    write_text(TUNED, json.dumps(notes, indent=1), make_folder=True)


def notes_of_this_machine() -> dict[str, Tuning]:
    here = _read().get(_machine())
    found = {}
    for called, note in here.items() if isinstance(here, dict) else ():
        match note:
            case {"rearranged": bool(rearranged), "batch_size": int(batch_size)} if batch_size >= 1:
                found[called] = Tuning(rearranged, batch_size)
    return found


def _called(network: nn.Module, dtype: torch.dtype) -> str:
    """What of a network its speed depends on."""
    described, precision = describe_network(network), "bf16" if dtype == torch.bfloat16 else "fp32"
    bands = f"{described['in_bands']} to {described['out_bands']} bands"
    return f"{network_name(network)}, width {described.get('width')}, {bands}, {precision}"


def _machine() -> str:
    # A limit on oneDNN's instructions shows in what it makes of bfloat16.
    bf16 = "native" if processor.native_bf16("cpu") else "emulated"
    units = f"{processor.vector_units()}, bf16 {bf16}"
    return f"{processor.name()}, {processor.cores()} cores, {units}, torch {torch.__version__}"


def _read() -> dict[str, Any]:
    try:
        notes = parse_json(TUNED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
