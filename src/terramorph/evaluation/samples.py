"""Pairs as the protocol sees them: both sides resized, the truth as 8-bit, checked against what the bundle
takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.bundle import Bands, Header
from terramorph.data import PairFolder
from terramorph.errors import DatasetError, InputError
from terramorph.pixels import BYTE, Scaling
from terramorph.raster import Raster
from terramorph.raster.resample import resize_pixels


@dataclass(frozen=True)
class Sample:
    """One pair.

    Attributes:
        id: The pair's name.
        source: Stored values ``(C, S, S)`` of the bundle's source dtype.
        truth: uint8 ``(D, S, S)``, the target brought to 0..255 by the bundle's target scaling.
        mask: bool ``(S, S)``, True where both sides hold pixels.
    """

    id: str
    source: NDArray[Any]
    truth: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass
class Samples:
    """The pairs of a split, read when asked for.

    Attributes:
        pairs: Where they come from.
        header: Says the direction, the size, and what bands and dtypes both sides must have.
        skip_bad: Leave out pairs that cannot be read instead of raising.
        skipped: A sentence for each pair that `usable` left out.
    """

    pairs: PairFolder
    header: Header
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)

    def read(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            DatasetError: It cannot be read, or its bands or dtype are not the bundle's.
        """
        pair = self.pairs.read(index)
        source, target = pair.sides(self.header.direction)
        what = f"The pair {pair.id} of {self.pairs.split}"
        _check(source, self.header.source, f"{what}: its source side")
        _check(target, self.header.target, f"{what}: its target side")
        size = self.header.size
        mask = resize_pixels(pair.mask[None].astype(np.uint8), size, size, "nearest")[0].astype(np.bool_)
        truth = as_bytes(_resized(target, size), self.header.target.scaling)
        return Sample(pair.id, _resized(source, size), truth, mask)

    def usable(self, index: int) -> Sample | None:
        """The pair, or ``None`` and a line in `skipped` where it cannot count.

        Raises:
            DatasetError: It cannot be read or does not fit, and bad pairs are not to be skipped.
        """
        try:
            sample = self.read(index)
        except InputError as error:
            if not self.skip_bad:
                raise
            self.skipped.append(str(error))
            return None
        if not sample.mask.any():
            self.skipped.append(f"The pair {sample.id} of {self.pairs.split} has no pixel valid on both sides.")
            return None
        return sample


def as_bytes(stored: NDArray[Any], scaling: Scaling) -> NDArray[np.uint8]:
    """Stored values of any shape -> uint8 over the scaling's range; uint8 over 0..255 stays as it is."""
    if scaling == BYTE:
        return stored
    shown: NDArray[np.uint8] = BYTE.from_unit(scaling.to_unit(torch.from_numpy(stored))).numpy()
    return shown


def _resized(raster: Raster, size: int) -> NDArray[Any]:
    filled = np.where(raster.mask, raster.pixels, 0).astype(raster.pixels.dtype)
    resized: NDArray[Any] = np.ascontiguousarray(np.nan_to_num(resize_pixels(filled, size, size, "bicubic")))
    return resized


def _check(raster: Raster, wanted: Bands, what: str) -> None:
    if raster.count != wanted.count or raster.pixels.dtype.name != wanted.dtype:
        raise DatasetError(
            f"{what} has {raster.count} bands of {raster.pixels.dtype.name}, and the bundle was made for "
            f"{wanted.count} of {wanted.dtype}; evaluate on pairs of the kind it was trained on."
        )
