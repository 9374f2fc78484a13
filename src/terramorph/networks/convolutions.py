"""The convolutions of a U-Net, 4x4 of stride 2, quick to train where they have many weights and few pixels; and what
joins its skip connections.

The innermost layers of a U-Net 256 hold 46 of its 54 million weights and see 64 pixels and fewer. There a convolution
of torch on the CPU (oneDNN) spends its time bringing the weights into its own order and back. Written as a matrix
product with the weights as they lie in memory (im2col: Chellapilla, Puri, Simard 2006) the same layer is learnt two to
three times as fast; where there are more pixels than that, gathering their neighbourhoods costs more than it saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

KERNEL = 4


class HalvingConv2d(nn.Conv2d):
    """A 4x4 convolution of stride 2 and padding 1."""

    def __init__(self, inner: int, out: int, *, bias: bool) -> None:
        super().__init__(inner, out, KERNEL, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """float (N, inner, H, W) -> (N, out, H // 2, W // 2)."""
        count, _, height, width = x.shape
        if height % 2 or width % 2 or not _by_product(x, self.weight, count * (height // 2) * (width // 2)):
            return super().forward(x)
        patches = _Unfold.apply(x.permute(0, 2, 3, 1))  # type: ignore[no-untyped-call]
        halved = functional.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return halved.view(count, height // 2, width // 2, -1).permute(0, 3, 1, 2)


class DoublingConv2d(nn.ConvTranspose2d):
    """A 4x4 transposed convolution of stride 2 and padding 1."""

    def __init__(self, inner: int, out: int, *, bias: bool) -> None:
        super().__init__(inner, out, KERNEL, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """float (N, inner, H, W) -> (N, out, 2 H, 2 W), or of the `output_size` that torch's layer takes."""
        count, inner, height, width = x.shape
        if output_size is not None or not _by_product(x, self.weight, count * height * width):
            return super().forward(x, output_size)
        patches = x.permute(0, 2, 3, 1).reshape(-1, inner) @ self.weight.permute(0, 2, 3, 1).flatten(1)
        doubled: Tensor = _Fold.apply(patches, count, height, width)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            doubled = doubled + self.bias.to(doubled.dtype)
        return doubled.permute(0, 3, 1, 2)


def join(one: Tensor, other: Tensor) -> Tensor:
    """Concatenate maps (N, C, H, W) and (N, D, H, W) to (N, C + D, H, W)."""
    if one.device.type == "cpu" and torch.is_grad_enabled() and (one.requires_grad or other.requires_grad):
        joined: Tensor = _Join.apply(one, other)  # type: ignore[no-untyped-call]
        return joined
    return torch.cat([one, other], dim=1)


def _by_product(x: Tensor, weight: Tensor, pixels: int) -> bool:
    """Return whether a matrix product is faster: on the CPU, in training, with 4,096 weights or more per pixel.

    Measured with weights in channels_last and the paper's widths, in bf16 with AVX512-BF16 and in fp32 with AVX2 alone;
    about where the two are level.
    """
    learning = torch.is_grad_enabled() and weight.requires_grad
    return learning and x.device.type == "cpu" and weight.numel() >= 4096 * pixels


class _Join(Function):
    """A concatenation whose gradients are whole: torch's are views into one, over which the next steps are slow."""

    @staticmethod
    def forward(context: Any, one: Tensor, other: Tensor) -> Tensor:
        context.channels = one.shape[1]
        return torch.cat([one, other], dim=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        parts = gradient[:, : context.channels], gradient[:, context.channels :]
        first, second = (part.contiguous(memory_format=torch.channels_last) for part in parts)
        return first, second


class _Unfold(Function):
    """(N, 2 H, 2 W, C) -> (N * H * W, 16 C), the 4x4 neighbourhoods. Its gradient is `_Fold`, as that one's is this."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.shape = x.shape
        return neighbourhoods(x, KERNEL, 2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        count, height, width, _ = context.shape
        return _folded(gradient, count, height // 2, width // 2)


class _Fold(Function):
    """(N * H * W, 16 C) -> (N, 2 H, 2 W, C): neighbourhoods laid over one another and summed."""

    @staticmethod
    def forward(context: Any, patches: Tensor, count: int, height: int, width: int) -> Tensor:
        return _folded(patches, count, height, width)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return neighbourhoods(gradient, KERNEL, 2), None, None, None


def neighbourhoods(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return what a convolution with padding 1 reads: (N, H, W, C) -> (N * h * w, kernel * kernel * C)."""
    windows = functional.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, kernel, stride).unfold(2, kernel, stride)
    count, height, width, channels = windows.shape[:4]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(count * height * width, kernel * kernel * channels)


def _folded(patches: Tensor, count: int, height: int, width: int) -> Tensor:
    windows = patches.reshape(count, height, width, KERNEL, KERNEL, -1)
    # Four values meet in a pixel: in fp32 at least, so that bf16 is rounded once, as in a convolution.
    dtype = torch.promote_types(patches.dtype, torch.float32)
    total = windows.new_zeros((count, 2 * height + 2, 2 * width + 2, windows.shape[-1]), dtype=dtype)
    for row in range(KERNEL):
        for column in range(KERNEL):
            total[:, row : row + 2 * height : 2, column : column + 2 * width : 2] += windows[:, :, :, row, column]
    return total[:, 1:-1, 1:-1].to(patches.dtype)
