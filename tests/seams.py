"""Figures that say whether an image made in windows shows them.

A seam is a faint line where there is nothing on the ground, so it is looked for where windows end, and nowhere else:
the gradient across the border of two windows is compared with that across lines beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.geo import Cover
from terramorph.geo.cover import Span

SATURATION = 4.0
"""Grey levels from which a gradient counts no more. Edges of roads and roofs are few, strong and by chance on one
line or the next; unlimited, they would outweigh every seam (on a satellite image the figure would scatter ten times
as much)."""

PHASE = 128
"""Lines that are compared lie a multiple of this apart. Blocks of JPEG and every upsampling of a network leave
patterns of periods 2, 4, 8 and so on, and windows start at the same place of each: beside lines 16 pixels away, the
output of a U-Net 256 has 0.9 to 1.2 times the energy at multiples of 32 without any window; beside lines 128 away,
0.998 to 1.006 times."""


def borders_of(cover: Cover) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(rows, columns): where a seam of a cover would be. y lies between the pixel rows y - 1 and y.

    With a halo, where the output passes from one window to the next. Where windows are blended, both ends and the
    middle of each overlap.
    """

    def along(spans: Sequence[Span]) -> tuple[int, ...]:
        ends = [(following.first, span.last) for span, following in pairwise(spans)]
        return tuple(sorted({place for first, last in ends for place in (first, (first + last) // 2, last)}))

    return along(cover.rows), along(cover.columns)


def seam_ratio(
    image: Tensor, rows: Sequence[int], columns: Sequence[int], mask: Tensor | None = None, reach: int = 256
) -> float:
    """Gradient energy across the borders of windows over that beside them; 1.0 means no seams.

    With ``e(x) = mean over valid pixels and bands of min(|I(x) - I(x - 1)|, 4)^2`` across the line between columns
    ``x - 1`` and ``x``, and the same for rows, the ratio is

        ``sum_b n(b) e(b) / sum_b n(b) mean_k e(b + k),   k = +-128, +-256, ... +-reach``

    over all borders ``b`` with ``n(b)`` valid pixels, the mean being over the valid pixels of all ``b + k``. The
    lines beside a border are parallel to it, see the same ground and lie in the same phase of every regular pattern,
    so without seams both sums estimate the same. Over 1 there are steps; under 1 the image is smoother where windows
    meet, as a blend of two different outputs is. Lines that are borders themselves, or outside, are left out, and
    so is a border that has none but these beside it.

    What scatters is the ground: without seams, 18 lines of 1024 pixels gave a standard deviation of 0.008 on a
    textured image and 0.08 on a drawn map, 18 of 2048 pixels about 0.01 on outputs of a U-Net. The ratio of the same
    borders in an image made in one pass, or in windows moved by a multiple of the network's stride, is what the
    ground alone gives; divided by it, 0.002 is left.

    Windows that are joined without blending have one border. Blended ones have three: where the overlap begins,
    where it ends, and its middle (see `borders_of`).

    Args:
        image: ``(C, H, W)`` in grey levels [0, 255], uint8 or floating.
        rows: Borders; ``y`` lies between rows ``y - 1`` and ``y``, 1 to ``H - 1``.
        columns: Borders between columns, likewise.
        mask: bool ``(H, W)``, True where a pixel counts; ``None`` counts all.
        reach: How far the lines beside a border may be from it, in pixels, 128 or more.

    Returns:
        0 or more; infinite if only borders have a gradient; ``nan`` without a border that has valid pixels and
        lines beside it.

    Raises:
        InputError: A shape or dtype is not as above, a border is outside, or the reach is under 128.
    """
    if image.ndim != 3:
        raise InputError(f"Seams are looked for in an image (C, H, W), but this one is {tuple(image.shape)}.")
    _check_mask(mask, image)
    if reach < PHASE:
        raise InputError(f"A reach of {reach} pixels has no line to compare with; give {PHASE} or more.")
    for borders, length in ((rows, image.shape[1]), (columns, image.shape[2])):
        if outside := [border for border in borders if not 0 < border < length]:
            raise InputError(f"The borders {outside} are not between the {length} lines of the image.")
    turned = None if mask is None else mask.T
    pairs = _energies(image, columns, mask, reach) + _energies(image.transpose(1, 2), rows, turned, reach)
    across, beside = (math.fsum(side) for side in zip(*pairs, strict=True)) if pairs else (math.nan, math.nan)
    if across == beside:
        return 1.0
    return across / beside if beside else math.inf


def tiling_agreement(a: Tensor, b: Tensor, mask: Tensor | None = None) -> dict[str, float]:
    """How far two images of the same ground, made in different windows, are from one another.

    Args:
        a: ``(C, H, W)`` in grey levels [0, 255], uint8 or floating.
        b: The same shape.
        mask: bool ``(H, W)``, True where a pixel counts; ``None`` counts all.

    Returns:
        In grey levels, over valid pixels and bands: ``mean_abs``, the mean absolute difference; ``p99``, which 99 %
        of the differences do not exceed; ``max``. All ``nan`` without a valid pixel.

    Raises:
        InputError: A shape or dtype is not as above.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise InputError(
            f"Two tilings are compared as (C, H, W) of one shape, but they are {tuple(a.shape)} and {tuple(b.shape)}."
        )
    _check_mask(mask, a)
    difference = (a.to(torch.float32) - b.to(torch.float32)).abs_()
    values = difference.flatten() if mask is None else difference[:, mask].flatten()
    if not values.numel():
        return {"mean_abs": math.nan, "p99": math.nan, "max": math.nan}
    return {
        "mean_abs": float(values.mean(dtype=torch.float64)),
        "p99": float(values.kthvalue(math.ceil(0.99 * values.numel())).values),
        "max": float(values.max()),
    }


def _energies(image: Tensor, borders: Sequence[int], mask: Tensor | None, reach: int) -> list[tuple[float, float]]:
    """For each border between columns that can be measured: (energy across it, energy beside it), each times the
    border's valid pixels."""
    energies = []
    for border in sorted(set(borders)):
        lines = [border + sign * k for k in range(PHASE, reach + 1, PHASE) for sign in (-1, 1)]
        lines = [x for x in lines if 0 < x < image.shape[2] and all(abs(x - other) > 1 for other in borders)]
        energy, count = _line_energy(image, [border, *lines], mask)
        others = float(count[1:].sum())
        if count[0] and others:
            energies.append((float(energy[0]), float(count[0] * energy[1:].sum()) / others))
    return energies


def _line_energy(image: Tensor, lines: list[int], mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradient energy across K lines between columns, summed over valid pixels, and their number: float64 ``(K,)``."""
    right = torch.tensor(lines, device=image.device)
    step = image.index_select(2, right).to(torch.float64) - image.index_select(2, right - 1).to(torch.float64)
    energy = step.abs().clamp(max=SATURATION).square().mean(dim=0)
    if mask is None:
        valid = torch.ones_like(energy, dtype=torch.bool)
    else:
        valid = mask.index_select(1, right) & mask.index_select(1, right - 1)
    return torch.where(valid, energy, 0.0).sum(dim=0), valid.sum(dim=0).to(torch.float64)


def _check_mask(mask: Tensor | None, image: Tensor) -> None:
    if mask is not None and (mask.dtype != torch.bool or mask.shape != image.shape[1:]):
        raise InputError(
            f"The mask must be bool {tuple(image.shape[1:])} beside this image, but it is {mask.dtype} "
            f"{tuple(mask.shape)}."
        )
