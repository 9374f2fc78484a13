"""Log of a run: log.jsonl, TensorBoard scalars, sample sheets, and run.html."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from terramorph.atomic import atomic, write_text
from terramorph.documents import parse_json
from terramorph.errors import StorageError
from terramorph.training.page import PAGE, write_page

_PAGE_EVERY = 30.0
"""Seconds between two writings of the page, unless there is a validation."""


class RunLog:
    """Writes the log into a run's folder; in processes other than the first it writes nothing.

    Args:
        folder: Folder of the run; None writes nothing.
        step: Steps done already; later lines of an interrupted run are removed, as they will be written again.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.folder = folder
        self._page_written = time.monotonic()
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        with self._storing(f"The log {path}"):
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))
            self._lines = path.open("a", encoding="utf-8")
            try:
                # TensorBoard drops its values from this step on; those of the last step done are not written again.
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            except BaseException:
                self._lines.close()
                raise

    @contextmanager
    def _storing(self, what: str) -> Iterator[None]:
        """Convert errors of writing to a StorageError that says how to resume."""
        try:
            yield
        except OSError as error:
            reason = error.__cause__ or error
            raise StorageError(
                f"{what} could not be written ({getattr(reason, 'strerror', None) or reason}); free some space and "
                f"continue with `resume` {self.folder}."
            ) from error

    def event(self, kind: str, **values: Any) -> None:
        """Write a line of log.jsonl, with the time (seconds since 1970)."""
        if self.folder is None:
            return
        with self._storing(f"The log {self.folder / 'log.jsonl'}"):
            self._lines.write(json.dumps({"event": kind, **values, "time": round(time.time(), 3)}) + "\n")
            self._lines.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write losses and rates of a step, by name."""
        self.event("step", step=step, **values)
        self._plot(step, values)
        if time.monotonic() - self._page_written > _PAGE_EVERY:
            self._page()

    def validation(self, step: int, scores: Mapping[str, float], sheet: np.ndarray | None) -> None:
        """Write scores of held-out pairs, and a sample sheet, uint8 (H, W, 3)."""
        if scores:
            self.event("validation", step=step, **scores)
            self._plot(step, {f"held-out {name}": value for name, value in scores.items()})
        if self.folder is None or sheet is None:
            return
        with self._storing(f"The sample sheet of step {step}"):
            with atomic(self.folder / "samples" / f"step_{step:07d}.png", make_folder=True) as part:
                Image.fromarray(sheet).save(part, format="PNG")
            self._board.add_image("input | output | truth", sheet, step, dataformats="HWC")
        self._page()

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        """Write values to TensorBoard."""
        if self.folder is None:
            return
        with self._storing(f"The TensorBoard scalars of step {step}"):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files; a full disk raises StorageError here too."""
        if self.folder is None:
            return
        with self._storing(f"The log of {self.folder}"):
            try:
                self._lines.close()
            finally:
                self._board.close()
        self._page()

    def _page(self) -> None:
        if self.folder is None:
            return
        self._page_written = time.monotonic()
        with self._storing(f"The page {self.folder / PAGE}"):
            write_page(self.folder)


def _step_of(line: str) -> int:
    try:
        return int(parse_json(line).get("step", 0))
    except (ValueError, AttributeError):
        return 2**62  # half a line, from a run that was killed while writing it
