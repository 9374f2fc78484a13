"""Evaluate a model on held-out pairs by protocol maps-256 (docs/protocols.md): numbers, pictures, one page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from terramorph._version import __version__
from terramorph.atomic import make_folder
from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.errors import ConfigError, DatasetError, InputError
from terramorph.evaluation.discuss import Evidence, leading, write_discussion
from terramorph.evaluation.facts import bundle_facts, palette_facts, protocol_facts
from terramorph.evaluation.files import Spool, write_csv, write_json, write_text
from terramorph.evaluation.look import Look, look_at
from terramorph.evaluation.pictures import View
from terramorph.evaluation.report import Example, pick_examples, render_report
from terramorph.evaluation.samples import Sample, Samples, as_bytes
from terramorph.evaluation.scoring import Instruments, Tally
from terramorph.evaluation.verdicts import against_floor
from terramorph.metrics import Metric, with_own
from terramorph.models import require_own
from terramorph.pairs import GivenPairs, as_folder, open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, default_bands, write_image
from terramorph.translate import Model, load

Progress = Callable[[int, int], None]
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
    with as_folder(data, split) as pairs:
        samples = Samples(open_pairs(pairs, split, skip_bad=skip_bad), header, skip_bad)
        total = len(samples.pairs) if limit is None else min(limit, len(samples.pairs))
        work = _Work(model, samples, look_at(samples, pairs, total, style, discuss > 0), known, weights, discuss)
        if folder is None:
            work.through(total, progress)
            return work.document(name, started) | work.columns()
        with Spool(folder, (header.target.count, header.size, header.size)) as spool:
            work.through(total, progress, spool, folder / "predictions" if save_predictions else None)
            document = work.document(name, started)
            _write(folder, work, document, spool)
        return document | work.columns()


def own_bundle(path: str | Path, allowed: Collection[str] = ()) -> Bundle:
    """A bundle that scores can be recorded in.

    Args:
        path: Where it is.
        allowed: As `load_bundle`.

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
    """Write scores into a bundle's own file, where `terramorph info` shows them.

    Args:
        bundle: From `own_bundle`.
        split: That was scored.
        scores: By key of metric.

    Raises:
        StorageError: The file cannot be written.
    """
    assert bundle.path is not None
    header = bundle.header.model_copy(update={"scores": {f"{split} {key}": value for key, value in scores.items()}})
    replace(bundle, header=header).save(bundle.path)


