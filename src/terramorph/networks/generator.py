"""Generators: their configuration, and what their modules offer.

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
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from terramorph.networks.layers import initialize

Core = tuple[slice, slice]
"""(rows, columns) of an image, in pixels."""


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
            allowed: Modules from outside that may be imported; see `terramorph.extensions`.
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
