"""Windows that cover an image too large for one pass, and the weights that join their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One window along one axis.

    Attributes:
        start, stop: pixels [start, stop) that the network sees.
        weights: float32 (stop - start,), the share of this window in each output pixel. Over all spans they
            add up to 1.
    """

    start: int
    stop: int
    weights: Tensor


def spans(length: int, window: int, *, halo: int | None, align: int, overlap: int) -> list[Span]:
    """Windows along one axis.

    Args:
        length: pixels to cover.
        window: pixels in a window; more than the overlap, or than twice the halo, by at least `align`.
        halo: if the receptive field is bounded: pixels that an output depends on on each side. Each output
            pixel then comes from one window that sees all of them, and the joint is exact. None: windows are
            blended linearly.
        align: starts are multiples of this.
        overlap: pixels that neighbours share at least, where they are blended.

    Raises:
        ValueError: if a window leaves no room for a step.
    """
    if length <= window:
        return [Span(0, length, torch.ones(length))]
    shared = overlap if halo is None else 2 * halo
    step = (window - shared) // align * align
    if step < align:
        raise ValueError(f"a window of {window} is too small for {shared} shared pixels in steps of {align}")
    starts = [0]
    while starts[-1] + window < length:
        starts.append(min(starts[-1] + step, -(-(length - window) // align) * align))
    stops = [min(start + window, length) for start in starts]
    raw = []
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        weight = torch.ones(stop - start)
        if halo is None:
            ramp = (torch.arange(overlap) + 0.5) / overlap
            if number > 0:
                weight[:overlap] *= ramp
            if number < len(starts) - 1:
                weight[-overlap:] *= ramp.flip(0)
        else:
            # The middle between two windows is at least a halo away from both ends.
            if number > 0:
                weight[: (start + stops[number - 1]) // 2 - start] = 0.0
            if number < len(starts) - 1:
                weight[(starts[number + 1] + stop) // 2 - start :] = 0.0
        raw.append(weight)
    total = torch.zeros(length)
    for start, stop, weight in zip(starts, stops, raw, strict=True):
        total[start:stop] += weight
    return [
        Span(start, stop, weight / total[start:stop]) for start, stop, weight in zip(starts, stops, raw, strict=True)
    ]


def run_windows(
    rows: list[Span],
    columns: list[Span],
    bands: int,
    run: Callable[[slice, slice], Tensor | None],
    write: Callable[[slice, Tensor], None],
) -> None:
    """Runs every window and hands over rows as soon as nothing more is added to them.

    Memory is one row of windows in float32, whatever the height.

    Args:
        rows, columns: windows of both axes.
        bands: of the output.
        run: (rows, columns) -> the network's output there, float32 (bands, h, w), or None for a window to
            leave at 0.
        write: takes rows from top to bottom, and their float32 (bands, rows, width).
    """
    width = columns[-1].stop
    band = torch.zeros(bands, rows[0].stop - rows[0].start, width)
    for number, row in enumerate(rows):
        for column in columns:
            part = run(slice(row.start, row.stop), slice(column.start, column.stop))
            if part is not None:
                weight = row.weights[:, None] * column.weights
                band[:, : row.stop - row.start, column.start : column.stop].addcmul_(part, weight)
        last = number == len(rows) - 1
        done = (row.stop if last else rows[number + 1].start) - row.start
        write(slice(row.start, row.start + done), band[:, :done])
        if not last:
            following = rows[number + 1]
            rest = band[:, done:]
            band = torch.zeros(bands, max(following.stop - following.start, rest.shape[1]), width)
            band[:, : rest.shape[1]] = rest
