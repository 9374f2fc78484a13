"""Generators from outside the package: module classes that take in_bands and out_bands, and have stride and halo."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from terramorph.errors import ConfigError, reason_of
from terramorph.extensions import module_of, resolve, running
from terramorph.networks.generator import GeneratorConfig
from terramorph.networks.layers import NoiseDropout, on_stride

TRIED = 256
"""Side in pixels of the image that a class from outside is tried on."""


def _well_formed(name: str) -> str:
    module_of(name)
    return name


class OnStride:
    """Base put before a class from outside: any height and width, by `on_stride`.

    A base class, and not a module around it, so that its weights keep their names.
    """

    stride: int

    def forward(self, source: Tensor, noise: Tensor | None = None) -> Tensor:
        """float (N, in_bands, H, W), and noise (N, bands, H, W) if it takes any -> float (N, out_bands, H, W)."""
        bands, own = source.shape[1], super().forward  # type: ignore[misc]
        if noise is None:
            made: Tensor = on_stride(own, source, self.stride)
            return made
        joined = torch.cat([source, noise.to(source.dtype)], dim=1)
        return on_stride(lambda both: own(both[:, :bands], both[:, bands:]), joined, self.stride)


class OutsideConfig(GeneratorConfig):
    """Settings of a class from outside.

    Attributes:
        network: `package.module:Name`.
        settings: Its arguments beside in_bands and out_bands.
    """

    network: Annotated[str, AfterValidator(_well_formed)]
    settings: dict[str, Any] = Field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """See `GeneratorConfig.arguments`."""
        return dict(self.settings)

    def build(self, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> nn.Module:
        """Build the class with weights that are always the same; its dropout becomes ours, which can be repeated.

        Raises:
            ConfigError: If the class is not allowed or not found, cannot be built, or is not a generator.
        """
        made = resolve(self.network, allowed)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                network = made(in_bands=in_bands, out_bands=out_bands, **self.settings)
        except Exception as error:
            given = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
            raise ConfigError(
                f"{self.network} cannot be built with in_bands={in_bands}, out_bands={out_bands}"
                f"{', ' * bool(given)}{given} ({reason_of(error)})."
            ) from error
        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"{self.network} is not a generator but makes a {type(network).__name__}; it must be an nn.Module."
            )
        stride, halo = getattr(network, "stride", None), getattr(network, "halo", "")
        if type(stride) is not int or stride < 1:
            raise ConfigError(f"{self.network} is not a generator: its stride must be an int >= 1, got {stride!r}.")
        if halo is not None and (type(halo) is not int or halo < 0):
            raise ConfigError(f"{self.network} is not a generator: its halo must be None or an int >= 0, got {halo!r}.")
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Dropout | nn.Dropout2d):
                    setattr(parent, name, NoiseDropout(child.p, planes=isinstance(child, nn.Dropout2d)))
        if stride > 1:
            network.__class__ = type(type(network).__name__, (OnStride, type(network)), {})
        self._try(network, in_bands, out_bands)
        return network

    def _try(self, network: nn.Module, in_bands: int, out_bands: int) -> None:
        """Run it on a small image, so that a wrong class is refused before there is data or a run."""
        noise, side, training = getattr(network, "noise", 0), TRIED, network.training
        images = [torch.zeros(1, bands, side, side) for bands in (in_bands, noise) if bands]
        with running(f"The generator {self.network}"), torch.no_grad():
            made: Any = network.eval()(*images)
        network.train(training)
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        if shape != (1, out_bands, side, side):
            raise ConfigError(
                f"{self.network} is not a generator: of an image (1, {in_bands}, {side}, {side}) it makes {shape}, not "
                f"(1, {out_bands}, {side}, {side})."
            )

    def start(self, network: nn.Module, random: torch.Generator, published: bool = True) -> None:
        """Do nothing: the class has chosen its weights."""
