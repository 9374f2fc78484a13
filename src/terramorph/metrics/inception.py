"""The Inception-v3 behind FID: uint8 images in, 2048 features out, in plain torch.

FID is defined on one network with one set of weights (Heusel et al., arXiv:1706.08500): the TensorFlow graph of
2015-12-05, ported to PyTorch as `INCEPTION_FILE`. It is Inception-v3 (Szegedy et al., arXiv:1512.00567) with
three habits of that graph, and figures are comparable with published ones only if all are kept: images are
resized without half pixel centres, average pools do not count the padding, and the last block pools by maximum.

The tables below say what each block is made of, under the names that the file has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terramorph.errors import InputError
from terramorph.tensors import read_weights

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"

_SIDE = 299
_EPSILON = 0.001  # of batch normalisation, as TensorFlow's
_IGNORED = ("fc.", "num_batches_tracked")  # the classifier, and counters that some versions of the file have


@dataclass(frozen=True)
class Conv:
    """A line of a table: convolution, normalisation, ReLU. Padded to keep the size, but for a stride of 2, which
    has no padding."""

    name: str
    channels: int
    height: int = 1
    width: int = 1
    stride: int = 1


# A branch is a sequence of convolutions and pools; two convolutions in a tuple both look at what came before,
# and their outputs are stacked. A block is its branches side by side, stacked in this order.
Pool = Callable[[Tensor], Tensor]
Branch = tuple[Conv | tuple[Conv, Conv] | Pool, ...]


def average(x: Tensor) -> Tensor:
    """Average 3x3 pixels; at the border padding is not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Take 3x3 maxima, of the same size."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    """Take 3x3 maxima of every second pixel."""
    return F.max_pool2d(x, 3, stride=2)


def _chain(name: str, *shapes: tuple[int, ...]) -> tuple[Conv, ...]:
    """Number convolutions after each other, by channels, height, width and stride."""
    return tuple(Conv(f"{name}_{number}", *shape) for number, shape in enumerate(shapes, start=1))


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        _chain("branch5x5", (48,), (64, 5, 5)),
        _chain("branch3x3dbl", (64,), (96, 3, 3), (96, 3, 3)),
        (average, Conv("branch_pool", pooled)),
    )


_B: tuple[Branch, ...] = (
    (Conv("branch3x3", 384, 3, 3, stride=2),),
    _chain("branch3x3dbl", (64,), (96, 3, 3), (96, 3, 3, 2)),
    (halve,),
)


def _c(narrow: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 192),),
        _chain("branch7x7", (narrow,), (narrow, 1, 7), (192, 7, 1)),
        _chain("branch7x7dbl", (narrow,), (narrow, 7, 1), (narrow, 1, 7), (narrow, 7, 1), (192, 1, 7)),
        (average, Conv("branch_pool", 192)),
    )


_D: tuple[Branch, ...] = (
    _chain("branch3x3", (192,), (320, 3, 3, 2)),
    _chain("branch7x7x3", (192,), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
    (halve,),
)


def _e(pool: Pool) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, 1, 3), Conv("branch3x3_2b", 384, 3, 1))),
        (
            *_chain("branch3x3dbl", (448,), (384, 3, 3)),
            (Conv("branch3x3dbl_3a", 384, 1, 3), Conv("branch3x3dbl_3b", 384, 3, 1)),
        ),
        (pool, Conv("branch_pool", 192)),
    )


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation by fixed statistics, ReLU."""

    def __init__(self, channels_in: int, shape: Conv, *, padded: bool = True) -> None:
        super().__init__()
        padding = (shape.height // 2, shape.width // 2) if padded and shape.stride == 1 else 0
        kernel = (shape.height, shape.width)
        self.conv = nn.Conv2d(channels_in, shape.channels, kernel, shape.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(shape.channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``(N, channels_in, H, W)`` -> float32 ``(N, channels, H', W')``, never negative."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side; the convolutions are children under their names in the table."""

    def __init__(self, channels_in: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            channels = channels_in
            for step in branch:
                convs = (step,) if isinstance(step, Conv) else step if isinstance(step, tuple) else ()
                for conv in convs:
                    self.add_module(conv.name, ConvNorm(channels, conv))
                channels = sum(conv.channels for conv in convs) or channels

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``(N, channels_in, H, W)`` -> float32 ``(N, channels of all branches, H', W')``."""
        return torch.cat([self._along(branch, x) for branch in self.branches], dim=1)

    def _along(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            elif isinstance(step, tuple):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], dim=1)
            else:
                x = step(x)
        return x


class InceptionFeatures(nn.Module):
    """Inception-v3 up to its global average pool ("pool3"), for FID.

    Attributes:
        trunk: The layers under the names of the file, so that its state dict fits without ``fc``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict[str, nn.Module](
                Conv2d_1a_3x3=ConvNorm(3, Conv("", 32, 3, 3, stride=2)),
                Conv2d_2a_3x3=ConvNorm(32, Conv("", 32, 3, 3), padded=False),
                Conv2d_2b_3x3=ConvNorm(32, Conv("", 64, 3, 3)),
                MaxPool_1=nn.MaxPool2d(3, stride=2),
                Conv2d_3b_1x1=ConvNorm(64, Conv("", 80)),
                Conv2d_4a_3x3=ConvNorm(80, Conv("", 192, 3, 3), padded=False),
                MaxPool_2=nn.MaxPool2d(3, stride=2),
                Mixed_5b=Block(192, _a(32)),
                Mixed_5c=Block(256, _a(64)),
                Mixed_5d=Block(288, _a(64)),
                Mixed_6a=Block(288, _B),
                Mixed_6b=Block(768, _c(128)),
                Mixed_6c=Block(768, _c(160)),
                Mixed_6d=Block(768, _c(160)),
                Mixed_6e=Block(768, _c(192)),
                Mixed_7a=Block(768, _D),
                Mixed_7b=Block(1280, _e(average)),
                Mixed_7c=Block(2048, _e(maximum)),
            )
        )
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> InceptionFeatures:
        """Read `INCEPTION_FILE` from a folder. The classifier ``fc``, which the file may hold, is left out.

        Raises:
            InputError: The file is missing or damaged, or holds other weights.
        """
        network = cls()
        own = network.trunk.state_dict()
        read = read_weights(
            Path(folder) / INCEPTION_FILE, own, "FID needs it there", "the Inception weights for FID", _IGNORED
        )
        network.trunk.load_state_dict(own | read)
        return network

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images.

        Args:
            images: uint8 ``(N, 3, H, W)``, red, green, blue, of any size.

        Returns:
            float32 ``(N, 2048)``, 0 or more.

        Raises:
            InputError: The shape or the dtype is not as above.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise InputError(
                f"Inception looks at uint8 images (N, 3, H, W), but got {images.dtype} {tuple(images.shape)}."
            )
        x = (resize(images.float(), _SIDE) - 128) / 128
        features: Tensor = self.trunk(x).mean(dim=(2, 3))
        return features


def resize(images: Tensor, side: int) -> Tensor:
    """Resize bilinearly as TensorFlow 1 did when FID was defined.

    Pixel ``i`` of the result is taken at ``i * n / side`` of the ``n`` pixels there were (`resize_bilinear` with
    neither ``align_corners`` nor ``half_pixel_centers``), and nothing is averaged where an image gets smaller. Other
    ways of resizing are better and give another FID.

    Args:
        images: float32 ``(N, C, H, W)``.
        side: Pixels a side of the result.

    Returns:
        float32 ``(N, C, side, side)``.
    """
    for dim in (2, 3):
        count = images.shape[dim]
        places = torch.arange(side, dtype=torch.float32, device=images.device) * (count / side)
        before = places.long().clamp(max=count - 1)
        low, high = images.index_select(dim, before), images.index_select(dim, (before + 1).clamp(max=count - 1))
        share = places - before
        images = torch.lerp(low, high, share.view(-1, 1) if dim == 2 else share)
    return images
