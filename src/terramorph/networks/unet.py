"""The U-Net generator of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1), and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from terramorph.networks.convolutions import KERNEL, HalvingConv2d, join
from terramorph.networks.cpu_unet import CpuUNet
from terramorph.networks.generator import GeneratorConfig
from terramorph.networks.inference import doubling_kernels, plain
from terramorph.networks.layers import NoiseDropout, Norm, Upsampling, make_norm, make_upsampling, on_stride

_DEPTHS = {"unet256": 8, "unet128": 7, "unet64": 6}


class UNetConfig(GeneratorConfig):
    """Settings of a U-Net.

    Attributes:
        network: unet256 has 8 halvings (the paper's), unet128 7 and unet64 6. The stride is 2**depth pixels.
        width: Channels after the first convolution; they double up to eight times this.
        norm: batch, instance or none. The outermost and innermost convolutions have none.
        dropout: Share dropped in the up layers that have eight times the width (depth - 5 of them).
        skips: Whether the decoder sees the encoder at every resolution; false is the encoder-decoder that the
            pix2pix paper compares with (Isola et al. 2017, section 4.3).
        upsampling: Transposed convolutions as in the paper; `resize`, nearest neighbour and a 3x3 convolution (Odena et
            al. 2016); `pixelshuffle` (Shi et al. 2016, arXiv:1609.05158), started by ICNR (Aitken et al. 2017,
            arXiv:1707.02937).
    """

    network: Literal["unet256", "unet128", "unet64"] = "unet256"
    width: int = Field(64, ge=1)
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    skips: bool = True
    upsampling: Upsampling = "transposed"

    @property
    def depth(self) -> int:
        """Number of halvings."""
        return _DEPTHS[self.network]

    def build(self, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> UNet:
        """See `GeneratorConfig.build`."""
        return UNet(self, in_bands, out_bands)


class UNet(nn.Module):
    """Encoder and decoder, with or without skip connections, and with any upsampling.

    In the paper's form (transposed convolutions, and a skip connection at every resolution) it has 54.414 M parameters
    at width 64, depth 8, 3 to 3 bands, and is layer for layer the network of the public PyTorch implementation, so its
    checkpoints fit (see `terramorph.interop`).

    Attributes:
        stride: The input is extended to a multiple of this, 2**depth.
        halo: None, the receptive field is not bounded by less than the image.
    """

    halo: int | None = None

    def __init__(self, config: UNetConfig, in_bands: int = 3, out_bands: int = 3) -> None:
        super().__init__()
        self.config, self.out_bands = config, out_bands
        self.stride = 2**config.depth
        widths = [config.width * min(2**level, 8) for level in range(config.depth)]
        bias = config.norm == "instance"  # a bias before batch norm does nothing; instance norm here has no affine
        last = config.depth - 1
        self.down = nn.ModuleList()
        self.down_norm = nn.ModuleList()
        for level, out in enumerate(widths):
            inner = widths[level - 1] if level else in_bands
            plain = level in (0, last)
            # The public networks keep a bias by the kind of norm alone, whether or not a norm follows.
            self.down.append(HalvingConv2d(inner, out, bias=bias))
            self.down_norm.append(nn.Identity() if plain else make_norm(config.norm, out))
        seen = 2 if config.skips else 1  # how many maps of a level the decoder looks at
        self.up = nn.ModuleList()
        self.up_norm = nn.ModuleList()
        self.up_dropout = nn.ModuleList()
        for level in range(last, 0, -1):
            inner = widths[level] * (1 if level == last else seen)
            out = widths[level - 1]
            self.up.append(make_upsampling(config.upsampling, inner, out, kernel=4, bias=bias))
            self.up_norm.append(make_norm(config.norm, out))
            noisy = 4 <= level < last
            self.up_dropout.append(NoiseDropout(config.dropout if noisy else 0.0))
        self.head = make_upsampling(config.upsampling, seen * config.width, out_bands, kernel=4, bias=True)

    def forward(self, source: Tensor) -> Tensor:
        """float (N, in_bands, H, W) in [-1, 1] -> (N, out_bands, H, W) in [-1, 1], any H and W."""
        return on_stride(self._run, source, self.stride)

    def _run(self, source: Tensor) -> Tensor:
        skips = []
        x = source
        for level, (conv, norm) in enumerate(zip(self.down, self.down_norm, strict=True)):
            x = norm(conv(x if level == 0 else functional.leaky_relu(x, 0.2)))
            skips.append(x)
        skips.pop()
        for conv, norm, dropout in zip(self.up, self.up_norm, self.up_dropout, strict=True):
            x = dropout(norm(conv(functional.relu(x))))
            if self.config.skips:
                x = join([skips.pop(), x])
        return torch.tanh(self.head(functional.relu(x)))

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield the names of each convolution and the norm after it."""
        for side in ("down", "up"):
            yield from (
                (f"{side}.{level}", f"{side}_norm.{level}") for level in range(self.config.depth - (side == "up"))
            )

    def for_inference(self) -> UNet:
        """Return an equal network in the paper's form; layers must be transposed convolutions already."""
        if self._is_the_papers:
            return self
        layers = dict(self.named_children())
        if not self.config.skips:  # a decoder that does not see the encoder is one whose weights for it are 0
            assert isinstance(self.up, nn.ModuleList)
            for conv in (*self.up[1:], self.head):
                assert isinstance(conv, nn.ConvTranspose2d)
                conv.in_channels *= 2
                conv.weight = nn.Parameter(torch.cat([torch.zeros_like(conv.weight), conv.weight]), requires_grad=False)
        with torch.device("meta"):
            unet = UNet(self.config.model_copy(update={"skips": True, "upsampling": "transposed"}))
        unet.out_bands = self.out_bands
        for name, child in layers.items():
            setattr(unet, name, child)
        return unet.eval()

    @property
    def rearranged(self) -> Callable[[torch.dtype], CpuUNet] | None:
        """Maker of the fast form for a CPU; None where layers do not double by 4x4 kernels or norms are not fixed."""
        if self.config.norm == "instance" or self.config.upsampling == "pixelshuffle":
            return None
        return lambda dtype: CpuUNet(self if self._is_the_papers else cast(UNet, plain(self)), dtype)

    def for_export(self) -> nn.Module:
        """Return the same function in layers that runtimes have fast kernels for; see `_ExportedUNet`."""
        return _ExportedUNet(self)

    @property
    def _is_the_papers(self) -> bool:
        return self.config.skips and self.config.upsampling == "transposed"


class _ExportedUNet(nn.Module):
    """A U-Net for other runtimes, made ready for inference.

    Skip connections are made positive before they are joined: relu(leaky_relu(x)) is relu(x), and values of one sign
    lose less in 8 bits.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.stride = network.stride
        self.down, self.down_norm = network.down, network.down_norm
        self.up = nn.ModuleList(_doubled(conv, norm) for conv, norm in zip(network.up, network.up_norm, strict=True))
        self.head = _doubled(network.head, nn.Identity(), relu=False)

    def forward(self, source: Tensor) -> Tensor:
        """As `UNet`."""
        return on_stride(self._run, source, self.stride)

    def _run(self, x: Tensor) -> Tensor:
        skips = []
        last = len(self.down) - 1
        for level, (conv, norm) in enumerate(zip(self.down, self.down_norm, strict=True)):
            x = norm(conv(x))
            if level < last:
                x = functional.leaky_relu(x, 0.2)
                skips.append(functional.relu(x))
        x = functional.relu(x)
        for up in self.up:
            x = torch.cat([skips.pop(), up(x)], dim=1)
        return torch.tanh(self.head(x))


def _doubled(conv: nn.Module, norm: nn.Module, *, relu: bool = True) -> nn.Module:
    """Join a transposed convolution, norm and ReLU; one of 4x4 as a `_Doubled`."""
    assert isinstance(conv, nn.ConvTranspose2d)
    if conv.kernel_size == (KERNEL, KERNEL):
        return _Doubled(conv, norm, relu)
    return nn.Sequential(conv, norm, nn.ReLU() if relu else nn.Identity())


class _Doubled(nn.Module):
    """A 4x4 transposed convolution of stride 2 and padding 1 as a plain 2x2 convolution and a shuffle of pixels; the
    norm behind it; ReLU.

    The four pixels of a block are made from windows that start a pixel apart. Turned round in their block they come
    from one convolution with padding 1, and lie a pixel further right and down.
    """

    def __init__(self, conv: nn.ConvTranspose2d, norm: nn.Module, relu: bool) -> None:
        super().__init__()
        inner, out = conv.weight.shape[:2]
        self.conv = nn.Conv2d(inner, 4 * out, 2, padding=1, bias=conv.bias is not None)
        four = doubling_kernels(conv.weight.detach()).flip(0).transpose(0, 1)
        self.conv.weight = nn.Parameter(four.reshape(4 * out, inner, 2, 2).contiguous(), requires_grad=False)
        if conv.bias is not None:
            self.conv.bias = nn.Parameter(conv.bias.detach().repeat_interleave(4), requires_grad=False)
        self.norm, self.relu = norm, relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, inner, H, W) -> (N, out, 2 H, 2 W)."""
        x = self.conv(x)
        folded = isinstance(self.norm, nn.Identity)
        # Before the shuffle: what is not negative has no zero point in 8 bits, which OpenVINO cannot shuffle.
        x = functional.relu(x) if folded and self.relu else x
        x = self.norm(functional.pixel_shuffle(x, 2)[..., 1:-1, 1:-1])
        return functional.relu(x) if self.relu and not folded else x
