"""Batches of decoded pairs: cut, augmented and scaled at memory speed; for a run, or as the recipe of a model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from terramorph.bands import band_order
from terramorph.data.augment import Augmentation, Draw, cut, draw, gather, generator_for, jitter_colours
from terramorph.data.cache import DecodedPairs, Side, decode
from terramorph.errors import BundleError, DatasetError, raised_as
from terramorph.header import Header
from terramorph.pairs import open_pairs
from terramorph.pixels import Batch, Scaling

_MASK = 2
"""Index of the masks, after source and target."""


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
