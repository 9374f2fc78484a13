"""clDice of roads as a term of the generator's loss, for the study `sat2map.toml` (Shit et al. 2021, arXiv:2003.07311).

A pixel is as much a road as its colour is near to those of roads in the palette of protocol maps-256.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from terramorph.cartography import load_style, palette_of

ROADS = ("road", "arterial", "highway")
STEPS = 6
"""Erosions of the skeleton; roads are at most twice as many pixels wide."""
NEAR = 0.005
"""Squared distance of colours in [-1, 1] at which one counts 1/e as much; at 0.02 buildings were half a road."""


def loss(batch, output: Tensor, features) -> Tensor:
    """1 - clDice of the roads of the output and the target, images float (N, 3, H, W) in [-1, 1]; a 0-d tensor."""
    ours, theirs = roads(output.float()), roads(batch.target.float())
    precision = _share(skeleton(ours), theirs)
    recall = _share(skeleton(theirs), ours)
    return 1.0 - (2.0 * precision * recall / (precision + recall)).mean()


def roads(images: Tensor) -> Tensor:
    """How much each pixel is a road, float (N, 1, H, W) in [0, 1]."""
    palette = palette_of(load_style("classic"))
    colours = torch.as_tensor(palette.colours, dtype=images.dtype, device=images.device) / 127.5 - 1.0
    apart = torch.stack([((images - colour.view(1, 3, 1, 1)) ** 2).sum(dim=1) for colour in colours], dim=1)
    is_road = torch.tensor([palette.names[index] in ROADS for index in palette.index], device=images.device)
    return torch.softmax(-apart / NEAR, dim=1)[:, is_road].sum(dim=1, keepdim=True)


def skeleton(planes: Tensor) -> Tensor:
    """The soft skeleton of planes in [0, 1], by algorithm 1."""
    found = functional.relu(planes - _opened(planes))
    for _ in range(STEPS):
        planes = _eroded(planes)
        more = functional.relu(planes - _opened(planes))
        found = found + functional.relu(more - found * more)
    return found


def _share(lines: Tensor, areas: Tensor) -> Tensor:
    """The share of lines that lies in areas, (N,)."""
    return ((lines * areas).sum(dim=(1, 2, 3)) + 1.0) / (lines.sum(dim=(1, 2, 3)) + 1.0)


def _eroded(planes: Tensor) -> Tensor:
    down, across = (-functional.max_pool2d(-planes, size, 1, [side // 2 for side in size]) for size in ([3, 1], [1, 3]))
    return torch.minimum(down, across)


def _opened(planes: Tensor) -> Tensor:
    return functional.max_pool2d(_eroded(planes), 3, 1, 1)
