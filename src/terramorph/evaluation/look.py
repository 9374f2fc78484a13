"""Look at the pairs before anything is scored: map classes, floor, and the evidence a discussion needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from terramorph.errors import DatasetError
from terramorph.evaluation.classes import Classes, find_classes
from terramorph.evaluation.discuss import Evidence, MapSide
from terramorph.evaluation.floor import Floor, Image, Read, choose_floor, sampled
from terramorph.evaluation.samples import Samples, as_bytes
from terramorph.pairs import has_split, load_manifest, open_pairs


@dataclass(frozen=True)
class Look:
    """Classes and floor of the pairs.

    Attributes:
        classes: Of the targets.
        of_source: Of the sources, where the targets are no map and a discussion is asked for.
        floor: The constant colour that everything is compared with.
    """

    classes: Classes
    of_source: Classes | None
    floor: Floor

    def evidence(self, size: int, draws: int) -> Evidence:
        """Empty evidence of a discussion, by the seven classes of the side that shows them, if one does."""
        for side, classes in (("truth", self.classes), ("source", self.of_source)):
            if classes is not None and classes.palette is not None and classes.palette.named:
                return Evidence(size, cast(MapSide, side), classes.palette, draws)
        return Evidence(size, None, None, draws)

    @property
    def shares(self) -> tuple[float | None, float | None]:
        """Share of pixels near the colours of a palette, of targets and of sources."""
        return self.classes.share, None if self.of_source is None else self.of_source.share


def look_at(samples: Samples, dataset: str | Path, total: int, style: str | None, discuss: bool) -> Look:
    """Look at the training pairs, which a model could know, or where there are none at those that are scored.

    What cannot be read is reported when its turn comes; here it is stepped over.

    Args:
        samples: The pairs that are scored.
        dataset: Where they are from.
        total: How many of them are scored.
        style: Of the map side, as the user names it.
        discuss: Whether the sources are looked at too.

    Raises:
        ConfigError: There is no such style.
    """
    seen, count, where = samples.peek(), total, "truths themselves (there is no training split)"
    if samples.pairs.split == "train":
        where = "training targets"
    elif has_split(dataset, "train"):
        with suppress(DatasetError):
            seen = Samples(open_pairs(dataset, "train", skip_bad=True), samples.header, skip_bad=True)
            count, where = len(seen.pairs), "training targets"
    targets = sampled(_side_of(seen, "truth"), count)
    manifest = load_manifest(dataset)
    declared = None if manifest is None else str(manifest.settings.get("style", "classic"))
    classes, of_source = find_classes(targets, declared, style), None
    if discuss and classes.palette is None:
        of_source = find_classes(sampled(_side_of(seen, "source"), count), declared, style)
    return Look(classes, of_source, choose_floor(targets, f"{len(targets)} {where}", classes.palette))


def _side_of(samples: Samples, side: MapSide) -> Read:
    def read(index: int) -> Image | None:
        sample = samples.usable(index)
        if sample is None:
            return None
        image = sample.truth if side == "truth" else as_bytes(sample.source, samples.header.source.scaling)
        return image, sample.mask

    return read
