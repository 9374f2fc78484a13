"""The mean over the eight flips and turns of an image, around any backend."""

from __future__ import annotations

import torch
from torch import Tensor

from terramorph.networks.layers import on_stride
from terramorph.translate.backends.protocol import Backend

VIEWS = 8


class Ensemble:
    """A backend that runs each image in its eight orientations and gives the mean of what comes back.

    That the mean over the symmetries of the data is better than one pass is known from super-resolution (Timofte et al.
    2016, arXiv:1511.02228, "enhanced prediction"). The noise image is turned with its image, so the ground keeps its
    noise. It takes eight times as long.

    Args:
        backend: Backend that runs the network.
        stride: Stride of the network; images are extended to multiples of it first, so that all eight are in phase.
    """

    def __init__(self, backend: Backend, stride: int) -> None:
        self.backend, self.stride = backend, stride
        self.name = f"{backend.name}, mean of {VIEWS} views"
        self.device, self.batch_size = backend.device, backend.batch_size
        self.noisy, self.noise_bands = backend.noisy, backend.noise_bands
        self.dtype = getattr(backend, "dtype", torch.float32)

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            return on_stride(lambda x: self._mean(x, seed, None), source, self.stride)
        joined = torch.cat([source, noise.to(source)], dim=1)
        bands = source.shape[1]
        return on_stride(lambda x: self._mean(x[:, :bands], seed, x[:, bands:]), joined, self.stride)

    def release(self) -> None:
        self.backend.release()

    def _mean(self, source: Tensor, seed: int, noise: Tensor | None) -> Tensor:
        total: Tensor | None = None
        for number in range(VIEWS):
            turned = None if noise is None else view(noise, number).contiguous()
            made = view(self.backend.run(view(source, number).contiguous(), seed, turned), number, back=True)
            total = made.clone() if total is None else total.add_(made)
        assert total is not None
        return total.div_(VIEWS)


def view(image: Tensor, number: int, *, back: bool = False) -> Tensor:
    """Mirror (..., H, W) if the number, 0 to 7, is odd, then turn it; `back` undoes that."""
    turns, mirrored = divmod(number, 2)
    if back:
        image = torch.rot90(image, -turns, (-2, -1))
        return image.flip(-1) if mirrored else image
    return torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
