"""The form of a U-Net and the batch size that are fastest in PyTorch on this CPU, as `terramorph doctor --bench` found.

A note of them holds for one processor, number of cores, version of torch, network and precision. Outputs with another
form or batch size are equal to float32 rounding.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from terramorph import processor
from terramorph.atomic import write_text
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.networks import describe_network, network_name

TUNED = DEFAULT_CACHE / "tuned.json"


@dataclass(frozen=True)
class Tuning:
    """The fastest form, rearranged for the CPU or plain with folded norms, and the fastest batch size."""

    rearranged: bool = True
    batch_size: int = 4


def remembered(network: nn.Module, dtype: torch.dtype) -> Tuning:
    """Return the tuning noted for a network on this machine.

    Without a note that can be read: rearranged where torch has AVX, in which that took 0.4 to 0.95 of the time of the
    plain form in all that was measured; without AVX it took 1.1 to 1.4.
    """
    usual = Tuning(rearranged=processor.vector_units().startswith("AVX"))
    return notes_of_this_machine().get(_called(network, dtype), usual)


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
