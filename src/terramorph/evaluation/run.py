"""Evaluate a model on held-out pairs by protocol maps-256 (docs/protocols.md): numbers, pictures, one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from terramorph._version import __version__
from terramorph.atomic import make_folder
from terramorph.bundle import Bundle, load_bundle
from terramorph.errors import ConfigError, InputError
from terramorph.evaluation.discuss import write_discussion
from terramorph.evaluation.files import Spool, write_csv, write_json, write_text
from terramorph.evaluation.look import look_at
from terramorph.evaluation.pictures import View
from terramorph.evaluation.report import render_report
from terramorph.evaluation.samples import Samples
from terramorph.evaluation.work import Progress, Work
from terramorph.metrics import Metric, with_own
from terramorph.models import require_own
from terramorph.pairs import GivenPairs, as_folder, open_pairs
from terramorph.translate import Model, load

FACTS = (
    "n", "floor", "against_floor", "spread", "reasons", "class_iou", "confusion", "palette", "floor_colour", "protocol",
    "bundle", "dataset", "seconds",
)  # fmt: skip
"""What ``metrics.json`` holds beside the scores."""


def evaluate(
    model: Model | Bundle | str | Path,
    data: str | Path | GivenPairs,
    out: str | Path | None = None,
    *,
    split: str = "val",
    limit: int | None = None,
    skip_bad: bool = False,
    style: str | None = None,
    weights: str | Path | None = None,
    metrics: Sequence[Metric] = (),
    save_predictions: bool = False,
    discuss: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Translate the source side of a split and compare with the truth, by protocol maps-256.

    Both sides are resized to the model's training size by PIL's bicubic filter in their stored dtype; for a model that
    was trained on crops at the scale of the files (``data.load_size = 0``) the centre of that size is cut out instead,
    and only smaller pairs are resized. Predictions and truths are compared as uint8 (a target of another dtype is
    brought to 0..255 by the model's scaling). Beside every score stands the floor: what one constant colour reaches.

    Written to ``out``, if it is given, each file whole or not at all: ``metrics.json`` (what is returned),
    ``per_image.csv``, ``report.html`` (one self-contained page) and, if asked for, ``predictions/ID.png`` (``.tif``
    where the target is not 1 or 3 bands of uint8), ``discussion.html`` and ``discussion.json``. Memory does not grow
    with the set, but for a few numbers an image.

        >>> import terramorph
        >>> scores = terramorph.evaluate("town-sat2map", "town", split="val")
        >>> scores["n"], scores["miou"] > scores["floor"]["miou"]
        (2, True)

    Args:
        model: From `terramorph.load` (which says mode, device and seed), a bundle, or where one is: a bundle, a run's
            folder, a name, an exported .onnx file.
        data: A folder of pairs, as `terramorph.pairs.open_pairs` takes; or a sequence of pairs, such as a list of
            ``(A, B)`` or a torch ``Dataset`` (see `terramorph.pairs.GivenPairs`).
        out: A folder, made if missing; ``None`` writes nothing.
        split: Which split to evaluate.
        limit: Only the first so many pairs.
        skip_bad: Leave out pairs that cannot be read and list them, instead of stopping.
        style: In which the map side is drawn, a name or a .toml file, for its classes. Default: the data set's own, the
            classic one, or the flat colours of the training targets, whichever fits (see `find_classes`).
        weights: A folder with the SqueezeNet and LPIPS weights (and the Inception weights, for FID).
        metrics: One's own, scored beside those of `terramorph.metrics.METRICS`.
        save_predictions: Keep every prediction as an image.
        discuss: Explain the scores by what the images hold (see `terramorph.evaluation.discuss`); more than 1 draws so
            many samples of each image in ``paper`` mode, whose disagreement is discussed. The first is the one scored.
        progress: Called with (pairs done, pairs in all).

    Returns:
        What ``metrics.json`` holds: a score or ``None`` by key of metric; ``floor`` with the same keys;
        ``against_floor`` with intervals and verdicts; ``reasons`` with a sentence for each ``None``; and the rest of
        `FACTS`. And, beside that, ``per_image``: the columns of ``per_image.csv``.

    Raises:
        BundleError: The bundle or exported network cannot be read.
        ConfigError: The style is not there, a metric has the key of another, files are asked for without ``out``, or
            several samples where they would be equal.
        DatasetError: A pair cannot be read or does not fit the model, or none is left.
        InputError: A weights file is missing or damaged, or an argument is out of range.
        StorageError: The results cannot be written.
    """
    if limit is not None and limit < 1:
        raise InputError(f"The limit must be 1 pair or more, got {limit}.")
    if out is None and (save_predictions or discuss):
        raise ConfigError("Predictions and discussion are files; give a folder out to write them to.")
    started = time.monotonic()
    known = _known(metrics)
    model = _opened(model)
    model.check_samples(max(discuss, 1))
    folder, header = None if out is None else make_folder(Path(out)), model.header
    name = str(data) if isinstance(data, str | Path) else f"{len(data)} pairs"
    with as_folder(data, split) as pairs, ExitStack() as opened:
        samples = Samples(open_pairs(pairs, split, skip_bad=skip_bad), header, skip_bad)
        total = len(samples.pairs) if limit is None else min(limit, len(samples.pairs))
        work = Work(model, samples, look_at(samples, pairs, total, style, discuss), known, weights)
        spool = None
        if folder is not None:
            shape = (header.target.count, header.size, header.size)
            spool = opened.enter_context(closing(Spool(folder, shape)))
        work.through(total, progress, spool, folder / "predictions" if folder and save_predictions else None)
        document = work.document(name, started)
        if folder is not None and spool is not None:
            _write(folder, work, document, spool)
        return document | {"per_image": {"id": work.ids, **work.own.per_image}}


