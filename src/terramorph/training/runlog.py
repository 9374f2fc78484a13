"""Log of a run: log.jsonl, TensorBoard scalars, sample sheets; and run.html, the page of a run, made from log.jsonl and
samples/ alone whenever the run writes there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from terramorph.atomic import atomic, write_text
from terramorph.documents import parse_json
from terramorph.errors import StorageError
from terramorph.metrics import METRICS
from terramorph.report import duration
from terramorph.report.pages import render_page

PAGE = "run.html"
_PAGE_EVERY = 30.0
"""Seconds between two writings of the page, unless there is a validation."""
_POINTS = 160
"""Most points of a curve; more are averaged."""
_LOSSES = {"l1": "L1", "l2": "L2"}
_MOST = 1e15
"""Largest magnitude of numbers in a log."""
_ENDS = {"finished": "finished", "stopped": "stopped; it can be resumed"}


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


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log.jsonl, without damaged ones and half lines of killed runs."""
    try:
        text = (run / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(parse_json(line))
    return [line for line in lines if isinstance(line, dict) and _is_event(line)]


def _is_event(line: dict[str, Any]) -> bool:
    """Return whether a line of the log has the keys of its kind, and a step has only numbers."""
    kind, wanted = line.get("event"), {"started": "total", "resumed": "total", "step": "step", "validation": "step"}
    numbers = [
        line[key] for key in line if key != "event" and (kind in ("step", "validation") or key in ("step", "time"))
    ]
    return (
        isinstance(kind, str)
        and (kind not in wanted or type(line.get(wanted[kind])) is int)
        and (kind != "warning" or isinstance(line.get("text"), str))
        and all(type(number) in (int, float) and abs(number) < _MOST for number in numbers)
    )


def write_page(folder: Path) -> None:
    """Write the page of a run."""
    events = read_log(folder)
    sheets = sorted(path.name for path in (folder / "samples").glob("step_*.png") if path.stem[5:].isdecimal())
    # The last sheet, and up to two earlier ones.
    shown = [sheets[k] for k in dict.fromkeys((len(sheets) - 1, len(sheets) // 2, 0))] if sheets else []
    pictures = [(f"step {int(name[5:-4]):,}", f"samples/{name}") for name in shown]
    page = render_page(
        "terramorph.training", "run.html.j2", name=folder.resolve().name, pictures=pictures, **_facts(events)
    )
    write_text(folder / PAGE, page)


def _facts(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the values of the page's template."""
    steps = [event for event in events if event["event"] == "step"]
    validations = [event for event in events if event["event"] == "validation"]
    last = events[-1] if events else {}
    total = max((event["total"] for event in events if event["event"] in ("started", "resumed")), default=0)
    # Only some steps are logged; the event of a stop or an end has the last one.
    done = next((event["step"] for event in reversed(events) if type(event.get("step")) is int), 0)
    running = last.get("event") not in _ENDS
    # Time before a resumption is no training.
    spent = sum(
        b.get("time", 0.0) - a.get("time", b.get("time", 0.0)) for a, b in pairwise(events) if b["event"] != "resumed"
    )
    figures = [("Step", f"{done:,}", f"of {total:,}"), ("Time", duration(spent), "of training")]
    sentence = f"{'Training' if running else _ENDS[last['event']].capitalize()}: {done:,} of {total:,} steps"
    if running and steps and (pace := _steps_per_second(steps)):
        sentence += f", {duration((total - done) / pace)} to go"
    scored = _quantities(validations)
    shown = [key for key in scored if validations and key in validations[-1]][:3]
    figures += [(_name(key), _said(key, validations[-1][key]), "held-out pairs") for key in shown]
    return {
        "state": "training" if running else _ENDS[last["event"]],
        "running": running,
        "updated": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "sentence": f"{sentence}.",
        "figures": figures,
        "warnings": [event["text"] for event in events if event["event"] == "warning"],
        "held_out": [_curve(validations, key) for key in scored],
        "losses": [_curve(steps, key) for key in _quantities(steps)],
    }


def _quantities(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the logged quantities."""
    return list(dict.fromkeys(key for event in events for key in event if key not in ("event", "step", "time")))


def _name(key: str) -> str:
    """Return the name of a loss or metric; the key for one from outside."""
    return METRICS[key].label if key in METRICS else _LOSSES.get(key, key)


def _said(key: str, value: float) -> str:
    return METRICS[key].said(value) if key in METRICS else f"{value:.3g}"


def _curve(events: Sequence[dict[str, Any]], key: str) -> dict[str, str]:
    """Return a quantity over the steps as text that the template draws; matplotlib would take longer than a step.

    Returns:
        ``name``, ``now``, ``path`` through a box of 100 x 40, and the ends of both axes: ``low``, ``high``, ``first``,
        ``last``.
    """
    points = [(float(e["step"]), float(e[key])) for e in events if key in e]
    width = math.ceil(len(points) / _POINTS) or 1
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    x, y = ([math.fsum(point[axis] for point in group) / len(group) for group in groups] for axis in (0, 1))
    across, up = (100 / ((side[-1] - side[0]) or 1.0) for side in (x, sorted(y)))
    base = 39 if max(y) > min(y) else 20
    left = 0 if x[-1] > x[0] else 50  # one value is a dot in the middle
    path = "L".join(
        f"{left + across * (a - x[0]):.1f} {base - 0.38 * up * (b - min(y)):.1f}" for a, b in zip(x, y, strict=True)
    )
    ends = {"low": _said(key, min(y)), "high": _said(key, max(y)), "first": f"{x[0]:,.0f}", "last": f"{x[-1]:,.0f}"}
    return {"name": _name(key), "now": _said(key, points[-1][1]), "path": f"{path}h0.01", **ends}


def _steps_per_second(steps: Sequence[dict[str, Any]]) -> float | None:
    """Return the speed over the last logged steps."""
    first, last = steps[max(len(steps) - 5, 0)], steps[-1]
    seconds = last.get("time", 0.0) - first.get("time", 0.0)
    return (last["step"] - first["step"]) / seconds if seconds > 0 else None
