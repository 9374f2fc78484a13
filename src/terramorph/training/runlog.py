"""What a run leaves behind to look at: log.jsonl, TensorBoard scalars, and sample sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from terramorph.pixels import unit_to_image


class RunLog:
    """Writes into a run's folder; on a process that is not the first it writes nothing.

    Args:
        folder: the run's, or None to write nothing.
        step: steps already done; later lines of an interrupted run are taken out, for they will be written again.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.folder = folder
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines()
            path.write_text("".join(line + "\n" for line in lines if _step_of(line) <= step))
        self._lines = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def event(self, kind: str, **values: Any) -> None:
        """One line of log.jsonl."""
        if self.folder is not None:
            self._lines.write(json.dumps({"event": kind, **values}) + "\n")
            self._lines.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Losses and rates of a step, by readable names."""
        if self.folder is None:
            return
        self.event("step", step=step, **values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def sheet(self, step: int, sheet: np.ndarray) -> None:
        """A sample sheet, uint8 (H, W, 3)."""
        if self.folder is None:
            return
        samples = self.folder / "samples"
        samples.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(samples / f"step_{step:07d}.png")
        self._board.add_image("input | output | truth", sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes."""
        if self.folder is not None:
            self._lines.close()
            self._board.close()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line).get("step", 0))
    except (json.JSONDecodeError, AttributeError):
        return 2**62  # half a line, from a run that was killed while writing it


def sample_sheet(source: Tensor, translated: Tensor, truth: Tensor) -> np.ndarray:
    """Rows of input | output | truth.

    Args:
        source, translated, truth: float (N, C, H, W) in [-1, 1]; the first three bands are shown, or the first as grey.

    Returns:
        uint8 (N * H, 3 * W, 3).
    """
    columns = []
    for images in (source, translated, truth):
        shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
        columns.append(torch.cat(list(shown.float()), dim=1))
    return unit_to_image(torch.cat(columns, dim=2)).transpose(1, 2, 0)