class _Work:
    """Counts of an evaluation, batch by batch."""

    def __init__(
        self,
        model: Model,
        samples: Samples,
        look: Look,
        metrics: Mapping[str, Metric],
        weights: str | Path | None,
        draws: int,
    ) -> None:
        header = model.header
        self.model, self.samples, self.look, self.metrics = model, samples, look, metrics
        self.device = model.device if model.device.type == "cuda" else torch.device("cpu")
        self.instruments = Instruments.open(
            weights, look.classes, bands=header.target.count, size=header.size, device=self.device
        )
        self.evidence: Evidence | None = look.evidence(header.size, draws) if draws else None
        self.drawing = 0.0  # seconds for the draws after the first
        self.ids: list[str] = []
        self.places: list[int] = []
        self.own, self.constant = Tally(self.instruments, metrics), Tally(self.instruments, metrics)
        colour = torch.tensor(look.floor.colour, dtype=torch.uint8, device=self.device).view(1, -1, 1, 1)
        self.plain = colour.expand(1, -1, header.size, header.size).contiguous()
        self.plain_view = self.instruments.view(self.plain)

    def through(
        self, total: int, progress: Progress | None, spool: Spool | None = None, keep: Path | None = None
    ) -> None:
        """Score so many pairs.

        Args:
            total: Of the first ones.
            progress: Told after each batch.
            spool: Where predictions are put aside.
            keep: Folder for predictions as images.

        Raises:
            DatasetError: A pair cannot be used and is not to be skipped, or none can.
        """
        step = self.model.batch_size
        for first in range(0, total, step):
            self._batch(range(first, min(first + step, total)), spool, keep)
            if progress is not None:
                progress(min(first + step, total), total)
        if not self.ids:
            raise DatasetError(
                f"No pair of the split {self.samples.pairs.split} can be scored; mend them or choose another split. "
                f"The first: {self.samples.skipped[0]}"
            )

    def _batch(self, places: range, spool: Spool | None, keep: Path | None) -> None:
        """Translate some pairs and count them in."""
        found = [(place, self.samples.usable(place)) for place in places]
        samples = [sample for _, sample in found if sample is not None]
        if not samples:
            return
        self.places.extend(place for place, sample in found if sample is not None)
        self.ids.extend(sample.id for sample in samples)
        header = self.samples.header
        stored = torch.from_numpy(np.stack([sample.source for sample in samples]))
        masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))[:, None]
        # Under the mask the network sees what it saw there in training: the middle of the range.
        source = header.source.scaling.to_unit(stored) * masks
        unit = self.model.translate_batch(source).float().cpu()
        prediction = BYTE.from_unit(unit).to(self.device)
        truth = torch.from_numpy(np.stack([sample.truth for sample in samples])).to(self.device)
        mask = None if bool(masks.all()) else masks.to(self.device)
        seen = self.instruments.view(truth)
        self.own.add(self.instruments.view(prediction, truth, mask), seen, mask)
        self.constant.add(self.instruments.view_constant(self.plain_view, self.plain, truth, mask), seen, mask)
        if spool is not None:
            spool.append(prediction.cpu().numpy())
        if self.evidence is not None:
            self._discuss(self.evidence, samples, source, prediction.cpu())
        if keep is not None:
            _save(keep, samples, unit, header.target)

    def _discuss(self, evidence: Evidence, samples: list[Sample], source: Tensor, prediction: Tensor) -> None:
        """Draw the other samples, and count all in."""
        started = time.monotonic()
        others = [
            BYTE.from_unit(self.model.translate_batch(source, sample=number).float().cpu())
            for number in range(1, evidence.draws)
        ]
        self.drawing += time.monotonic() - started
        draws = torch.stack([prediction, *others], dim=1).numpy()
        for sample, drawn in zip(samples, draws, strict=True):
            stored = as_bytes(sample.source, self.samples.header.source.scaling)
            evidence.add(stored, sample.truth, drawn, sample.mask)

    def view(self, row: int, spool: Spool) -> View:
        """A pair that was scored, read again, with its prediction."""
        sample, palette = self.samples.read(self.places[row]), self.look.classes.palette
        source = as_bytes(sample.source, self.samples.header.source.scaling)
        return View(sample.id, source, sample.truth, spool.read(row), sample.mask, palette)

    def columns(self) -> dict[str, Any]:
        """The ids of the pairs, and what each of them scored."""
        return {"per_image": {"id": self.ids, **self.own.per_image}}

    def document(self, data: str, started: float) -> dict[str, Any]:
        """Scores and `FACTS` as plain data.

        Args:
            data: What the pairs are called: their folder.
            started: By the monotonic clock.
        """
        own, pairs, floor = self.own, self.samples.pairs, self.look.floor
        scores, reasons = own.scores()
        counts = own.confusion()
        names = list(self.instruments.palette)
        return {
            "n": len(self.ids),
            **scores,
            "floor": {"n": len(self.ids), **self.constant.scores()[0]},
            "against_floor": against_floor(own, self.constant),
            "spread": {key: _spread(values) for key, values in own.per_image.items() if scores[key] is not None},
            "reasons": reasons,
            "class_iou": own.iou(),
            "confusion": None if counts is None else {"classes": names, "rows_are_truth": counts.tolist()},
            "palette": palette_facts(self.look.classes),
            "floor_colour": {"value": list(floor.colour), "why": floor.why},
            "protocol": protocol_facts(self.samples, self.ids, self.model),
            "bundle": bundle_facts(self.model),
            "dataset": {
                "path": data,
                "split": pairs.split,
                "pairs": len(pairs),
                "skipped": [*pairs.skipped, *self.samples.skipped],
            },
            "seconds": round(time.monotonic() - started, 1),
        }


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


def _spread(values: list[float]) -> list[float]:
    """The 10, 50 and 90 percentiles."""
    return [float(value) for value in np.nanpercentile(values, (10, 50, 90))]


def _write(folder: Path, work: _Work, document: Mapping[str, Any], spool: Spool) -> None:
    """Everything but the predictions."""
    model, dataset, per_image = work.model, document["dataset"], work.own.per_image
    write_csv(folder / "per_image.csv", work.ids, per_image)
    write_text(folder / "report.html", render_report(document, _examples(work, spool), work.metrics))
    write_json(folder / "metrics.json", document)
    if work.evidence is None:
        return
    about = {
        "n": len(work.ids),
        "network": model.header.architecture.name,
        "direction": model.header.direction,
        "dataset": dataset["path"],
        "split": dataset["split"],
        "evaluated_by": __version__,
        "evaluation_seconds": round(document["seconds"] - work.drawing - work.evidence.seconds, 2),
        "drawing_seconds": round(work.drawing, 2),
        "mode": model.mode,
        "ground_resolution": model.header.ground_resolution,
        "seed": model.seed,
    }
    how: dict[str, Any] = {"noisy": model.backend.noisy, "shares": work.look.shares}
    write_discussion(folder, work.evidence, per_image, lambda row: work.view(row, spool), about, **how)


def _examples(work: _Work, spool: Spool) -> list[Example]:
    """The best, median and worst pairs."""
    columns = work.own.per_image
    by = leading(columns)
    errors = [-value for value in columns[by.key]] if by.higher_is_better else columns[by.key]
    examples = []
    for group, row in pick_examples(errors):
        values = {name: column[row] for name, column in columns.items() if not math.isnan(column[row])}
        examples.append(Example(group, by.key, work.view(row, spool), values))
    return examples


def _save(folder: Path, samples: list[Sample], unit: Tensor, target: Bands) -> None:
    suffix = ".png" if target.dtype == "uint8" and target.count in (1, 3) else ".tif"
    names = target.names if len(target.names) == target.count else default_bands(target.count)
    for sample, image in zip(samples, target.scaling.from_unit(unit).numpy(), strict=True):
        path = folder / f"{sample.id}{suffix}"
        make_folder(path.parent)
        write_image(Raster.from_pixels(image, bands=names), path)
