"""What a study remembers of one run besides what training and scoring leave in its folder."""

from __future__ import annotations

import ctypes
import gc
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from terramorph.atomic import atomic
from terramorph.documents import parse_json

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
        memory_is_own: whether what the process held before is left out of it; in records of older versions it is not.
        seconds_per_image: of the training steps, without the first where the run was trained in one go; None if not
            known.
        train_seconds: in the training steps.
        score_seconds: in the evaluation.
        weights: folder of feature weights that it was scored with, or None.
        verdict: why health checks think that the run is dead, although it went on to its end; "" if they do not.
    """

    state: State = "waiting"
    step: int = 0
    reason: str = ""
    parameters: dict[str, int] | None = None
    memory: int | None = None
    memory_is_own: bool = False
    seconds_per_image: float | None = None
    train_seconds: float | None = None
    score_seconds: float | None = None
    weights: str | None = None
    verdict: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "diverged", "refused")


def read_record(run: Path) -> Record:
    """A run's record; that of a run that waits if there is none or it cannot be read."""
    try:
        return Record(**parse_json((run / RECORD).read_text(encoding="utf-8")))
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
    """The most memory that was taken since it was made: by tensors on the GPU if there is one in use, else by this
    process beyond what it held before, so that a run does not count what runs before it left behind."""

    def __init__(self) -> None:
        self._before: int | None = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        with suppress(OSError, AttributeError):  # only Linux knows it, and not in every sandbox
            ctypes.CDLL(None).malloc_trim(0)  # what was freed and is still held would be taken again unnoticed
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def bytes(self) -> int | None:
        """None where it is not known."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return int(torch.cuda.max_memory_allocated())
        with suppress(OSError):
            peak = _status("VmHWM")
            if peak is not None and self._before is not None:
                return max(0, peak - self._before)
        return None


def _status(key: str) -> int | None:
    """Bytes that Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
