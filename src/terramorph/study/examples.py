"""The same few pairs through every variant: translated once, kept as files for the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.bundle import load_bundle
from terramorph.evaluation.pictures import viewable
from terramorph.evaluation.samples import Samples, as_bytes
from terramorph.pairs import open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, read_image, write_image
from terramorph.translate import Model

EXAMPLES = 6
FOLDER = "examples"
SIDES = ("source", "translated", "truth")


def keep_examples(run: Path, model: Path, dataset: Path, split: str, device: str) -> None:
    """Writes RUN/examples/NUMBER-SIDE.png for a few pairs, evenly spread over the split.

    Args:
        run: the run's folder.
        model: its bundle.
        dataset, split: the pairs.
        device: where the network runs.

    Raises:
        DatasetError: a pair cannot be read or does not fit the bundle.
        StorageError: a picture cannot be written.
    """
    bundle = load_bundle(model)
    samples = Samples(open_pairs(dataset, split), bundle.header)
    translator = Model(bundle, device=device)
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(chosen(len(samples.pairs))):
        sample = samples.read(index)
        scaling = bundle.header.source.scaling
        unit = scaling.to_unit(torch.from_numpy(sample.source[None])) * torch.from_numpy(sample.mask)
        translated = BYTE.from_unit(translator.translate_batch(unit).float().cpu())[0].numpy()
        images = (as_bytes(sample.source, scaling), translated, sample.truth)
        for side, image in zip(SIDES, images, strict=True):
            write_image(Raster.from_pixels(viewable(image)), run / FOLDER / f"{number}-{side}.png")


def read_example(run: Path, number: int, side: str) -> NDArray[np.uint8] | None:
    """uint8 (3, S, S), or None if it was not kept."""
    path = run / FOLDER / f"{number}-{side}.png"
    return read_image(path).pixels if path.is_file() else None


def chosen(pairs: int) -> list[int]:
    """Numbers of the pairs that are shown."""
    return [int(i) for i in np.unique(np.linspace(0, pairs - 1, EXAMPLES).astype(int))]
