"""The form of a network and the batch size that are fastest in PyTorch on this CPU: measured once and noted.

When a U-Net is first loaded on a machine, its two forms are compared for a second (`best_form`); `terramorph doctor
--bench MODEL` measures batch sizes as well. A note holds for one processor, number of cores, version of torch, network
and precision. Outputs with another form or batch size are equal to float32 rounding.
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

WORTH_MEASURING = 1_000_000
"""Weights of a network from which its forms are compared: a smaller one takes a few milliseconds in either."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tuning:
    """The fastest form, rearranged for the CPU or plain with folded norms, and the fastest batch size."""

    rearranged: bool = True
    batch_size: int = 4


def best_form(network: nn.Module, dtype: torch.dtype, make: Callable[[bool], Run]) -> Tuning:
    """Return the tuning noted for a network; without a note, time its two forms on one image and note the faster."""
    found = remembered(network, dtype)
    if found is not None or sum(weight.numel() for weight in network.parameters()) < WORTH_MEASURING:
        return found or Tuning()
    with torch.no_grad():
        side = max(int(network.stride), 256)  # type: ignore[arg-type]
        image = torch.zeros(1, describe_network(network)["in_bands"], side, side)
        plain, rearranged = fastest_runs([make(False), make(True)], image, seconds=1.0)
    tuning = Tuning(rearranged=rearranged < plain)
    with suppress(StorageError):  # it is measured again next time
        remember(network, dtype, tuning)
    return tuning


def fastest_runs(runs: Sequence[Run], source: Tensor, seconds: float) -> list[float]:
    """Return the seconds of the fastest call of each; the calls take turns, and other load on the machine only adds.

    Args:
        runs: Functions to compare.
        source: Their argument.
        seconds: Approximate time to measure for, after a first call of each that is not counted.
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
    """Return the tuning noted for a network on this machine; None if there is none, or the file cannot be read."""
    return notes_of_this_machine().get(_called(network, dtype))


def remember(network: nn.Module, dtype: torch.dtype, tuning: Tuning) -> None:
    """Note the tuning of a network on this machine."""
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
    """Return the key of a network: the properties that its speed depends on."""
    described, precision = describe_network(network), "bf16" if dtype == torch.bfloat16 else "fp32"
    bands = f"{described['in_bands']} to {described['out_bands']} bands"
    return f"{network_name(network)}, width {described.get('width')}, {bands}, {precision}"


def _machine() -> str:
    # A limit on oneDNN's instructions shows in how it computes bfloat16.
    bf16 = "native" if processor.native_bf16("cpu") else "emulated"
    units = f"{processor.vector_units()}, bf16 {bf16}"
    return f"{processor.name()}, {processor.cores()} cores, {units}, torch {torch.__version__}"


def _read() -> dict[str, Any]:
    try:
        notes = parse_json(TUNED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
