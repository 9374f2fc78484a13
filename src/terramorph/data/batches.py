"""Batches of decoded pairs: augmented, cut and scaled at memory speed, for a run or as the recipe of a model says.

Both sides are augmented jointly: random scale and crop, mirror, eight-fold symmetry; and the source's colours. Every
choice is a pure function of (seed, number of the sample), so a run that is resumed, or spread over several processes,
sees exactly what an uninterrupted single process would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from terramorph.bands import band_order
from terramorph.data.cache import DecodedPairs, Side, decode
from terramorph.errors import BundleError, DatasetError, raised_as
from terramorph.header import Header
from terramorph.pairs import open_pairs
from terramorph.pixels import Batch, Scaling

_MASK = 2
"""Index of the masks, after source and target."""
_CASTS = 16
"""Bands that have a factor of their own where colours are cast."""


@dataclass(frozen=True)
class Augmentation:
    """Settings of the augmentation.

    Attributes:
        crop: Side of the square that is cut out at a random place, pixels.
        mirror: Swap left and right half the time.
        eightfold: One of the eight symmetries of the square, instead of the mirror alone.
        jitter: Brightness, contrast and (for three bands) saturation of the source are each multiplied by a factor
            from [1 - jitter, 1 + jitter]; 0 is off.
        cast: The light of each band of the source is multiplied by a factor of its own from [1 - cast, 1 + cast].
        shrink: Images are shrunk by a factor from [shrink, 1] before the crop; 1 is off.
    """

    crop: int
    mirror: bool = True
    eightfold: bool = False
    jitter: float = 0.0
    cast: float = 0.0
    shrink: float = 1.0


@dataclass(frozen=True)
class Draw:
    """Random choices for one sample.

    Attributes:
        y, x: Upper left corner of the crop, pixels.
        mirror: Left and right are swapped.
        flip: Top and bottom are swapped.
        transpose: Rows and columns are swapped, first of all.
        brightness, contrast, saturation: Factors, 1 is no change.
        cast: A factor for each band, used from the first on again where there are more.
        side: Side of the square that is cut and resized to the crop, pixels; 0: the crop's.
    """

    y: int
    x: int
    mirror: bool = False
    flip: bool = False
    transpose: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    cast: tuple[float, ...] = (1.0,)
    side: int = 0


def generator_for(seed: int, stream: int, number: int) -> np.random.Generator:
    """Return a generator that depends on its three arguments alone (Philox, Salmon et al. 2011).

    Args:
        stream: Use of the numbers, so that two uses never share them.
        number: Number of the sample, epoch or step.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, number]))


def draw(augmentation: Augmentation, shape: tuple[int, int], seed: int, number: int) -> Draw:
    """Draw the changes for the sample with this number, of an image of (height, width) pixels."""
    height, width = shape
    values, scale, casts = np.split(generator_for(seed, 1, number).random(9 + _CASTS), [8, 9])
    shrunk = 1.0 - float(scale[0]) * (1.0 - augmentation.shrink)
    side = min(round(augmentation.crop / shrunk), height, width)
    spare_y, spare_x = height - side + 1, width - side + 1
    symmetric = augmentation.eightfold
    factors = 1.0 + augmentation.jitter * (2.0 * values[5:] - 1.0)
    return Draw(
        y=int(values[0] * spare_y),
        x=int(values[1] * spare_x),
        mirror=bool(values[2] < 0.5) and (augmentation.mirror or symmetric),
        flip=bool(values[3] < 0.5) and symmetric,
        transpose=bool(values[4] < 0.5) and symmetric,
        brightness=float(factors[0]),
        contrast=float(factors[1]),
        saturation=float(factors[2]),
        cast=tuple((1.0 + augmentation.cast * (2.0 * casts - 1.0)).tolist()) if augmentation.cast else (1.0,),
        side=side,
    )


def cut(image: Tensor, drawn: Draw, crop: int, mask: bool = False) -> Tensor:
    """Cut (H, W, C) pixels as drawn: (crop, crop, C); a view where nothing is flipped or resized."""
    side = drawn.side or crop
    window = image[drawn.y : drawn.y + side, drawn.x : drawn.x + side]
    if side != crop:
        window = _resized(window, crop, mask)
    if drawn.transpose:
        window = window.transpose(0, 1)
    flips = [axis for axis, wanted in enumerate((drawn.flip, drawn.mirror)) if wanted]
    if not flips:
        return window
    if window.dtype == torch.uint16:  # which torch does not flip in every layout; its bits do not mind another name
        return window.view(torch.int16).flip(flips).view(torch.uint16)
    return window.flip(flips)


