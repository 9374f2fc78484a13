"""Normalisation statistics averaged over the training pairs, for raster mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from terramorph.bundle import Bundle, find_bundle, load_bundle
from terramorph.data import DEFAULT_CACHE, batches_as_trained
from terramorph.training.noise import draw_noise


def recalibrate_network(network: nn.Module, sources: Iterable[Tensor]) -> bool:
    """Replaces every batch norm's running statistics by the average over the batches given, without dropout.

    Running statistics of a run at batch 1 remember the last twenty images or so; these know all of them.

    Args:
        network: changed in place; its modes are left as they were.
        sources: float (N, C, H, W) in [-1, 1] each, with the N of training: the variance of a batch of one leaves out
            how images differ, and a network that was trained on larger ones does not fit it.

    Returns:
        Whether the network has such statistics at all.
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
        norm.momentum = None  # torch's word for the plain average over all batches
    random = torch.Generator(norms[0].weight.device).manual_seed(0)
    with torch.no_grad():
        for source in sources:
            noise = draw_noise(network, source, random)
            network(source) if noise is None else network(source, noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return True


@contextmanager
def recalibrated(network: nn.Module, sources: Iterable[Tensor]) -> Iterator[None]:
    """The network as `recalibrate_network` makes it, and afterwards as it was."""
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
    """Averages a bundle's normalisation statistics over training pairs and writes it again.

    The pairs are resized and cut as the bundle's recipe says they were in training; without a recipe, whole pairs are
    resized to the bundle's size.

    Args:
        bundle: path or bare name.
        dataset: folder with a train split of the same bands.
        out: where to write; the bundle's own path if None.
        images: how many training pairs, drawn without replacement, are averaged over (all if there are fewer).
        cache: folder of the decoded pairs.
        skip_bad: leave out pairs that cannot be read.
        progress: called with (batches done, batches).
        allowed: modules from outside that the bundle's generator may be of.

    Returns:
        The path written. Recorded scores are gone from it: they were another network's.

    Raises:
        BundleError, DatasetError: if either cannot be used, or the bands differ.
    """
    loaded = load_bundle(bundle, allowed)
    header = loaded.header
    batches = batches_as_trained(
        dataset,
        header.recipe,
        size=header.size,
        direction=header.direction,
        bands=header.source.names,
        dtype=header.source.dtype,
        scaling=header.source.scaling,
        cache=cache,
        skip_bad=skip_bad,
    )
    size = int(header.recipe.get("batch_size", 1))
    count = max(1, min(images, len(batches.pairs)) // size)

    def sources() -> Iterable[Tensor]:
        for number in range(count):
            yield batches.batch(number * size, size).source
            if progress:
                progress(number + 1, count)

    done = recalibrate_network(loaded.network, sources())
    # What was scored was the network with its old statistics.
    renewed = Bundle(loaded.network, header.model_copy(update={"recalibrated": done, "scores": {}}), loaded.path)
    return renewed.save(out or loaded.path or find_bundle(bundle))
