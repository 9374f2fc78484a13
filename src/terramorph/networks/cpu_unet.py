"""A U-Net rearranged for inference on a CPU: the same function, in calls that torch is fast at for every input's shape.

- Batch norm is folded into the convolutions, and activations lie in channels_last.
- The inner layers, which have many weights and few pixels, are matrix products: a convolution of torch (oneDNN) brings
  all weights into an order of its own in every call, which takes longer than the arithmetic.
- A 4x4 transposed convolution of stride 2 is one 2x2 convolution with four times the outputs, a set for each
  of the four positions in a 2x2 block, and a copy that puts them in place. That copy goes straight into the
  buffer that the skip connection shares, so nothing is concatenated. For the last layer, with its three
  outputs, it is 4x faster.
- The shared buffers are kept between calls: fresh memory costs more than the arithmetic on it.

Weights in oneDNN's own order would save another tenth at batches of four. That order is another one for every shape of
input, though, and the first image of a shape then takes twice as long as all of this; so there is none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.networks.convolutions import neighbourhoods
from terramorph.networks.inference import doubling_kernels, norm_as_scale
from terramorph.networks.layers import on_stride

if TYPE_CHECKING:
    from terramorph.networks.unet import UNet

_LEAK = 0.2

PRODUCT_FROM = 2**15
"""Weights for a pixel of output from which a layer is a product. Measured with and without AVX-512: between 2**13 and
2**16 the whole network takes the same time."""


class _Convolution:
    """One convolution with padding 1 and its activation."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int, after: str, dtype: torch.dtype) -> None:
        self.stride, self.after = stride, after
        self.weight = weight.to(dtype, memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in channels_last -> (N, D, h, w), likewise."""
        kernel = self.weight.shape[-1]
        height, width = ((side + 2 - kernel) // self.stride + 1 for side in x.shape[2:])
        if self.weight.numel() >= PRODUCT_FROM * len(x) * height * width:
            rows = neighbourhoods(x.permute(0, 2, 3, 1), kernel, self.stride)
            y = functional.linear(rows, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
            y = y.view(len(x), height, width, -1).permute(0, 3, 1, 2)
        else:
            y = functional.conv2d(x, self.weight, self.bias, stride=self.stride, padding=1)
        if self.after == "leaky_relu":
            return functional.leaky_relu_(y, _LEAK)
        return functional.relu_(y) if self.after == "relu" else y


def _interleave(parts: Tensor, out: Tensor) -> None:
    """Put the four positions (N, 4 * C, h + 1, w + 1) in place: out (N, C, 2 h, 2 w)."""
    height, width = out.shape[-2] // 2, out.shape[-1] // 2
    four = parts.view(parts.shape[0], 4, parts.shape[1] // 4, *parts.shape[2:])
    for row in range(2):
        for column in range(2):
            window = four[:, 2 * row + column, :, row : row + height, column : column + width]
            out[:, :, row::2, column::2].copy_(window)


class CpuUNet:
    """Raster mode of a U-Net with batch norm or none, on the CPU; see the module's text.

    Equal to the network to rounding in float32. Calls from several threads wait for each other.

    Args:
        network: U-Net with batch norm or none; it is not changed.
        dtype: float32 or bfloat16, of weights and activations; sums are float32 in both.
    """

    def __init__(self, network: UNet, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.stride = network.stride
        self.out_bands = network.out_bands
        self._lock = threading.Lock()
        self._shared_shape: tuple[int, int, int] | None = None
        self._shared_buffers: list[Tensor] = []
        last = len(network.down) - 1
        self._down: list[_Convolution] = []
        self._widths: list[int] = []
        for level, (conv, norm) in enumerate(zip(network.down, network.down_norm, strict=True)):
            assert isinstance(conv, nn.Conv2d)
            after = "leaky_relu" if level < last else "relu"
            scale, bias = norm_as_scale(conv, norm)
            weight = conv.weight.detach().clone() if scale is None else conv.weight.detach() * scale.view(-1, 1, 1, 1)
            self._down.append(_Convolution(weight, bias, 2, after, dtype))
            self._widths.append(conv.out_channels)
        self._up: list[_Convolution] = []
        for conv, norm in zip(network.up, network.up_norm, strict=True):
            assert isinstance(conv, nn.ConvTranspose2d)
            self._up.append(self._doubled(conv, norm, "relu"))
        assert isinstance(network.head, nn.ConvTranspose2d)
        self._head = self._doubled(network.head, nn.Identity(), "none")

    def _doubled(self, conv: nn.ConvTranspose2d, norm: nn.Module, after: str) -> _Convolution:
        scale, bias = norm_as_scale(conv, norm)
        four = doubling_kernels(conv.weight.detach(), scale, self.dtype).flatten(0, 1)
        return _Convolution(four, None if bias is None else bias.repeat(4), 1, after, self.dtype)

    def __call__(self, source: Tensor) -> Tensor:
        """float32 (N, C, H, W) in [-1, 1] -> float32 (N, D, H, W) in [-1, 1], any H and W."""
        with self._lock:
            return on_stride(self._run, source, self.stride)

    def release(self) -> None:
        """Free the buffers, some 200 MB for windows of 1280 px."""
        with self._lock:
            self._shared_shape, self._shared_buffers = None, []

    def _run(self, source: Tensor) -> Tensor:
        count, _, height, width = source.shape
        x = source.to(self.dtype, memory_format=torch.channels_last)
        skips = self._shared(count, height, width)
        for level, conv in enumerate(self._down):
            x = conv(x)
            if level < len(skips):
                # relu(leaky_relu(x)) is relu(x): what the decoder sees of the encoder.
                torch.clamp_min(x, 0.0, out=skips[level][:, : self._widths[level]])
        for conv in self._up:
            shared = skips[len(skips) - 1]
            skips = skips[:-1]
            _interleave(conv(x), shared[:, shared.shape[1] // 2 :])
            x = shared
        target = torch.empty(count, self.out_bands, height, width)
        _interleave(self._head(x), target)
        return target.tanh_()

    def _shared(self, count: int, height: int, width: int) -> list[Tensor]:
        """Return a buffer per level for skip and decoder output together: (N, 2 C, H / 2**(level + 1), ...)."""
        if (count, height, width) != self._shared_shape:
            self._shared_buffers = []  # gone before the new ones come
            self._shared_buffers = [
                torch.empty(
                    (count, 2 * channels, height >> (level + 1), width >> (level + 1)),
                    dtype=self.dtype,
                    memory_format=torch.channels_last,
                )
                for level, channels in enumerate(self._widths[:-1])
            ]
            self._shared_shape = (count, height, width)
        return self._shared_buffers
