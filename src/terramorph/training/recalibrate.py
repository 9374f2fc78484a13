"""Recalibration: normalisation statistics averaged over training pairs, for raster mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from terramorph.bundle import find_bundle, load_bundle
from terramorph.data import DEFAULT_CACHE, batches_as_trained
from terramorph.networks.generator import translated


def recalibrate_network(network: nn.Module, sources: Iterable[Tensor]) -> bool:
    """Replace every batch norm's running statistics by the average over batches, without dropout.

    At batch 1, running statistics cover about the last twenty images; these cover all that are given.

    Args:
        network: Changed in place; its training modes are kept.
        sources: float (N, C, H, W) in [-1, 1] each, with the N of training: the variance within a batch of one lacks
            the differences between images, with which a network of larger batches was trained.

    Returns:
        Whether the network has such statistics.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return False
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # in torch: the plain average over all batches
    random = torch.Generator(norms[0].weight.device).manual_seed(0)
    with torch.no_grad():
        for source in sources:
            translated(network, source, random)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return True


@contextmanager
def recalibrated(network: nn.Module, sources: Iterable[Tensor]) -> Iterator[None]:
    """Recalibrate a network while the block runs, and restore it afterwards."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    recalibrate_network(network, sources)
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


def recalibrate(
    bundle: str | Path,
    dataset: str | Path,
    out: str | Path | None = None,
    *,
    images: int = 400,
    cache: Path = DEFAULT_CACHE,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    allowed: Collection[str] = (),
) -> Path:
    """Recalibrate a bundle: average its normalisation statistics over training pairs, and write it again.

    Pairs are resized and cropped as in the bundle's recipe; without a recipe, whole pairs are resized to the bundle's
    size.

    Args:
        bundle: Path or name.
        dataset: Folder with a train split of the same bands.
        out: Path to write to; the bundle's own if None.
        images: Number of training pairs, drawn without replacement (all if there are fewer).
        cache: Folder of the decoded pairs.
        skip_bad: Leave out pairs that cannot be read.
        progress: Called with (batches done, batches).
        allowed: Modules from outside whose generators may be loaded.

    Returns:
        The path written. It holds no scores: those of the old statistics are removed.

    Raises:
        BundleError, DatasetError: If either cannot be used, or the bands differ.
    """
    loaded = load_bundle(bundle, allowed)
    header = loaded.header
    batches = batches_as_trained(dataset, header, cache=cache, skip_bad=skip_bad)
    size = int(header.recipe.get("batch_size", 1))
    count = max(1, min(images, len(batches.pairs)) // size)

    def sources() -> Iterable[Tensor]:
        for number in range(count):
            yield batches.batch(number * size, size).source
            if progress:
                progress(number + 1, count)

    done = recalibrate_network(loaded.network, sources())
    # The scores are those of the old statistics.
    renewed = replace(loaded, header=header.model_copy(update={"recalibrated": done, "scores": {}}))
    return renewed.save(out or loaded.path or find_bundle(bundle))
