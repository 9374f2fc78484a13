"""From evidence to ``discussion.html`` and ``discussion.json``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from terramorph.evaluation.discuss.discussion import Setting, as_document, discuss, render_discussion
from terramorph.evaluation.discuss.evidence import Evidence
from terramorph.evaluation.discuss.views import Look, View
from terramorph.evaluation.files import Spool, write_json, write_text
from terramorph.evaluation.samples import Samples, as_bytes

PAGE, DATA = "discussion.html", "discussion.json"


def pairs_again(samples: Samples, places: Sequence[int], spool: Spool, evidence: Evidence) -> Look:
    """Shows scored pairs again.

    Args:
        samples: Where they are read from.
        places: Their numbers in the split, in the order in which they were scored.
        spool: Their predictions, in that order.
        evidence: Says whether the truth is a map.
    """

    def look(row: int) -> View:
        sample, prediction = samples.read(places[row]), spool.read(row)
        source = as_bytes(sample.source, samples.header.source.scaling)
        palette = evidence.palette if evidence.map_side == "truth" else None
        classes = [None if palette is None else palette.classify(side) for side in (sample.truth, prediction)]
        return View(sample.id, source, sample.truth, prediction, sample.mask, classes[0], classes[1])

    return look


def write_discussion(
    folder: Path,
    evidence: Evidence,
    per_image: Mapping[str, Sequence[float]],
    look: Look,
    setting: Setting,
    facts: Mapping[str, Any],
) -> None:
    """Write the page and its numbers.

    Args:
        folder: Of the evaluation.
        evidence: Gathered from all images.
        per_image: Score key -> one value an image, in the same order.
        look: Shows a pair again.
        setting: What was evaluated.
        facts: For the head of the page: n, network, direction, dataset, split, evaluated_by, evaluation_seconds,
            drawing_seconds.

    Raises:
        DatasetError: A pair that was scored can no longer be read.
        StorageError: The folder cannot be written.
    """
    started = time.perf_counter()
    sections = discuss(evidence, per_image, look, setting)
    about = {
        **facts,
        "size": evidence.size,
        "mode": setting.mode,
        "samples": evidence.draws,
        "map_side": evidence.map_side,
        "ground_resolution": setting.ground_resolution,
        "seed": setting.seed,
        "seconds": round(evidence.seconds + time.perf_counter() - started, 2),
    }
    means = {key: float(np.mean(values)) for key, values in per_image.items() if values}
    write_text(folder / PAGE, render_discussion(sections, about, means))
    write_json(folder / DATA, as_document(sections, about))
