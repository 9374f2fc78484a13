"""What a backend is, what the names of devices and precisions mean, and the mean of eight views around any backend."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from terramorph.bundle import Mode
from terramorph.errors import ConfigError
from terramorph.networks.layers import on_stride
from terramorph.processor import native_bf16, warn_of_emulation

VIEWS = 8


class Backend(Protocol):
    """Runs a generator on batches.

    One that has an attribute `takes_core`, and it is True, computes less where only a core of the image is wanted: its
    `run` takes (rows, columns) as `core`, and gives these.

    Attributes:
        name: Name of backend and precision; results of one name are equal.
        device: Device of the computation.
        batch_size: Images of the training size per pass that are fastest; 1 where each image has its own noise.
        noisy: Whether the output depends on the seed.
        noise_bands: Bands of the noise image that the generator takes; 0 if it takes none.
    """

    name: str
    device: torch.device
    batch_size: int
    noisy: bool
    noise_bands: int

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, H, W), on the same device.

        Args:
            source: Images, on any device.
            seed: Seed of the noise, where `noisy`.
            noise: float32 (N, bands, H, W), the noise image of a generator that has one; None: drawn where `noisy`.
        """
        ...

    def release(self) -> None:
        """Release what is kept between calls to be faster; the next call makes it again."""
        ...


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` is CUDA if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"There is no device {device!r}; use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"The device {chosen.type} is not supported; use auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"There is no device {chosen} here; use device cpu, or install a CUDA build of torch.")
    return chosen


def resolve_precision(precision: str, device: torch.device, mode: Mode) -> torch.dtype:
    """Return float32 or bfloat16, by name or by what the hardware is good at; emulated bfloat16 gives a warning."""
    if precision in ("fp32", "float32"):
        return torch.float32
    if precision in ("bf16", "bfloat16"):
        warn_of_emulation(device)
        return torch.bfloat16
    if precision != "auto":
        raise ConfigError(f"There is no precision {precision!r}; use auto, fp32 or bf16.")
    return torch.bfloat16 if mode == "raster" and native_bf16(device) else torch.float32


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
