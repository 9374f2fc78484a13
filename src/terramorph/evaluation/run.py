"""Evaluation of a model on held-out pairs by protocol maps-256 (docs/protocols.md): scores, pictures, one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from terramorph._version import __version__
from terramorph.atomic import make_folder, write_text
from terramorph.bundle import Bundle, load_bundle
from terramorph.errors import ConfigError, InputError
from terramorph.evaluation.discuss import write_discussion
from terramorph.evaluation.files import Spool, write_csv, write_json
from terramorph.evaluation.pictures import View
from terramorph.evaluation.report import render_report
from terramorph.evaluation.samples import Samples
from terramorph.evaluation.work import Progress, Work, look_at
from terramorph.metrics import Metric, with_own
from terramorph.models import require_own
from terramorph.pairs import GivenPairs, as_folder, open_pairs
from terramorph.translate import Model, load

FACTS = (
    "n", "floor", "against_floor", "spread", "reasons", "class_iou", "confusion", "palette", "floor_colour", "protocol",
    "bundle", "dataset", "seconds",
)  # fmt: skip
"""Keys of ``metrics.json`` besides the scores."""


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
    """Score a model on the pairs of a split by protocol maps-256.

    Both sides are resized to the model's training size by PIL's bicubic filter in their stored dtype. For a model that
    was trained on crops at the scale of the files (``data.load_size = 0``) the centre of that size is cropped instead,
    and only smaller pairs are resized. Outputs and truths are compared as uint8; targets of other dtypes are scaled to
    0..255 by the model's scaling. Every score has a floor beside it: the score of the best constant colour.

    Files in ``out``, each written atomically: ``metrics.json`` (the returned dict), ``per_image.csv``, ``report.html``
    (one self-contained page) and, on request, ``predictions/ID.png`` (``.tif`` where the target is not 1 or 3 bands of
    uint8), ``discussion.html`` and ``discussion.json``. Memory grows by a few numbers per image only.

        >>> import terramorph
        >>> scores = terramorph.evaluate("town-sat2map", "town", split="val")
        >>> scores["n"], scores["miou"] > scores["floor"]["miou"]
        (2, True)

    Args:
        model: A model of `terramorph.load` (which sets mode, device and seed), a bundle, or where one is: a bundle, a
            run's folder, a name, an exported .onnx file.
        data: A folder of pairs, as in `terramorph.pairs.open_pairs`; or a sequence of pairs, such as a list of
            ``(A, B)`` or a torch ``Dataset`` (see `terramorph.pairs.GivenPairs`).
        out: A folder, made if missing; ``None`` writes nothing.
        split: Name of the split.
        limit: Largest number of pairs, the first ones; ``None`` for all.
        skip_bad: Leave out pairs that cannot be read and list them, instead of raising.
        style: Style of the map side, a name or a .toml file, for its classes. Default: the dataset's own, the classic
            one, or the flat colours of the training targets, the first that fits (see `find_classes`).
        weights: A folder with the SqueezeNet and LPIPS weights (and the Inception weights, for FID).
        metrics: Further metrics, beside those of `terramorph.metrics.METRICS`.
        save_predictions: Keep every output as an image.
        discuss: 0 for no discussion; 1 explains the scores by the content of the images (see
            `terramorph.evaluation.discuss`); N > 1 also draws N samples of each image in ``paper`` mode and discusses
            their disagreement. The first sample is scored.
        progress: Function of (pairs done, all pairs).

    Returns:
        The content of ``metrics.json``: a score or ``None`` by key of metric; ``floor`` with the same keys;
        ``against_floor`` with intervals and verdicts; ``reasons`` with a sentence for each ``None``; and the rest of
        `FACTS`. Besides, ``per_image``: the columns of ``per_image.csv``.

    Raises:
        BundleError: If the bundle or exported network cannot be read.
        ConfigError: If the style does not exist, a metric has the key of another, `save_predictions` or `discuss` is
            set without `out`, or several samples would be equal.
        DatasetError: If a pair cannot be read or does not fit the model, or none is left.
        InputError: If a weights file is missing or damaged, or an argument is out of range.
        StorageError: If the results cannot be written.
    """
    if limit is not None and limit < 1:
        raise InputError(f"`limit` must be >= 1, got {limit}.")
    if out is None and (save_predictions or discuss):
        raise ConfigError("`save_predictions` and `discuss` write files; give a folder as `out`.")
    started = time.monotonic()
    known = _known(metrics)
    if not isinstance(model, Model):
        model = Model(model) if isinstance(model, Bundle) else load(model, accept_quality_loss=True)  # it is measured
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
    """Open a bundle in which scores can be recorded.

    Raises:
        BundleError: If it cannot be read, or is a published model.
        ConfigError: If it is an exported network.
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
        raise ConfigError(f"The key {taken.key!r} of a metric has another meaning in metrics.json; choose another key.")
    return known


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
