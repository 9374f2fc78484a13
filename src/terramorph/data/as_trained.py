"""Training pairs of a finished model, resized and cut as its recipe did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terramorph.bands import band_order
from terramorph.data.augment import Augmentation
from terramorph.data.cache import decode
from terramorph.data.dataset import TrainingBatches
from terramorph.errors import DatasetError
from terramorph.pairs import open_pairs
from terramorph.pixels import Scaling


def batches_as_trained(
    dataset: str | Path,
    recipe: Mapping[str, Any],
    *,
    size: int,
    direction: str,
    bands: Sequence[str],
    dtype: str,
    scaling: Scaling,
    cache: Path,
    skip_bad: bool,
) -> TrainingBatches:
    """Return batches of the source side (as target too), for measuring what a model sees.

    Args:
        dataset: Folder with a train split.
        recipe: The header's recipe; if it is empty, whole pairs are resized to ``size``.
        size: Side of the bundle's images, pixels.
        bands, dtype, scaling: Those of the bundle's source; bands by name.
        skip_bad: leave out pairs that cannot be read.

    Raises:
        DatasetError: if the pairs cannot be used, or are not of these bands and dtype.
    """
    data = recipe.get("data", {})
    crop = int(data.get("crop_size", size))
    pairs = decode(
        open_pairs(dataset, "train", skip_bad=skip_bad, nodata=data.get("nodata")),
        size=int(data.get("load_size", size)) or None,
        resampling=data.get("resampling", "bicubic"),
        at_least=crop,
        cache=cache,
        skip_bad=skip_bad,
    )
    side = pairs.a if direction == "AtoB" else pairs.b
    if band_order(side.bands, bands) != list(range(len(side.bands))) or side.dtype != dtype:
        raise DatasetError(
            f"The pairs of {dataset} have {len(side.bands)} bands of {side.dtype} on the source side "
            f"({', '.join(side.bands)}) and the bundle takes {len(bands)} of {dtype} ({', '.join(bands)}); give the "
            "dataset that it was trained on."
        )
    return TrainingBatches(
        pairs,
        side,
        side,
        (scaling, scaling),
        Augmentation(crop, mirror=False, shrink=float(data.get("shrink", 1.0))),
        seed=0,
    )
