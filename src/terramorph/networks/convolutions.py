"""Convolutions that are quick to train on a CPU: of a U-Net, 4x4 of stride 2, where they have many weights and few
pixels; and those of one channel each. And what joins skip connections.

The innermost layers of a U-Net 256 hold 46 of its 54 million weights and see 64 pixels and fewer. There a convolution
of torch on the CPU (oneDNN) spends its time bringing the weights into its own order and back. Written as a matrix
product with the weights as they lie in memory (im2col: Chellapilla, Puri, Simard 2006) the same layer is learnt two to
three times as fast; where there are more pixels than that, gathering their neighbourhoods costs more than it saves.

For the gradients of a depthwise convolution (each channel by itself) in bf16 oneDNN has no fast code where the kernel
is 5x5 or the stride 2: computed in fp32 and rounded after, they take a third to a fortieth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, without bias."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) -> (N, C, h, w)."""
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not (learning and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        arguments = x.to(dtype), self.weight.to(dtype), self.stride, self.padding
        result: Tensor = _Depthwise.apply(*arguments)  # type: ignore[no-untyped-call]
        return result


def join(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps (N, C, H, W) of any C."""
    if maps[0].device.type == "cpu" and torch.is_grad_enabled() and any(one.requires_grad for one in maps):
        joined: Tensor = _Join.apply(*maps)  # type: ignore[no-untyped-call]
        return joined
    return torch.cat(list(maps), dim=1)


def _by_product(x: Tensor, weight: Tensor, pixels: int) -> bool:
    """Return whether a matrix product is faster: on the CPU, in training, with 4,096 weights or more per pixel.

    Measured with weights in channels_last and the paper's widths, in bf16 with AVX512-BF16 and in fp32 with AVX2 alone;
    about where the two are level.
    """
    learning = torch.is_grad_enabled() and weight.requires_grad
    return learning and x.device.type == "cpu" and weight.numel() >= 4096 * pixels


class _Depthwise(Function):
    """A depthwise convolution of bf16 whose gradients are computed in fp32."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        context.save_for_backward(x, weight)
        context.geometry = stride, padding
        return functional.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = context.saved_tensors
        wanted = [*context.needs_input_grad[:2], False]
        # The gradient of x depends on no value of x, but takes its layout.
        seen = x.float() if wanted[1] else torch.empty_like(x, dtype=torch.float32)
        rest = *context.geometry, (1, 1), False, (0, 0), len(weight), wanted
        found = torch.ops.aten.convolution_backward(gradient.float(), seen, weight.float(), None, *rest)
        of_x, of_weight = (None if one is None else one.to(x.dtype) for one in found[:2])
        return of_x, of_weight, None, None


class _Join(Function):
    """A concatenation whose gradients are whole: torch's are views into one, over which the next steps are slow."""

    @staticmethod
    def forward(context: Any, *maps: Tensor) -> Tensor:
        context.channels = [one.shape[1] for one in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = torch.split(gradient, context.channels, dim=1)
        return tuple(
            part.contiguous(memory_format=torch.channels_last) if needed else None
            for part, needed in zip(parts, context.needs_input_grad, strict=True)
        )


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