def _resized(window: Tensor, crop: int, mask: bool) -> Tensor:
    """Resize (H, W, C) to (crop, crop, C) of the same dtype, bicubic; a mask stays 1 where all pixels below are."""
    planes = window.movedim(-1, 0)[None].float()
    resized = functional.interpolate(planes, (crop, crop), mode="bicubic", antialias=True)[0].movedim(0, -1)
    if mask:
        resized = ((resized - 1.0).abs() < 1e-3).float()
    elif not window.dtype.is_floating_point:
        limits = torch.iinfo(window.dtype)
        resized = resized.round().clamp(limits.min, limits.max)
    return resized.to(window.dtype)


def gather(images: Tensor, index: Sequence[int], drawn: list[Draw], crop: int, mask: bool = False) -> Tensor:
    """Do the same as `cut` for many images at once, on their device.

    Args:
        images: (M, H, W, C), any dtype.
        index: Indices of N of the images.
        drawn: Draws of N samples.
        crop: Side of the crops, pixels.
        mask: Whether they are masks, of 0 and 1.

    Returns:
        (N, crop, crop, C).
    """
    if any(d.side not in (0, crop) for d in drawn):
        return torch.stack([cut(images[i], d, crop, mask) for i, d in zip(index, drawn, strict=True)])
    if images.dtype == torch.uint16:  # which CUDA does not index; its bits do not mind another name
        return gather(images.view(torch.int16), index, drawn, crop).view(torch.uint16)
    device = images.device
    table = torch.tensor(
        [[d.y, d.x, d.mirror, d.flip, d.transpose] for d in drawn], dtype=torch.int64, device=device
    ).T[:, :, None, None]
    y, x, mirror, flip, transpose = table
    ramp = torch.arange(crop, device=device)
    row, column = ramp[None, :, None], ramp[None, None, :]
    row, column = (torch.where(flip.bool(), crop - 1 - row, row), torch.where(mirror.bool(), crop - 1 - column, column))
    swap = transpose.bool()
    row, column = torch.where(swap, column, row), torch.where(swap, row, column)
    which = torch.tensor(index, device=device)[:, None, None]
    return images[which, y + row, x + column]


def jitter_colours(unit: Tensor, drawn: list[Draw]) -> Tensor:
    """Change brightness, contrast, saturation and cast of float (N, C, H, W) in [-1, 1], clipped to the same range.

    The first three are linear in the colours once the mean is known, so they are one small matrix per image:
    with light x = unit + 1, b x is brighter, c b x + (1 - c) mean(b x) has less contrast, and s y + (1 - s) grey(y)
    less colour, where grey is the luma of ITU-R BT.601 for three bands and y itself for any other number. Last, each
    band of the light has its factor.
    """
    bands = unit.shape[1]
    pixels = unit.permute(0, 2, 3, 1).flatten(1, 2)  # a view, when the memory is channels_last
    brightness, contrast, saturation = (
        torch.tensor([getattr(d, name) for d in drawn], device=unit.device, dtype=unit.dtype)[:, None, None]
        for name in ("brightness", "contrast", "saturation")
    )
    matrix = torch.eye(bands, device=unit.device, dtype=unit.dtype).expand(len(drawn), -1, -1)
    if bands == 3:
        luma = unit.new_tensor([0.299, 0.587, 0.114])[:, None].expand(3, 3)
        matrix = torch.lerp(luma.expand_as(matrix), matrix, saturation)
    gain = brightness * contrast
    offset = gain + (1.0 - contrast) * brightness * (pixels.mean(dim=(1, 2), keepdim=True) + 1.0) - 1.0
    offset, matrix = offset.expand(-1, 1, bands), gain * matrix
    if any(d.cast != (1.0,) for d in drawn):
        casts = [[d.cast[band % len(d.cast)] for band in range(bands)] for d in drawn]
        cast = torch.tensor(casts, device=unit.device, dtype=unit.dtype)[:, None]
        offset, matrix = (offset + 1.0) * cast - 1.0, matrix * cast
    changed = torch.baddbmm(offset, pixels, matrix).clamp_(-1.0, 1.0)
    return changed.view(len(unit), *unit.shape[2:], bands).permute(0, 3, 1, 2)


