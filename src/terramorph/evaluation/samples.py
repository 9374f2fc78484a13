"""Samples of the protocol: pairs that fit a bundle, both sides resized or cropped, the truth as uint8."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.bundle import Bands, Header
from terramorph.errors import DatasetError, InputError
from terramorph.pairs import PairFolder
from terramorph.pixels import BYTE, Scaling
from terramorph.raster import Raster
from terramorph.raster.resample import centred, resize_masked


@dataclass(frozen=True)
class Sample:
    """A pair as the protocol compares it.

    Attributes:
        source: Stored values ``(C, S, S)`` of the bundle's source dtype.
        truth: uint8 ``(D, S, S)``, the target scaled to 0..255 by the bundle's target scaling.
        mask: bool ``(S, S)``, True where both sides hold pixels.
    """

    id: str
    source: NDArray[Any]
    truth: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass
class Samples:
    """The pairs of a split, read on demand.

    Attributes:
        header: Header of the bundle: direction, size, bands and dtypes of both sides.
        skip_bad: Leave out pairs that cannot be read instead of raising.
        skipped: A sentence about each pair that `usable` left out.
        enlarged: Ids of the pairs that were too small to be cropped (see `native`).
    """

    pairs: PairFolder
    header: Header
    skip_bad: bool = False
    skipped: list[str] = field(default_factory=list)
    enlarged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # Nodata of the training is nodata here too.
        nodata = self.header.pairs_read.get("nodata")
        if nodata is not None:
            self.pairs = replace(self.pairs, nodata=nodata)

    @property
    def native(self) -> bool:
        """Whether the bundle was trained on crops at the scale of the files (``data.load_size = 0``).

        Then the centre of ``size`` x ``size`` px is cropped without resizing; only a pair with a smaller side is
        resized, as in the protocol.
        """
        return bool(self.header.pairs_read.get("load_size") == 0)

    def read(self, index: int) -> Sample:
        """Read one pair."""
        pair = self.pairs.read(index)
        source, target = pair.sides(self.header.direction)
        what = f"The pair {pair.id} of {self.pairs.split}"
        source = _fitted(source, self.header.source, f"{what}: its source side")
        target = _fitted(target, self.header.target, f"{what}: its target side")
        size = self.header.size
        if self.native and min(source.height, source.width) < size:
            self.enlarged.add(pair.id)
        (stored, valid), (shown, shown_valid) = (
            centred(side.pixels, side.mask, size) if self.native else resize_masked(side.pixels, side.mask, size, size)
            for side in (source, target)
        )
        truth = as_bytes(np.ascontiguousarray(shown), self.header.target.scaling)
        return Sample(pair.id, np.ascontiguousarray(stored), truth, valid & shown_valid)

    def peek(self) -> Samples:
        """Return the same pairs for a look ahead: unusable ones are skipped and not listed."""
        return replace(self, skip_bad=True, skipped=[], enlarged=set())

    def usable(self, index: int) -> Sample | None:
        """Read a pair; ``None`` and a line in `skipped` where it cannot be used."""
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
    """Convert stored values of any shape to uint8 over the scaling's range; uint8 over 0..255 stays unchanged."""
    if scaling == BYTE:
        return stored
    shown: NDArray[np.uint8] = BYTE.from_unit(scaling.to_unit(torch.from_numpy(stored))).numpy()
    return shown


def _fitted(raster: Raster, wanted: Bands, what: str) -> Raster:
    """Return a side with its bands in the bundle's order and its values in the bundle's units."""
    fitted = wanted.fit(raster)
    if fitted is None or raster.dtype.name != wanted.dtype:
        raise DatasetError(
            f"{what} must have {wanted.count} bands of {wanted.dtype} ({', '.join(wanted.names)}) for this bundle, got "
            f"{raster.count} of {raster.dtype.name} ({', '.join(raster.bands)}); evaluate on pairs like those of its "
            "training."
        )
    return fitted
