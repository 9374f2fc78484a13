"""PyTorch as a backend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terramorph.bundle import Mode
from terramorph.errors import ConfigError
from terramorph.networks import NoiseDropout, set_noise
from terramorph.networks.inference import fold_batchnorm, per_image_statistics
from terramorph.translate.backends.protocol import resolve_device, resolve_precision
from terramorph.translate.packed import PackedUNet


class TorchBackend:
    """PyTorch.

    In raster mode batch norm is folded into the convolutions, and the weights are float32 or bfloat16 (cast
    once, after folding; autocast would cast in every call). A U-Net on the CPU is also rearranged: see
    `packed`. In paper mode the network runs as it is, with the statistics of each image alone.

    Args:
        network: a generator; a copy is used.
        mode: `raster` or `paper`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:1`.
        precision: `fp32`, `bf16`, or `auto`: bf16 in raster mode where the hardware multiplies it natively
            (AVX512_BF16, AMX, CUDA from Ampere on), otherwise fp32. Paper mode is for comparison with
            published figures, and its `auto` is fp32.
        batch_size: default 4 on a CPU and 16 on CUDA in raster mode; always 1 with live dropout.
        dropout: whether dropout is live in paper mode. It never is in raster mode.

    Raises:
        ConfigError: if the device or precision is unknown or not there, or the batch size is under 1.
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
    ) -> None:
        if mode not in ("raster", "paper"):
            raise ConfigError(f"There is no mode {mode!r}; use raster or paper.")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"A batch of {batch_size} images is not possible; use 1 or more.")
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device, mode)
        self.name = f"torch {self.device.type} {str(self.dtype).removeprefix('torch.')}"
        self.noisy = (
            mode == "paper" and dropout and any(isinstance(m, NoiseDropout) and m.p > 0.0 for m in network.modules())
        )
        default = 4 if self.device.type == "cpu" else 16
        self.batch_size = 1 if mode == "paper" else batch_size or default
        self._generator: torch.Generator | None = None
        self._packed: PackedUNet | None = None
        self._network: nn.Module | None = None
        if mode == "paper":
            self._network = self._placed(per_image_statistics(network, dropout=self.noisy))
            if self.noisy:
                self._generator = torch.Generator(self.device)
                set_noise(self._network, self._generator)
            return
        # The paper's U-Net is packed without another copy of its weights; other forms become one when they are folded.
        on_cpu = self.device.type == "cpu"
        plain = network if on_cpu and PackedUNet.fits(network) else fold_batchnorm(network)
        if on_cpu and PackedUNet.fits(plain):
            self._packed = PackedUNet(plain, self.dtype)
        else:
            self._network = self._placed(plain)

    def _placed(self, network: nn.Module) -> nn.Module:
        network.to(self.device, self.dtype)
        if self._memory_format == torch.channels_last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return network

    @property
    def _memory_format(self) -> torch.memory_format:
        """What cuDNN's tensor cores and oneDNN's bfloat16 want; float32 on a CPU does without."""
        wanted = self.device.type == "cuda" or self.dtype == torch.bfloat16
        return torch.channels_last if wanted else torch.contiguous_format

    def run(self, source: Tensor, seed: int = 0) -> Tensor:
        """float32 (N, C, H, W) in [-1, 1], any H and W -> float32 (N, D, H, W) in [-1, 1], on the same
        device.

        Args:
            source: on any device.
            seed: of the noise, where dropout is live; every image of the batch gets a field of its own.
        """
        with torch.no_grad():
            if self._packed is not None:
                return self._packed(source.to(self.device)).to(source.device)
            assert self._network is not None
            if self._generator is not None:
                self._generator.manual_seed(seed)
            x = source.to(self.device, self.dtype).contiguous(memory_format=self._memory_format)
            y: Tensor = self._network(x)
            return y.float().contiguous().to(source.device)

    def release(self) -> None:
        """Lets go of the buffers."""
        if self._packed is not None:
            self._packed.release()
