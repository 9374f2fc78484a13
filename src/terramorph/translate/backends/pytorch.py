"""PyTorch as a backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from terramorph.bundle import Mode
from terramorph.errors import ConfigError
from terramorph.networks import Core, NoiseDropout, set_noise
from terramorph.networks.inference import cpu_form, fold_batchnorm, per_image_statistics
from terramorph.processor import native_bf16
from terramorph.translate.backends.protocol import resolve_device, resolve_precision
from terramorph.translate.tuning import Run, Tuning, best_form


class TorchBackend:
    """PyTorch.

    In raster mode batch norm is folded into the convolutions, and the weights are float32 or bfloat16 (cast
    once, after folding; autocast would cast in every call). A network that has a form of its own for the CPU runs in
    it where that is faster (see `tuning`). In paper mode the network runs as it is, with the statistics of each image
    alone.

    Args:
        network: A generator; a copy is used.
        mode: `raster` or `paper`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:1`.
        precision: `fp32`, `bf16`, or `auto`: bf16 in raster mode where the hardware multiplies it natively
            (AVX512_BF16, AMX, CUDA from Ampere on), otherwise fp32. Paper mode is for comparison with
            published figures, and its `auto` is fp32. Asked for where it is emulated, bf16 works, slowly.
        batch_size: Images per pass; default in raster mode: as measured on this CPU, or 4; 16 on CUDA. Always 1 in
            paper mode.
        dropout: Whether dropout is live in paper mode. It never is in raster mode.
        rearranged: Whether it runs in its own form for the CPU, if it has one; default: the faster one here.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mode: Mode = "raster",
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        dropout: bool = True,
        rearranged: bool | None = None,
    ) -> None:
        if mode not in ("raster", "paper"):
            raise ConfigError(f"There is no mode {mode!r}; use raster or paper.")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"A batch of {batch_size} images is not possible; use 1 or more.")
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device, mode)
        self.name = f"torch {self.device.type} {str(self.dtype).removeprefix('torch.')}"
        if mode == "paper" and not dropout:
            self.name += " without dropout"  # which makes other pixels
        self.noise_bands = int(getattr(network, "noise", 0))
        drops = dropout and any(isinstance(m, NoiseDropout) and m.p > 0.0 for m in network.modules())
        self.noisy = mode == "paper" and (drops or self.noise_bands > 0)
        on_cuda, bf16 = self.device.type == "cuda", self.dtype == torch.bfloat16
        asked = mode == "raster" and bool(getattr(network, "channels_last", False))
        # What cuDNN's tensor cores and oneDNN's bfloat16 want; float32 on a CPU mostly does without.
        channels_last = on_cuda or bf16 or asked
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._generator: torch.Generator | None = None
        if mode == "paper":
            self.batch_size = 1
            self._network: Any = self._placed(per_image_statistics(network, dropout=drops))
            if self.noisy:
                self._generator = torch.Generator(self.device)
                set_noise(self._network, self._generator)
        else:
            # Emulated products are slower still than emulated convolutions.
            if on_cuda or cpu_form(network) is None or (bf16 and not native_bf16("cpu")):
                tuning = Tuning(rearranged=False, batch_size=16 if on_cuda else 1 if asked else 4)
            elif rearranged is None:
                tuning = best_form(network, self.dtype, partial(self._timed, network))
            else:
                tuning = Tuning(rearranged)
            self._network = self._form(network, tuning.rearranged)
            self.batch_size = batch_size or tuning.batch_size
        # The statistics of each image are those of all of it.
        self.takes_core = mode == "raster" and bool(getattr(self._network, "takes_core", False))

    def _form(self, network: nn.Module, rearranged: bool) -> Callable[..., Tensor]:
        form = cpu_form(network) if rearranged else None
        return self._placed(fold_batchnorm(network)) if form is None else form(self.dtype)

    def _timed(self, network: nn.Module, rearranged: bool) -> Run:
        made = self._form(network, rearranged)
        return lambda source: made(self._given(source))

    def _given(self, source: Tensor) -> Tensor:
        return source.to(self.device, self.dtype).contiguous(memory_format=self._memory_format)

    def _placed(self, network: nn.Module) -> nn.Module:
        network.to(self.device, self.dtype)
        if self._memory_format == torch.channels_last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return network

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None, core: Core | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, h, w), on the same device.

        Args:
            source: Images, on any device.
            seed: Seed of dropout and noise image in paper mode, which differ between images of a batch.
            noise: float32 (N, noise_bands, H, W) in raster mode; None: the mean of the noise, 0.
            core: (rows, columns) that are wanted, if the backend takes it; None: all.
        """
        with torch.no_grad():
            if self._generator is not None:
                self._generator.manual_seed(seed)
            x = self._given(source)
            if self.noise_bands and self._generator is not None:
                shape = (len(x), self.noise_bands, *x.shape[2:])
                noise = torch.randn(shape, generator=self._generator, device=self.device)
            inputs = [x] if noise is None else [x, noise.to(self.device, self.dtype)]
            y: Tensor = self._network(*inputs, **({} if core is None else {"core": core}))
            return y.float().contiguous().to(source.device)

    def release(self) -> None:
        getattr(self._network, "release", lambda: None)()
