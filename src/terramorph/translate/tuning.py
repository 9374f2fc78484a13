"""Which batch and how many threads PyTorch is fastest with on this machine: measured on request, then remembered.

`terramorph doctor --bench MODEL` measures and `load` uses it. A note holds for one processor, number of cores, version
of torch, network and precision; elsewhere, and before there is one, the defaults of `TorchBackend` hold. It is about
time alone: with another batch or number of threads the network's sums are the same to float32 rounding.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from terramorph.atomic import atomic
from terramorph.bundle import Header
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json

TUNED = DEFAULT_CACHE / "tuned.json"


@dataclass(frozen=True)
class Tuning:
    """What is fastest.

    Attributes:
        batch_size: images of the training size per pass.
        threads: of PyTorch in this process.
    """

    batch_size: int
    threads: int


def remembered(header: Header, precision: str, file: Path = TUNED) -> Tuning | None:
    """What was measured here for such a network; None if nothing was, or the file cannot be read.

    Args:
        header: says the network.
        precision: fp32 or bf16.
        file: the notes.
    """
    try:
        tuning = Tuning(**_read(file)[_name(header, precision)])
        return tuning if min(tuning.batch_size, tuning.threads) >= 1 else None
    except (KeyError, TypeError):
        return None


def remember(header: Header, precision: str, tuning: Tuning, file: Path = TUNED) -> None:
    """Notes what is fastest for such a network on this machine.

    Raises:
        StorageError: if the file cannot be written.
    """
    notes = _read(file) | {_name(header, precision): asdict(tuning)}
    with atomic(file, make_folder=True) as part:
        part.write_text(json.dumps(notes, indent=1), encoding="utf-8")


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(header: Header, precision: str) -> str:
    network = header.architecture
    settings = " ".join(f"{key}={value}" for key, value in sorted(network.settings.items()))
    return f"{processor()}, {cores()} cores, torch {torch.__version__}, {network.name} {settings}, {precision}"


def _read(file: Path) -> dict[str, Any]:
    try:
        notes = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
