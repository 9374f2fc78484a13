"""Training pairs of a finished model, resized and cut as its recipe did."""

from __future__ import annotations

from pathlib import Path

from terramorph.bands import band_order
from terramorph.data.augment import Augmentation
from terramorph.data.cache import decode
from terramorph.data.dataset import TrainingBatches
from terramorph.errors import BundleError, DatasetError, raised_as
from terramorph.header import Header
from terramorph.pairs import open_pairs


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