def own_bundle(path: str | Path, allowed: Collection[str] = ()) -> Bundle:
    """A bundle that scores can be recorded in.

    Raises:
        BundleError: It cannot be read, or is a published model.
        ConfigError: It is an exported network.
    """
    if Path(path).suffix == ".onnx":
        raise ConfigError(f"{path} is an exported network and cannot hold scores; evaluate it without recording them.")
    bundle = load_bundle(path, allowed)
    require_own(path if bundle.path is None else bundle.path)
    return bundle


def record_scores(bundle: Bundle, split: str, scores: Mapping[str, float | None]) -> None:
    """Write scores into a bundle's own file, where `terramorph info` shows them."""
    assert bundle.path is not None
    header = bundle.header.model_copy(update={"scores": {f"{split} {key}": value for key, value in scores.items()}})
    replace(bundle, header=header).save(bundle.path)


def _known(own: Sequence[Metric]) -> dict[str, Metric]:
    known = with_own(own)
    taken = next((metric for metric in own if metric.key in FACTS), None)
    if taken is not None:
        raise ConfigError(f"The key {taken.key!r} of a metric means something else in metrics.json; choose another.")
    return known


def _opened(model: Model | Bundle | str | Path) -> Model:
    if isinstance(model, Model):
        return model
    return Model(model) if isinstance(model, Bundle) else load(model)


def _write(folder: Path, work: Work, document: Mapping[str, Any], spool: Spool) -> None:
    model, dataset, per_image, evidence = work.model, document["dataset"], work.own.per_image, work.look.evidence
    write_csv(folder / "per_image.csv", work.ids, per_image)

    def look(row: int) -> View:
        return work.view(row, spool)

    write_text(folder / "report.html", render_report(document, per_image, look, work.metrics))
    write_json(folder / "metrics.json", document)
    if evidence is None:
        return
    about = {
        "n": len(work.ids),
        "size": model.header.size,
        "network": model.header.architecture.name,
        "direction": model.header.direction,
        "dataset": dataset["path"],
        "split": dataset["split"],
        "evaluated_by": __version__,
        "evaluation_seconds": round(document["seconds"] - work.drawing - evidence.seconds, 2),
        "drawing_seconds": round(work.drawing, 2),
        "mode": model.mode,
        "ground_resolution": model.header.ground_resolution,
        "seed": model.seed,
    }
    write_discussion(folder, evidence, per_image, look, about)
