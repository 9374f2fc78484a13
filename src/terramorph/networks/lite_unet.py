"""A U-shaped generator on the encoder EfficientNet-Lite2, with a head for maps and one for photographs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.errors import ConfigError
from terramorph.networks.efficientnet_lite import STRIDES, EfficientNetLite
from terramorph.networks.layers import on_stride

_RESIDUAL = 0.25
"""How far a pixel may leave the mixture of the palette's colours, in [-1, 1] units."""


@dataclass(frozen=True)
class LiteUNetConfig:
    """What a LiteUNet is.

    Attributes:
        in_bands: bands of the source.
        out_bands: bands of the target.
        width: of the decoder in percent; 100 has 256 channels at stride 32 and 24 at full resolution.
        colours: of the palette that a map is mixed of; 0 for photographs, which have none.
        noise: bands of the noise image that every step of the decoder sees; 0 for none.
    """

    in_bands: int = 3
    out_bands: int = 3
    width: int = 100
    colours: int = 0
    noise: int = 0


class LiteUNet(nn.Module):
    """EfficientNet-Lite2 down to stride 32, nearest-neighbour doublings with skip connections up, and a last one by
    pixel shuffle (Shi et al. 2016, arXiv:1609.05158) beside a convolution of the source at full resolution.

    With a palette, a pixel is the mixture of its colours by a softmax of its class scores, and a small residual: flat
    areas are flat, and `scores` are class scores. 7.0 M parameters at width 125 with 12 colours.

    Attributes:
        stride: the input is extended to a multiple of this.
        halo: None, the receptive field is not bounded by less than the image. Windows should share 512 px.
        palette: float32 (colours, out_bands) in [-1, 1]; without colours there is none.
    """

    stride = STRIDES[-1]
    halo: int | None = None
    palette: Tensor

    def __init__(self, config: LiteUNetConfig) -> None:
        super().__init__()
        if min(config.colours, config.noise) < 0:
            raise ConfigError(
                f"colours and noise must be >= 0, got {config.colours} and {config.noise}; 0 leaves them out."
            )
        self.config = config

        def wide(channels: int) -> int:
            return max(8, channels * config.width // 100 // 8 * 8)

        self.encoder = EfficientNetLite("lite2", config.in_bands)
        seen = self.encoder.channels
        self.neck = _conv(seen[-1], wide(256), 1)
        widths = [wide(256), wide(192), wide(128), wide(80), wide(56)]
        self.up = nn.ModuleList(
            nn.Sequential(_conv(inner + skip + config.noise, out), _conv(out, out))
            for inner, skip, out in zip(widths, seen[-2::-1], widths[1:], strict=False)
        )
        self.detail = nn.Conv2d(config.in_bands, 16, 3, padding=1)
        self.shuffle = nn.Conv2d(widths[-1], 4 * wide(24), 3, padding=1)
        self.last = _conv(wide(24) + 16 + config.noise, wide(32))
        self.head = nn.Conv2d(wide(32), config.colours + config.out_bands, 3, padding=1)
        if config.colours:
            self.register_buffer("palette", torch.zeros(config.colours, config.out_bands))

    def forward(self, source: Tensor, noise: Tensor | None = None) -> Tensor:
        """Translates.

        Args:
            source: float (N, in_bands, H, W) in [-1, 1], any H and W.
            noise: float (N, config.noise, H, W), normal; None is 0 everywhere, the mean.

        Returns:
            float (N, out_bands, H, W) in [-1, 1].
        """
        return self._image(self._features(source, noise))

    def scores(self, source: Tensor, noise: Tensor | None = None) -> Tensor:
        """Class scores before the softmax: float (N, colours, H, W), as `forward` takes its arguments.

        Raises:
            ConfigError: if there is no palette.
        """
        if not self.config.colours:
            raise ConfigError("class scores need a palette, and this network has none.")
        return self._features(source, noise)[:, : self.config.colours]

    def _features(self, source: Tensor, noise: Tensor | None) -> Tensor:
        """What the head gives."""
        bands = self.config.noise
        if bands:
            if noise is None:
                noise = source.new_zeros(source.shape[0], bands, *source.shape[2:])
            source = torch.cat([source, noise.to(source.dtype)], dim=1)
        return on_stride(self._run, source, self.stride)

    def _run(self, joined: Tensor) -> Tensor:
        source, noise = joined[:, : self.config.in_bands], joined[:, self.config.in_bands :]
        features = self.encoder(source)
        x = self.neck(features[-1])
        for step, skip, stride in zip(self.up, features[-2::-1], STRIDES[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            # Averaged over s x s pixels and times s, noise is as strong at every stride.
            seen = [functional.avg_pool2d(noise, stride) * stride] if self.config.noise else []
            x = step(torch.cat([x, skip, *seen], dim=1))
        fine = functional.relu(functional.pixel_shuffle(self.shuffle(x), 2))
        x = torch.cat([fine, functional.relu(self.detail(source)), noise], dim=1)
        y: Tensor = self.head(self.last(x))
        return y

    def _image(self, head: Tensor) -> Tensor:
        """The picture that the head's output stands for."""
        colours = self.config.colours
        if not colours:
            return torch.tanh(head)
        shares = head[:, :colours].float().softmax(dim=1)
        mixed = torch.einsum("nkhw,kc->nchw", shares, self.palette.float())
        return (mixed + _RESIDUAL * torch.tanh(head[:, colours:].float())).clamp(-1.0, 1.0).to(head.dtype)


def _conv(inner: int, out: int, kernel: int = 3) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out, momentum=0.05),
        nn.ReLU(inplace=True),
    )
