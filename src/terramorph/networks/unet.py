"""The U-Net generator of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1), and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.errors import ConfigError
from terramorph.networks.convolutions import HalvingConv2d, join
from terramorph.networks.layers import NoiseDropout, Norm, make_norm, on_stride
from terramorph.networks.upsampling import Upsampling, make_upsampling


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is.

    Attributes:
        in_bands: bands of the source.
        out_bands: bands of the target.
        width: channels after the first convolution; they double up to eight times this.
        depth: number of halvings; 8 is U-Net 256, 7 is U-Net 128. The stride is 2**depth pixels.
        norm: batch, instance or none. The outermost and innermost convolutions have none.
        dropout: share dropped in the up layers that have eight times the width (depth - 5 of them).
        skips: whether the decoder sees the encoder at every resolution; without, it is the paper's encoder-decoder.
        upsampling: how the decoder doubles the size: transposed, resize or pixelshuffle.
    """

    in_bands: int = 3
    out_bands: int = 3
    width: int = 64
    depth: int = 8
    norm: Norm = "batch"
    dropout: float = 0.5
    skips: bool = True
    upsampling: Upsampling = "transposed"


class EncoderDecoder(nn.Module):
    """Encoder and decoder, with or without skip connections, and with any upsampling.

    Attributes:
        stride: the input is extended to a multiple of this, 2**depth.
        halo: None, the receptive field is not bounded by less than the image.
    """

    halo: int | None = None

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        if not 5 <= config.depth <= 10:
            raise ConfigError(f"A U-Net of depth {config.depth} is not possible; use a depth from 5 to 10.")
        self.config = config
        self.stride = 2**config.depth
        widths = [config.width * min(2**level, 8) for level in range(config.depth)]
        bias = config.norm == "instance"  # a bias before batch norm does nothing; instance norm here has no affine
        last = config.depth - 1
        self.down = nn.ModuleList()
        self.down_norm = nn.ModuleList()
        for level, out in enumerate(widths):
            inner = widths[level - 1] if level else config.in_bands
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
        self.head = make_upsampling(config.upsampling, seen * config.width, config.out_bands, kernel=4, bias=True)

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
                x = join(skips.pop(), x)
        return torch.tanh(self.head(functional.relu(x)))


class UNet(EncoderDecoder):
    """The paper's form: transposed convolutions, and a skip connection at every resolution.

    54.414 M parameters at width 64, depth 8, 3 to 3 bands. Layer for layer the network of the public PyTorch
    implementation, so its checkpoints fit (see `terramorph.interop`).
    """


def make_unet(config: UNetConfig) -> EncoderDecoder:
    """A `UNet` where the configuration is the paper's, so that its type says what its layers are."""
    return (UNet if config.skips and config.upsampling == "transposed" else EncoderDecoder)(config)
