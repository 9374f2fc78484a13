"""Pairs among the images to translate: of an A|B image or of folders A and B, only the source side is translated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from terramorph.bundle import Header
from terramorph.errors import DatasetError, InputError, RasterError, warn
from terramorph.pairs import load_manifest
from terramorph.pairs.folder import halves
from terramorph.pairs.manifest import SPLITS
from terramorph.raster import Raster, Source
from terramorph.raster.array_source import RasterSource
from terramorph.raster.image import probe_image, read_image

_LOOKED_AT = 8
"""Number of images whose halves are registered to each other."""
_SIDE = 512
"""Side in pixels at which halves are registered."""
_APART = 2.0
"""Largest shift between the halves of a pair, pixels. The halves of a photograph show different ground: their edges
agree with confidence in 1 % of cases, and then at any shift up to 16 px."""
_SAY = "say whether that is so with `pairs=True` or `pairs=False`"
_LARGEST = 1 << 24
"""Most pixels of an A|B image; a larger image is not examined."""


def source_half(raster: Raster, path: Path, header: Header) -> Raster:
    """Return the source side, (C, H, W), of an A|B image (C, H, 2 W)."""
    return halves(raster, path)[header.direction == "BtoA"]


def without_targets(images: Sequence[Path], folder: Path, header: Header) -> list[Path]:
    """Return the images without the target sides of pairs in folders: A and B, or trainA and trainB."""
    sides: defaultdict[tuple[str, ...], dict[str, dict[str, Path]]] = defaultdict(lambda: {"A": {}, "B": {}})
    for image in images:
        parts = image.relative_to(folder).with_suffix("").parts
        at = next((i for i, part in enumerate(parts[:-1]) if part[-1] in "AB" and part[:-1] in ("", *SPLITS)), None)
        if at is not None:
            sides[*parts[:at], parts[at][:-1]][parts[at][-1]]["/".join(parts[at + 1 :])] = image
    target = "B" if header.direction == "AtoB" else "A"
    left = {path for both in sides.values() if both["A"].keys() == both["B"].keys() for path in both[target].values()}
    if left:
        warn(f"{folder} holds pairs of images: those of side {target}, the target of the model, are left out.")
    return [image for image in images if image not in left]


def pairs_among(images: Sequence[Path], source: object, header: Header, wanted: bool | None) -> frozenset[Path]:
    """Return the A|B images."""
    if wanted is not None:
        return frozenset(images if wanted else ())
    found = _recognised(images, header)
    if found is None:
        raise InputError(f"{source} may hold A|B pairs: each image is twice as wide as high; {_SAY}.")
    if found:
        side = "left" if header.direction == "AtoB" else "right"
        warn(f"{source} holds A|B pairs: their {side} halves are translated, the source of the model.")
    return frozenset(found)


def half_of_pair(source: Source, header: Header, wanted: bool | None) -> Source:
    """Return the source side of an A|B image; any other source unchanged."""
    grid = source.grid
    image = next((file for file in getattr(source, "files", ()) if isinstance(file, Path)), None)
    if wanted is False or image is None or grid is None:
        return source
    if wanted is None and (grid.is_georeferenced or grid.height * grid.width > _LARGEST):
        return source
    if image not in pairs_among([image], image, header, wanted):
        return source
    half = RasterSource(source_half(source.read(grid), image, header))
    half.name = source.name
    return half


def _recognised(images: Sequence[Path], header: Header) -> set[Path] | None:
    """Return the A|B images; None if that cannot be decided."""
    found = _named(images)
    rest = [image for image in images if image not in found]
    sizes = []
    for size in filter(None, map(_size, rest)):  # one image that is no pair settles it: the others are not opened
        if size[1] != 2 * size[0]:
            return found
        sizes.append(size)
    if sizes and _show_the_same(rest):
        return found | set(rest)
    below_split = any(part in SPLITS for image in rest for part in image.absolute().parts[-3:-1])
    of_training = len(sizes) > 1 and {height for height, _ in sizes} <= _training_sizes(header)
    return None if sizes and (below_split or of_training) else found


def _named(images: Sequence[Path]) -> set[Path]:
    """Return the A|B images of prepared datasets, by the manifests in the folders above them."""
    known: dict[Path, tuple[Path, frozenset[str]] | None] = {}
    found = set()
    for image in images:
        here = image.absolute().with_suffix("")
        if here.parent not in known:
            known[here.parent] = _split_above(here.parent)
        split = known[here.parent]
        if split is not None and here.relative_to(split[0]).as_posix() in split[1]:
            found.add(image)
    return found


def _split_above(folder: Path) -> tuple[Path, frozenset[str]] | None:
    """Return the split folder of a prepared dataset that a folder is or lies in, and the ids of its pairs."""
    for split in (folder, *folder.parents[:-1]):
        if (split.parent / "manifest.json").is_file():
            with suppress(DatasetError):  # some other program's manifest
                manifest = load_manifest(split.parent)
                return split, frozenset(manifest.pairs.get(split.name, ()) if manifest else ())
    return None


def _size(image: Path) -> tuple[int, int] | None:
    """Return (height, width); None if the image cannot be read, which is reported when it is translated."""
    with suppress(RasterError):
        return probe_image(image)[:2]
    return None


def _training_sizes(header: Header) -> set[int]:
    """Return the heights that the model's training pairs may have had."""
    given = [header.pairs_read.get(key) for key in ("load_size", "crop_size")]
    return {header.size, *(size for size in given if isinstance(size, int))}


def _show_the_same(images: Sequence[Path]) -> bool:
    """Return whether the halves of most images have the same edges at the same place."""
    from terramorph.prepare.registration import LEAST_SHIFT, MIN_CONFIDENCE, estimate_shift

    alike = seen = 0
    for number in sorted({int(n) for n in np.linspace(0, len(images) - 1, _LOOKED_AT)}):
        with suppress(InputError):
            a, b = halves(read_image(images[number]), images[number])
            step = max(1, a.height // _SIDE)
            if min(a.mask.shape) // step < 4 * LEAST_SHIFT:
                continue
            mask = (a.mask & b.mask)[::step, ::step]
            reach = min(16, min(mask.shape) // 4)
            shift = estimate_shift(a.pixels[:, ::step, ::step], b.pixels[:, ::step, ::step], mask, reach)
            seen += 1
            alike += shift.confidence >= MIN_CONFIDENCE and max(abs(shift.dx), abs(shift.dy)) <= _APART
    return 2 * alike > seen
