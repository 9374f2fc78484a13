"""Generators: their configuration, what their modules offer, and classes from outside the package as generators.

A generator of this package is a file with a configuration (a `GeneratorConfig`) and a module, and a line in
`catalog.py`. The module has:

- `stride: int` (the input is extended to a multiple of it), and
- `halo: int | None` (pixels on each side that an output pixel depends on; None if not bounded by less than the image),

and may have what other parts look for:

- `norms() -> pairs of names`: which norm follows which convolution, so that batch norm is folded for inference
  (`inference.fold_batchnorm`); without, it is left as it is;
- `for_inference() -> nn.Module`: a layer, or the whole, in another form that computes the same;
- `for_export() -> nn.Module`: the whole, once made ready for inference, in a form that is exported;
- `rearranged`: what makes a faster form for a CPU (`inference.cpu_form`), or None;
- `overlap: int`: pixels that windows should share where the halo is not bounded;
- `noise: int`: bands of the noise image that `forward(source, noise)` takes;
- `channels_last: bool`: in raster mode it is faster with (N, H, W, C) in memory on a CPU too, and one image at once;
- `takes_core: bool`: in raster mode `forward` and `scores` take (rows, columns) as `core`, of which alone they compute
  and give the result;
- `scores(source, noise=None)`: class scores; with them a buffer `palette`, float32 (classes, bands), and
  `with_scores(source, noise=None)`: image and scores in one pass;
- `fit(targets)`: what it learns of the training targets before the first step;
- `encoder_parameters()`: of a pretrained encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor, nn

from terramorph.errors import ConfigError, reason_of
from terramorph.imports import module_of, resolve, running
from terramorph.networks.layers import NoiseDropout, initialize, on_stride

Core = tuple[slice, slice]
"""(rows, columns) of an image, in pixels."""
_TRIED = 256
"""Side in pixels of the image that a class from outside is tried on."""


class GeneratorConfig(BaseModel, ABC):
    """Base of the settings of a generator; `network` is its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str

    def arguments(self) -> dict[str, Any]:
        """Return the settings without the name."""
        return self.model_dump(exclude={"network"})

    @abstractmethod
    def build(self, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> nn.Module:
        """Build the network, with the initial weights of its layers.

        Args:
            in_bands, out_bands: Bands of source and target.
            allowed: Modules from outside that may be imported; see `terramorph.imports`.
        """

    def start(self, network: nn.Module, random: torch.Generator, published: bool = True) -> None:
        """Set the weights that training starts from.

        Args:
            network: Changed in place.
            random: All that random ones depend on.
            published: Whether those that others trained are wanted, where the settings name some; a model's follow
                otherwise.
        """
        initialize(network, random)


def has_palette(generator: nn.Module) -> bool:
    """Return whether a generator mixes its image from a palette's colours, by class scores."""
    return isinstance(getattr(generator, "palette", None), torch.Tensor)


def draw_noise(network: nn.Module, source: Tensor, generator: torch.Generator) -> Tensor | None:
    """Draw normal noise for a batch of sources.

    Args:
        network: The generator; its attribute `noise` is the number of bands, 0 or missing for none.
        source: (N, C, H, W).
        generator: Random generator on the device of the source.

    Returns:
        float32 (N, bands, H, W); None if the network takes none.
    """
    bands = int(getattr(network, "noise", 0))
    if not bands:
        return None
    shape = (source.shape[0], bands, *source.shape[2:])
    noise = torch.randn(shape, generator=generator, device=source.device)
    return noise.contiguous(memory_format=torch.channels_last)


def translated(network: nn.Module, source: Tensor, generator: torch.Generator) -> Tensor:
    """Translate float (N, C, H, W), with noise from the random generator if the network takes some."""
    noise = draw_noise(network, source, generator)
    output: Tensor = network(source) if noise is None else network(source, noise)
    return output


class _OnStride:
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


def _well_formed(name: str) -> str:
    module_of(name)
    return name


class OutsideConfig(GeneratorConfig):
    """Settings of a class from outside.

    Attributes:
        network: `package.module:Name`.
        settings: Its arguments beside in_bands and out_bands.
    """

    network: Annotated[str, AfterValidator(_well_formed)]
    settings: dict[str, Any] = {}

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
            network.__class__ = type(type(network).__name__, (_OnStride, type(network)), {})
        self._try(network, in_bands, out_bands)
        return network

    def _try(self, network: nn.Module, in_bands: int, out_bands: int) -> None:
        """Run it on a small image, so that a wrong class is refused before there is data or a run."""
        noise, side, training = getattr(network, "noise", 0), _TRIED, network.training
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
