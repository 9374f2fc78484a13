"""Noise images of generators that take one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def draw_noise(network: nn.Module, source: Tensor, generator: torch.Generator) -> Tensor | None:
    """Draw normal noise for a batch of sources.

    Args:
        network: The generator; its attribute `noise` is the number of bands, 0 or missing for none.
        source: (N, C, H, W).
        generator: Random generator on the device of the source.

    Returns:
        float32 (N, bands, H, W); None if the network takes none.
    """
    bands = int(getattr(network, "noise", 0))
    if not bands:
        return None
    shape = (source.shape[0], bands, *source.shape[2:])
    noise = torch.randn(shape, generator=generator, device=source.device)
    return noise.contiguous(memory_format=torch.channels_last)


def translated(network: nn.Module, source: Tensor, generator: torch.Generator) -> Tensor:
    """Translate float (N, C, H, W), with noise from the random generator if the network takes some."""
    noise = draw_noise(network, source, generator)
    output: Tensor = network(source) if noise is None else network(source, noise)
    return output
