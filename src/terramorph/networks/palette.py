"""Search of a map's colours in training targets."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLES = 2**16
"""Pixels that are looked at."""
_ROUNDS = 50


def find_palette(images: Iterable[Tensor], colours: int) -> Tensor:
    """Find colours by k-medians: each is the median of the pixels nearest to it.

    Starts from the pixels that are farthest from the colours before them (Gonzalez 1985), weighed by how many are like
    them, so that small classes of a colour of their own are found. Pixels are taken at equal distances; nothing is
    drawn.

    Args:
        images: float (N, bands, H, W) in [-1, 1] each, on any device.
        colours: Number of colours.

    Returns:
        float32 (colours, bands) on the CPU, the most frequent first.
    """
    parts = [image.detach().float().cpu().movedim(1, -1).flatten(0, -2) for image in images]
    share = max(1, sum(map(len, parts)) // SAMPLES)
    pixels = torch.cat([part[::share] for part in parts])
    palette = _start(pixels, colours)
    for _ in range(_ROUNDS):
        nearest = torch.cdist(pixels, palette).argmin(dim=1)
        moved = palette.clone()
        for number in set(nearest.tolist()):
            moved[number] = pixels[nearest == number].median(dim=0).values
        if torch.equal(moved, palette):
            break
        palette = moved
    counts = torch.cdist(pixels, palette).argmin(dim=1).bincount(minlength=colours)
    return palette[counts.argsort(descending=True, stable=True)]


def _start(pixels: Tensor, colours: int) -> Tensor:
    """Return colours to start from: (colours, bands)."""
    # Bins of 1/16 of the range, so that one odd pixel is not taken for a class.
    bins, where, counts = torch.unique(((pixels + 1) * 8).floor(), dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros_like(bins).index_add_(0, where, pixels) / counts[:, None]
    weights = counts.float().sqrt()
    chosen = [int(counts.argmax())]
    distance = torch.cdist(means, means[chosen]).amin(dim=1)
    while len(chosen) < colours:
        chosen.append(int((distance * weights).argmax()))
        distance = torch.minimum(distance, torch.cdist(means, means[chosen[-1:]]).flatten())
    started: Tensor = means[chosen]
    return started
