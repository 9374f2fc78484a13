"""The residual generator of Johnson et al. 2016 (arXiv:1603.08155), as used by pix2pix and CycleGAN."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from terramorph.networks.generator import GeneratorConfig
from terramorph.networks.inference import sequential_norms
from terramorph.networks.layers import NoiseDropout, Norm, Upsampling, make_norm, make_upsampling, on_stride

# Pixels that an output pixel sees beyond those of the blocks, by upsampling.
_HALO: dict[Upsampling, int] = {"transposed": 12, "resize": 15, "pixelshuffle": 18}


_BLOCKS = {"resnet9": 9, "resnet6": 6}


class ResNetConfig(GeneratorConfig):
    """Settings of a residual generator.

    Attributes:
        network: resnet9 has 9 residual blocks, for 256 px in the paper, and resnet6 has 6, for 128 px.
        width: Channels after the first convolution; four times as many in the blocks.
        norm: batch, instance or none.
        dropout: Share dropped inside each block.
        upsampling: How the two doublings are made: transposed, resize or pixelshuffle.
    """

    network: Literal["resnet9", "resnet6"] = "resnet9"
    width: int = Field(64, ge=1)
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    upsampling: Upsampling = "transposed"

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return _BLOCKS[self.network]

    def build(self, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> ResNet:
        """See `GeneratorConfig.build`."""
        return ResNet(self, in_bands, out_bands)


class _Block(nn.Module):
    def __init__(self, width: int, norm: Norm, dropout: float, bias: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            make_norm(norm, width),
            nn.ReLU(),
            NoiseDropout(dropout),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            make_norm(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


class ResNet(nn.Module):
    """Two halvings, residual blocks, two doublings; 11.4 M parameters at width 64 with 9 blocks.

    Attributes:
        stride: 4.
        halo: Pixels on each side that an output pixel can depend on, if normalisation uses fixed statistics.
    """

    def __init__(self, config: ResNetConfig, in_bands: int = 3, out_bands: int = 3) -> None:
        super().__init__()
        self.config = config
        self.stride = 4
        # 8 a block (two 3x3 at a quarter of the size); then all the rest, in the worst of the four phases.
        rest = _HALO[config.upsampling]
        self.halo: int | None = rest + 8 * config.blocks if config.norm != "instance" else None
        width, norm = config.width, config.norm
        bias = norm == "instance"
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_bands, width, 7, bias=bias),
            make_norm(norm, width),
            nn.ReLU(),
        ]
        for _ in range(2):
            layers += [
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias),
                make_norm(norm, 2 * width),
                nn.ReLU(),
            ]
            width *= 2
        layers += [_Block(width, norm, config.dropout, bias) for _ in range(config.blocks)]
        for _ in range(2):
            layers += [
                make_upsampling(config.upsampling, width, width // 2, kernel=3, bias=bias),
                make_norm(norm, width // 2),
                nn.ReLU(),
            ]
            width //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out_bands, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, source: Tensor) -> Tensor:
        """float (N, in_bands, H, W) in [-1, 1] -> (N, out_bands, H, W) in [-1, 1], any H and W."""
        # The reflections of the 7x7 and the blocks need a few pixels to look at.
        return on_stride(self.layers, source, self.stride, least=8)

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield the names of each convolution and the norm after it."""
        return sequential_norms(self)
