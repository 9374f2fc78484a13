"""Conversion between stored values and float32 in [-1, 1], in this one place.

Stored values are what files hold: uint8, uint16, float32 and so on, in any range. Networks see float32 in
[-1, 1]. A `Scaling` says how one becomes the other, and travels in the bundle so that a network is never fed
values on another scale than it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from terramorph.errors import InputError

if TYPE_CHECKING:  # a bundle's header is read without torch: only what handles tensors imports it
    import torch
    from torch import Tensor

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Scaling:
    """Linear map from stored values to [-1, 1].

    Attributes:
        dtype: Numpy name of the stored dtype, one of `DTYPES`.
        low: Stored value that becomes -1.
        high: Stored value that becomes +1. Values outside [low, high] are clipped.

    Raises:
        InputError: If the dtype is unknown or the range is empty.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(
                f"Pixels of dtype {self.dtype} are not supported; convert them to one of {', '.join(DTYPES)}."
            )
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise InputError(f"low must be under high and both finite, got {self.low} and {self.high}.")

    @property
    def middle(self) -> float:
        """Stored value that becomes 0."""
        return (self.high + self.low) / 2.0

    @property
    def half(self) -> float:
        """Stored values along 1."""
        return (self.high - self.low) / 2.0

    def to_unit(self, stored: Tensor, out: Tensor | None = None) -> Tensor:
        """Convert stored values of any shape and dtype to float32 in [-1, 1], same shape and memory format.

        Args:
            stored: The values; left as they are.
            out: float32 memory for the result, if there is some already.
        """
        import torch

        # A uint8 tensor minus a number is float32 at once; other dtypes are converted first.
        values = stored if stored.dtype == torch.uint8 else stored.to(torch.float32)
        unit = torch.sub(values, self.middle, out=out).mul_(1.0 / self.half)
        # uint8 over its own range cannot leave [-1, 1]; the clamp is a pass over memory worth saving.
        return unit if self == BYTE else unit.clamp_(-1.0, 1.0)

    def from_unit(self, unit: Tensor) -> Tensor:
        """Convert floating values in [-1, 1] of any shape to stored values, rounded for integer dtypes."""
        import torch

        stored = (unit.to(torch.float32).clamp(-1.0, 1.0) + 1.0) * self.half + self.low
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return stored
        return stored.round_().to(dtype)


BYTE = Scaling()


@dataclass(frozen=True)
class Batch:
    """A batch of a training or evaluation step.

    Attributes:
        source: float32 (N, C_source, H, W) in [-1, 1]; 0, the middle of the range, where the mask is 0.
        target: float32 (N, C_target, H, W) in [-1, 1]; likewise.
        mask: float32 (N, 1, H, W), 1 where both sides hold real pixels, else 0; None when all are real.
    """

    source: Tensor
    target: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.source.shape[0]


def image_to_unit(pixels: np.ndarray, scaling: Scaling = BYTE) -> Tensor:
    """Convert stored pixels (C, H, W) to float32 (1, C, H, W) in [-1, 1].

    Raises:
        InputError: If the dtype is not the scaling's.
    """
    if pixels.dtype.name != scaling.dtype:
        raise InputError(
            f"The pixels are {pixels.dtype.name} and the model takes {scaling.dtype} from {scaling.low:g} to "
            f"{scaling.high:g}; convert the image first."
        )
    import torch

    return scaling.to_unit(torch.from_numpy(np.require(pixels, requirements=("C", "W"))))[None]


def unit_to_image(unit: Tensor, scaling: Scaling = BYTE) -> np.ndarray:
    """Convert floating (C, H, W) or (1, C, H, W) in [-1, 1] to stored pixels (C, H, W)."""
    if unit.ndim == 4:
        unit = unit[0]
    pixels: np.ndarray = scaling.from_unit(unit.detach().cpu()).contiguous().numpy()
    return pixels
