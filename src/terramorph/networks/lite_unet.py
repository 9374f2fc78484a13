"""A U-shaped generator on the encoder EfficientNet-Lite2, with a head for maps and one for photographs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from terramorph.errors import ConfigError
from terramorph.networks.convolutions import join
from terramorph.networks.efficientnet_lite import STRIDES, EfficientNetLite, load_imagenet
from terramorph.networks.generator import Core, GeneratorConfig
from terramorph.networks.inference import sequential_norms
from terramorph.networks.layers import on_stride

_AROUND = 4
"""Pixels of its stride that a step of the decoder sees beside the core: its two convolutions take one each, and the two
that are left are four of the next step's, which has twice the resolution. From stride 2 on three are enough."""
_STRIP = 128
"""Rows of a core that are computed at once at full resolution, where layers are largest."""
SAMPLES = 2**16
"""Pixels in which a palette is looked for."""
_ROUNDS = 50


class LiteUNetConfig(GeneratorConfig):
    """Settings of a LiteUNet.

    Attributes:
        width: Width of the decoder in percent; 100 has 256 channels at stride 32 and 24 at full resolution.
        colours: Number of palette colours that a map is mixed from, found in the training targets; 0 for photographs.
        residual: Largest difference of a pixel from its mixture of palette colours, in [-1, 1] units.
        noise: Bands of the noise image that every step of the decoder sees; 0 for none.
        encoder: Initial weights of the encoder: `imagenet`, the published ones (the extra `pretrained`), or `none`,
            random ones.
    """

    network: Literal["lite-unet"] = "lite-unet"
    width: int = Field(100, ge=1)
    colours: int = Field(0, ge=0)
    residual: float = Field(0.25, ge=0.0, le=1.0)
    noise: int = Field(0, ge=0)
    encoder: Literal["imagenet", "none"] = "imagenet"

    def build(self, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> LiteUNet:
        """See `GeneratorConfig.build`."""
        return LiteUNet(self, in_bands, out_bands)

    def start(self, network: nn.Module, random: torch.Generator, published: bool = True) -> None:
        """Draw by He's initialisation (He et al. 2015, arXiv:1502.01852), as torch's own; then load the encoder's
        weights."""
        assert isinstance(network, LiteUNet)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=random)))
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                    module.reset_parameters()
        if self.encoder == "imagenet" and published:
            load_imagenet(network.encoder, "generator.encoder=none")