class TrainingBatches:
    """Augmented batches by number: batch k is the same whenever and wherever it is asked for.

    Samples are numbered through the whole run; each epoch is a permutation of the pairs, and a batch may reach over
    the end of one into the next.

    Args:
        source, target: Their sides for the direction of training.
        seed: Seed of the permutations and the augmentation.
        device: Device of the batches. On an accelerator the whole set moves there if it fits in half of its free memory
            and all pairs have one size; then it is cut and augmented there.
    """

    def __init__(
        self,
        pairs: DecodedPairs,
        source: Side,
        target: Side,
        scalings: tuple[Scaling, Scaling],
        augmentation: Augmentation,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.pairs = pairs
        self.scalings = scalings
        # By kind, (H, W, C) each: sources, targets and, where some pixels are not real, masks.
        self._images = [source.images, target.images]
        if pairs.masks is not None:
            self._images.append([mask[..., None] for mask in pairs.masks])
        self.augmentation = augmentation
        self.seed = seed
        self.device = device or torch.device("cpu")
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self.resident = self._move() if self.device.type != "cpu" else None

    def batch(self, first: int, count: int) -> Batch:
        """Return samples first to first + count - 1 of the run as a batch on the device (channels_last)."""
        numbers = range(first, first + count)
        index = [self._pair(number) for number in numbers]
        drawn = [
            draw(self.augmentation, self._images[0][i].shape[:2], self.seed, number)
            for i, number in zip(index, numbers, strict=True)
        ]
        if self.resident is not None:
            crop = self.augmentation.crop
            stored = [gather(images, index, drawn, crop, n == _MASK) for n, images in enumerate(self.resident)]
        else:
            stored = [self._cut(images, index, drawn, n == _MASK) for n, images in enumerate(self._images)]
        source, target = (
            scaling.to_unit(images, _memory(images)).permute(0, 3, 1, 2)
            for scaling, images in zip(self.scalings, stored, strict=False)
        )
        if self.augmentation.jitter or self.augmentation.cast:
            source = jitter_colours(source, drawn)
        if len(stored) == 2:
            return Batch(source, target)
        mask = stored[2].permute(0, 3, 1, 2).float()
        return Batch(source.mul_(mask), target.mul_(mask), mask)

    def _pair(self, number: int) -> int:
        epoch, position = divmod(number, len(self.pairs))
        if self._order[0] != epoch:
            self._order = (epoch, generator_for(self.seed, 0, epoch).permutation(len(self.pairs)))
        return int(self._order[1][position])

    def _cut(self, images: list[np.ndarray], index: Sequence[int], drawn: list[Draw], mask: bool) -> Tensor:
        crop = self.augmentation.crop
        stack = np.empty((len(drawn), crop, crop, images[0].shape[-1]), images[0].dtype)
        stacked = torch.from_numpy(stack)
        for slot, i, d in zip(stacked, index, drawn, strict=True):
            slot.copy_(cut(torch.from_numpy(images[i]), d, crop, mask))
        return stacked.to(self.device, non_blocking=True)

    def _move(self) -> list[Tensor] | None:
        """Return all images on the device, (M, H, W, C) by kind; None if they do not fit or differ in size."""
        size = sum(image.nbytes for images in self._images for image in images)
        if len({image.shape[:2] for image in self._images[0]}) > 1:
            return None
        if self.device.type == "cuda" and size > torch.cuda.mem_get_info(self.device)[0] // 2:
            return None
        return [torch.from_numpy(np.stack(images)).to(self.device) for images in self._images]


def _memory(like: Tensor) -> Tensor | None:
    """Allocate float32 memory of a tensor's shape on huge pages.

    numpy asks the system for huge pages and torch does not; with small ones, more time goes into mapping fresh
    memory than into filling it.
    """
    return torch.from_numpy(np.empty(like.shape, np.float32)) if like.device.type == "cpu" else None


def batches_as_trained(dataset: str | Path, header: Header, *, cache: Path, skip_bad: bool) -> TrainingBatches:
    """Return batches of the source side (as target too), for measuring what a model sees.

    Args:
        dataset: Folder with a train split.
        header: Header of the model's bundle; without a recipe, whole pairs are resized to its ``size``.
        cache: Folder of the decoded pairs.
        skip_bad: Leave out pairs that cannot be read.

    Raises:
        BundleError: If the recipe's sizes are no numbers.
        DatasetError: If the pairs cannot be used, or are not of the bundle's bands and dtype.
    """
    data, taken = header.pairs_read, header.source
    wrong = "The bundle's recipe has sizes of pairs that are no numbers"
    with raised_as(BundleError, wrong, "make it again", TypeError, ValueError):
        crop, size = (int(data.get(key, header.size)) for key in ("crop_size", "load_size"))
        shrink = float(data.get("shrink", 1.0))
    pairs = decode(
        open_pairs(dataset, "train", skip_bad=skip_bad, nodata=data.get("nodata")),
        size=size or None,
        resampling=data.get("resampling", "bicubic"),
        at_least=crop,
        cache=cache,
        skip_bad=skip_bad,
    )
    side = pairs.a if header.direction == "AtoB" else pairs.b
    if band_order(side.bands, taken.names) != list(range(len(side.bands))) or side.dtype != taken.dtype:
        raise DatasetError(
            f"The pairs of {dataset} have {len(side.bands)} bands of {side.dtype} on the source side "
            f"({', '.join(side.bands)}) and the model takes {taken.count} of {taken.dtype} ({', '.join(taken.names)}); "
            "give the dataset that it was trained on."
        )
    augmentation = Augmentation(crop, mirror=False, shrink=shrink)
    return TrainingBatches(pairs, side, side, (taken.scaling, taken.scaling), augmentation, seed=0)
