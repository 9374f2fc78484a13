"""The fixed validation pairs that every sample sheet of a run shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from terramorph.data import DecodedPairs, decode
from terramorph.errors import DatasetError
from terramorph.pairs import has_split, open_pairs
from terramorph.pixels import Batch, Scaling
from terramorph.training.config import TrainConfig


def fixed_samples(
    dataset: Path,
    config: TrainConfig,
    training: DecodedPairs,
    scalings: tuple[Scaling, Scaling],
    skip_bad: bool,
    cache: Path,
    device: torch.device,
) -> Batch | None:
    """Pairs spread evenly over the val split (or test, without one), whole images at the size of the crops.

    Returns:
        A batch of config.log.sheet pairs on the device; None if that is 0 or there is no such split.

    Raises:
        DatasetError: if a pair cannot be read, or the split is of another kind than the training pairs.
    """
    split = next((name for name in ("val", "test") if has_split(dataset, name)), None)
    if split is None or config.log.sheet == 0:
        return None
    found = open_pairs(dataset, split, skip_bad=skip_bad)
    chosen = np.unique(np.linspace(0, len(found) - 1, config.log.sheet).astype(int))
    size = config.data.crop_size
    pairs = decode(found.only([int(i) for i in chosen], []), size=size, cache=cache, skip_bad=skip_bad)
    for name, ours, theirs in (("A", training.a, pairs.a), ("B", training.b, pairs.b)):
        if (len(ours.bands), ours.dtype) != (len(theirs.bands), theirs.dtype):
            raise DatasetError(
                f"Side {name} of the split {split} of {dataset} has {len(theirs.bands)} bands of {theirs.dtype} and "
                f"that of train has {len(ours.bands)} of {ours.dtype}; both splits must be of one kind."
            )
    sides = (pairs.a, pairs.b) if config.direction == "AtoB" else (pairs.b, pairs.a)
    stored = [torch.from_numpy(np.stack(side.images)).permute(0, 3, 1, 2) for side in sides]
    source, target = (scaling.to_unit(images).to(device) for scaling, images in zip(scalings, stored, strict=True))
    return Batch(source, target)