class LiteUNet(nn.Module):
    """EfficientNet-Lite2 down to stride 32, nearest-neighbour doublings with skip connections up, and a last one by
    pixel shuffle (Shi et al. 2016, arXiv:1609.05158) beside a convolution of the source at full resolution.

    With a palette, a pixel is the mixture of its colours by a softmax of its class scores, and a small residual: flat
    areas are flat, and `scores` are class scores. 7.0 M parameters at width 125 with 12 colours.

    Attributes:
        stride: The input is extended to a multiple of this.
        takes_core: Of a core, the decoder computes no more than it depends on.
        channels_last: Measured on a CPU with AVX2 in float32, a tile of 256 px is a quarter faster so.
        halo: None, the receptive field is not bounded by less than the image.
        overlap: Pixels that windows should share: 256 px from its border an output is off by 1.5 of 255 at most in 99
            of 100 pixels.
        noise: Bands of the noise image, 0 for none.
        palette: float32 (colours, out_bands) in [-1, 1]; without colours there is none.
    """

    stride = STRIDES[-1]
    halo: int | None = None
    overlap = 512
    takes_core = True
    channels_last = True
    palette: Tensor

    def __init__(self, config: LiteUNetConfig, in_bands: int = 3, out_bands: int = 3) -> None:
        super().__init__()
        self.config, self.in_bands, self.noise = config, in_bands, config.noise

        def wide(channels: int) -> int:
            return max(8, channels * config.width // 100 // 8 * 8)

        self.encoder = EfficientNetLite("lite2", in_bands)
        seen = self.encoder.channels
        self.neck = _conv(seen[-1], wide(256), 1)
        widths = [wide(256), wide(192), wide(128), wide(80), wide(56)]
        self.up = nn.ModuleList(
            nn.Sequential(_conv(inner + skip + config.noise, out), _conv(out, out))
            for inner, skip, out in zip(widths, seen[-2::-1], widths[1:], strict=False)
        )
        self.detail = nn.Conv2d(in_bands, 16, 3, padding=1)
        self.shuffle = nn.Conv2d(widths[-1], 4 * wide(24), 3, padding=1)
        self.last = _conv(wide(24) + 16 + config.noise, wide(32))
        self.head = nn.Conv2d(wide(32), config.colours + out_bands, 3, padding=1)
        if config.colours:
            self.register_buffer("palette", torch.zeros(config.colours, out_bands))

    def forward(self, source: Tensor, noise: Tensor | None = None, core: Core | None = None) -> Tensor:
        """Translate.

        Args:
            source: float (N, in_bands, H, W) in [-1, 1], any H and W.
            noise: float (N, config.noise, H, W), normal; None is 0 everywhere, the mean.
            core: Wanted part of the H x W pixels; None: all.

        Returns:
            float (N, out_bands, h, w) in [-1, 1], of the core.
        """
        return self._features(source, noise, core, self._image)

    def scores(self, source: Tensor, noise: Tensor | None = None, core: Core | None = None) -> Tensor:
        """Return class scores before the softmax: float (N, colours, h, w), with the arguments of `forward`.

        Raises:
            ConfigError: If there is no palette.
        """
        if not self.config.colours:
            raise ConfigError("class scores need a palette, and this network has none.")
        return self._features(source, noise, core, lambda head: head[:, : self.config.colours])

    def with_scores(self, source: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `forward` and `scores` do, in one pass."""
        # Band by band at once, as each softmax over the classes would copy it otherwise.
        head = self._features(source, noise, None, lambda head: head.float().contiguous())
        return self._image(head), head[:, : self.config.colours]

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield the names of each convolution and the norm after it."""
        return sequential_norms(self)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters, for a learning rate of their own."""
        return list(self.encoder.parameters())

    def fit(self, targets: Iterable[Tensor]) -> None:
        """Find the palette in training targets, float (N, out_bands, H, W) in [-1, 1] each, unless it is set."""
        if self.config.colours and not bool(self.palette.any()):
            self.palette.copy_(find_palette(targets, self.config.colours))

    def _features(
        self, source: Tensor, noise: Tensor | None, core: Core | None, finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what `finish` makes of the head's output."""
        bands = self.config.noise
        if bands:
            if noise is None:
                noise = source.new_zeros(source.shape[0], bands, *source.shape[2:])
            source = torch.cat([source, noise.to(source.dtype)], dim=1)
        return on_stride(lambda joined: self._run(joined, core, finish), source, self.stride)

    def _run(self, joined: Tensor, core: Core | None, finish: Callable[[Tensor], Tensor]) -> Tensor:
        source, noise = joined[:, : self.in_bands], joined[:, self.in_bands :]
        features = self.encoder(source)
        here = _around(core, self.stride, source)
        x = _cut(self.neck(features[-1]), here)
        for step, skip, stride in zip(self.up, features[-2::-1], STRIDES[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            # Averaged over s x s pixels and times s, noise is as strong at every stride.
            seen = [functional.avg_pool2d(noise, stride) * stride] if self.noise else []
            above, here = here, _around(core, stride, source)
            x = step(join([_cut(x, here, above, 2), *(_cut(one, here) for one in (skip, *seen))]))
        if core is None:
            return finish(self._finest(x, None, source, noise, None))
        rows, columns = core
        strips = ((slice(top, min(top + _STRIP, rows.stop)), columns) for top in range(rows.start, rows.stop, _STRIP))
        return torch.cat([finish(self._finest(x, here, source, noise, strip)) for strip in strips], dim=2)

    def _finest(self, x: Tensor, within: Core | None, source: Tensor, noise: Tensor, core: Core | None) -> Tensor:
        """Return the head's output on a core; x is features of stride 2, which start at `within`."""
        above, here = (_around(core, stride, source, 3) for stride in (2, 1))
        fine = functional.relu(functional.pixel_shuffle(self.shuffle(_cut(x, above, within)), 2))
        detail = functional.relu(self.detail(_cut(source, here)))
        x = join([_cut(fine, here, above, 2), detail, *([_cut(noise, here)] if self.noise else [])])
        return _cut(self.head(self.last(x)), core, here)

    def _image(self, head: Tensor) -> Tensor:
        """Convert the head's output to the image."""
        colours = self.config.colours
        if not colours:
            return torch.tanh(head)
        shares = head[:, :colours].float().softmax(dim=1)
        mixed = torch.einsum("nkhw,kc->nchw", shares, self.palette.float())
        return (mixed + self.config.residual * torch.tanh(head[:, colours:].float())).clamp(-1.0, 1.0).to(head.dtype)


def _around(core: Core | None, stride: int, source: Tensor, rim: int = _AROUND) -> Core | None:
    """Return the rows and columns computed at a stride for the core of a source (..., H, W); None: all."""
    if core is None:
        return None
    y, x = (
        slice(max(0, wanted.start // stride - rim), min(side // stride, -(-wanted.stop // stride) + rim))
        for wanted, side in zip(core, source.shape[-2:], strict=True)
    )
    return y, x


def _cut(x: Tensor, box: Core | None, within: Core | None = None, times: int = 1) -> Tensor:
    """Crop rows and columns of (..., H, W), which starts at `within`, `times` as large; None: all."""
    if box is None:
        return x
    top, left = (0, 0) if within is None else (times * within[0].start, times * within[1].start)
    return x[..., box[0].start - top : box[0].stop - top, box[1].start - left : box[1].stop - left]


def _conv(inner: int, out: int, kernel: int = 3) -> nn.Sequential:
    """Make a convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out, momentum=0.05),
        nn.ReLU(inplace=True),
    )


def find_palette(images: Iterable[Tensor], colours: int) -> Tensor:
    """Find colours by k-medians: each is the median of the pixels nearest to it.

    Starts from the pixels that are farthest from the colours before them (Gonzalez 1985), weighed by how many are like
    them, so that small classes of a colour of their own are found. Pixels are taken at equal distances; nothing is
    drawn.

    Args:
        images: float (N, bands, H, W) in [-1, 1] each, on any device.
        colours: Number of colours.

    Returns:
        float32 (colours, bands) on the CPU, the most frequent first.
    """
    parts = [image.detach().float().cpu().movedim(1, -1).flatten(0, -2) for image in images]
    share = max(1, sum(map(len, parts)) // SAMPLES)
    pixels = torch.cat([part[::share] for part in parts])
    palette = _start(pixels, colours)
    for _ in range(_ROUNDS):
        nearest = torch.cdist(pixels, palette).argmin(dim=1)
        moved = palette.clone()
        for number in set(nearest.tolist()):
            moved[number] = pixels[nearest == number].median(dim=0).values
        if torch.equal(moved, palette):
            break
        palette = moved
    counts = torch.cdist(pixels, palette).argmin(dim=1).bincount(minlength=colours)
    return palette[counts.argsort(descending=True, stable=True)]


def _start(pixels: Tensor, colours: int) -> Tensor:
    """Return colours to start from: (colours, bands)."""
    # Bins of 1/16 of the range, so that one odd pixel is not taken for a class.
    bins, where, counts = torch.unique(((pixels + 1) * 8).floor(), dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros_like(bins).index_add_(0, where, pixels) / counts[:, None]
    weights = counts.float().sqrt()
    chosen = [int(counts.argmax())]
    distance = torch.cdist(means, means[chosen]).amin(dim=1)
    while len(chosen) < colours:
        chosen.append(int((distance * weights).argmax()))
        distance = torch.minimum(distance, torch.cdist(means, means[chosen[-1:]]).flatten())
    started: Tensor = means[chosen]
    return started
