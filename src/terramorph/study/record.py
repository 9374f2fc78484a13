"""What a study remembers of one run besides what training and scoring leave in its folder."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from terramorph.atomic import atomic

RECORD = "record.json"
SCORES = "scores"
"""Folder of a run's evaluation, in the run's."""
State = Literal["waiting", "training", "trained", "done", "diverged", "refused"]


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        state: `diverged` and `refused` (its settings do not go together) are ends as `done` is.
        step: optimizer steps at the end; of a run that diverged, the last that was known to be good.
        reason: why it diverged or was refused, one sentence.
        parameters: of each network.
        memory: bytes at most while it trained: allocated on the GPU, or resident in the process; None if not known.
        train_seconds: in the training steps.
        score_seconds: in the evaluation.
        weights: folder of feature weights that it was scored with, or None.
    """

    state: State = "waiting"
    step: int = 0
    reason: str = ""
    parameters: dict[str, int] | None = None
    memory: int | None = None
    train_seconds: float | None = None
    score_seconds: float | None = None
    weights: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "diverged", "refused")


def read_record(run: Path) -> Record:
    """A run's record; that of a run that waits if there is none or it cannot be read."""
    try:
        return Record(**json.loads((run / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Record()


def write_record(run: Path, record: Record) -> None:
    """Writes a run's record, whole or not at all.

    Raises:
        StorageError: if it cannot be written.
    """
    with atomic(run / RECORD, make_folder=True) as part:
        part.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


class PeakMemory:
    """The most memory in use since it was made: on the GPU if there is one in use, else of this process."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # only Linux knows it, and not in every sandbox
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None where it is not known."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return int(torch.cuda.max_memory_allocated())
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None
