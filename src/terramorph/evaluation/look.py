"""Look at pairs before scoring: map classes, floor, and evidence for a discussion."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from terramorph.errors import DatasetError
from terramorph.evaluation.classes import Classes, find_classes
from terramorph.evaluation.discuss import Evidence, MapSide
from terramorph.evaluation.floor import Floor, Image, choose_floor, sampled
from terramorph.evaluation.samples import Samples, as_bytes
from terramorph.pairs import has_split, load_manifest, open_pairs


class Look(NamedTuple):
    """Classes and floor of the targets, and the evidence of a discussion; ``None`` without a discussion."""

    classes: Classes
    floor: Floor
    evidence: Evidence | None


def look_at(samples: Samples, dataset: str | Path, total: int, style: str | None, draws: int) -> Look:
    """Look at a sample of the training pairs; where there are none, of the pairs that are scored.

    Pairs that cannot be read are skipped here, and reported when they are scored.
    """
    seen, count, where = samples.peek(), total, "truths themselves (there is no training split)"
    if samples.pairs.split == "train":
        where = "training targets"
    elif has_split(dataset, "train"):
        with suppress(DatasetError):
            seen = Samples(open_pairs(dataset, "train", skip_bad=True), samples.header, skip_bad=True)
            count, where = len(seen.pairs), "training targets"

    def images(side: MapSide) -> list[Image]:
        def read(index: int) -> Image | None:
            sample = seen.usable(index)
            if sample is None:
                return None
            source = samples.header.source.scaling
            return (sample.truth if side == "truth" else as_bytes(sample.source, source)), sample.mask

        return sampled(read, count)

    targets, manifest = images("truth"), load_manifest(dataset)
    declared = None if manifest is None else str(manifest.settings.get("style", "classic"))
    classes, evidence = find_classes(targets, declared, style), None
    if draws:
        sides: list[tuple[MapSide, Classes]] = [("truth", classes)]
        if classes.palette is None:
            sides.append(("source", find_classes(images("source"), declared, style)))
        known = (one for one in sides if one[1].palette is not None and one[1].palette.named)
        side, shown = next(known, (None, None))
        evidence = Evidence(side, shown, draws)
    return Look(classes, choose_floor(targets, f"{len(targets)} {where}", classes.palette), evidence)
