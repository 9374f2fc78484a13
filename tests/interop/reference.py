"""The public PyTorch pix2pix networks, nested and named as its checkpoints are; written for these tests alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def norm_of(kind: str, channels: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": lambda _: nn.Identity()}[kind](channels)


class Level(nn.Module):
    """One level of the U-Net and all that are inside it."""

    def __init__(
        self, outer: int, inner: int, inside: Level | None, *, kind: str, bands: int | None = None, dropout: bool
    ) -> None:
        super().__init__()
        self.outermost = bands is not None
        bias = kind == "instance"
        entering = outer if bands is None else bands
        down = nn.Conv2d(entering, inner, 4, 2, 1, bias=bias)
        leaky, relu = nn.LeakyReLU(0.2), nn.ReLU()
        layers: list[nn.Module]
        if self.outermost:
            assert inside is not None
            layers = [down, inside, relu, nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1), nn.Tanh()]
        elif inside is None:
            layers = [leaky, down, relu, nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias), norm_of(kind, outer)]
        else:
            up = nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=bias)
            layers = [leaky, down, norm_of(kind, inner), inside, relu, up, norm_of(kind, outer)]
            layers += [nn.Dropout(0.5)] * dropout
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


class PublicUNet(nn.Module):
    def __init__(self, bands: int, out: int, depth: int, width: int, kind: str) -> None:
        super().__init__()
        inside = Level(8 * width, 8 * width, None, kind=kind, dropout=False)
        for _ in range(depth - 5):
            inside = Level(8 * width, 8 * width, inside, kind=kind, dropout=True)
        for factor in (4, 2, 1):
            inside = Level(factor * width, 2 * factor * width, inside, kind=kind, dropout=False)
        self.model = Level(out, width, inside, kind=kind, bands=bands, dropout=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class Block(nn.Module):
    def __init__(self, width: int, kind: str, dropout: bool) -> None:
        super().__init__()
        bias = kind == "instance"
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm_of(kind, width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] * dropout
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm_of(kind, width)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv_block(x)
        return y


class PublicResNet(nn.Module):
    def __init__(self, bands: int, out: int, blocks: int, width: int, kind: str, dropout: bool) -> None:
        super().__init__()
        bias = kind == "instance"
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(bands, width, 7, bias=bias), norm_of(kind, width), nn.ReLU()]
        for w in (width, 2 * width):
            layers += [nn.Conv2d(w, 2 * w, 3, 2, 1, bias=bias), norm_of(kind, 2 * w), nn.ReLU()]
        layers += [Block(4 * width, kind, dropout) for _ in range(blocks)]
        for w in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(w, w // 2, 3, 2, padding=1, output_padding=1, bias=bias)
            layers += [up, norm_of(kind, w // 2), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, out, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class PublicPatchGAN(nn.Module):
    def __init__(self, bands: int, width: int, levels: int, kind: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(bands, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for level in range(1, levels + 1):
            out, stride = width * min(2**level, 8), 2 if level < levels else 1
            conv = nn.Conv2d(inner, out, 4, stride, 1, bias=kind == "instance")
            layers += [conv, norm_of(kind, out), nn.LeakyReLU(0.2)]
            inner = out
        layers.append(nn.Conv2d(inner, 1, 4, 1, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


def scrambled(network: nn.Module, gain: float = 0.15) -> nn.Module:
    """Weights and statistics that make every layer count."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.4, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(1.0 if tensor.ndim == 1 and "weight" in name else 0.0, gain, generator=generator)
    return network.eval().requires_grad_(False)
