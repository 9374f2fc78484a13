"""Evaluate a bundle on held-out pairs by protocol maps-256 (docs/protocols.md): numbers, pictures, one
page."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from terramorph._version import __version__
from terramorph.bundle import Bands, Bundle, Mode, load_bundle
from terramorph.errors import ConfigError, DatasetError, InputError, StorageError
from terramorph.evaluation.classes import Classes, find_classes
from terramorph.evaluation.discuss import Evidence, MapSide, Setting, leading, pairs_again, write_discussion
from terramorph.evaluation.facts import bundle_facts, palette_facts, protocol_facts
from terramorph.evaluation.files import Spool, write_csv, write_json, write_text
from terramorph.evaluation.floor import Floor, Image, Read, choose_floor, sampled
from terramorph.evaluation.report import Example, pick_examples, render_report
from terramorph.evaluation.samples import Sample, Samples, as_bytes
from terramorph.evaluation.scoring import Instruments, Tally
from terramorph.evaluation.verdicts import against_floor
from terramorph.metrics import METRICS
from terramorph.models import require_own
from terramorph.pairs import has_split, load_manifest, open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, default_bands, write_image
from terramorph.translate import Model, load

Progress = Callable[[int, int], None]


def evaluate(
    bundle: Bundle | str | Path,
    dataset: str | Path,
    *,
    split: str = "val",
    out: str | Path,
    weights: str | Path | None = None,
    style: str | None = None,
    mode: Mode | None = None,
    save_predictions: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    skip_bad: bool = False,
    record: bool = False,
    discuss: bool = False,
    samples: int = 1,
) -> dict[str, Any]:
    """Translate the source side of a split and compare with the truth, by protocol maps-256.

    Both sides are resized to the bundle's training size by PIL's bicubic filter in their stored dtype; for
    a bundle that was trained on crops at the scale of the files (``data.load_size = 0``) the centre of that
    size is cut out instead, and only smaller pairs are resized (``protocol`` says what was done). Predictions
    and truths are compared as uint8 (a target of another dtype is brought to 0..255 by the bundle's scaling).
    Beside every score stands the floor: what one constant colour reaches (see `terramorph.evaluation.floor`).

    In ``paper`` mode (batch statistics and dropout) images go through one at a time, and the noise comes
    from the seed.

    Written to ``out``, each file whole or not at all: ``metrics.json`` (what is returned), ``per_image.csv``,
    ``report.html`` (one self-contained page) and, if asked for, ``predictions/ID.png`` (``.tif`` where the
    target is not 1 or 3 bands of uint8). With ``discuss``, ``discussion.html`` and ``discussion.json`` say what the
    model gets right and wrong (see `terramorph.evaluation.discuss`). Memory does not grow with the set, but for a few
    numbers an image.

    Args:
        bundle: A bundle, or where one is, or an exported .onnx file, which has the mode it was exported in.
        dataset: A folder of pairs, as `terramorph.data.open_pairs` takes.
        split: Which split to evaluate.
        out: A folder, made if missing.
        style: In which the map side is drawn, a name or a .toml file, for its classes. Default: the data set's own, the
            classic one, or the flat colours of the training targets, whichever fits (see `find_classes`).
        weights: A folder with the SqueezeNet and LPIPS weights (and the Inception weights, for FID).
        mode: ``paper`` or ``raster``; default: the bundle's own.
        save_predictions: Keep every prediction as an image.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``, of the translation; the metrics do not depend on it.
        progress: Called with (pairs done, pairs in all).
        limit: Only the first so many pairs.
        batch_size: Images at once in ``raster`` mode.
        seed: Of the noise in ``paper`` mode.
        skip_bad: Leave out pairs that cannot be read and list them, instead of stopping.
        record: Write the scores into the bundle's own file, where `terramorph info` shows them.
        discuss: Explain the scores by what the images hold.
        samples: Draws of each image in ``paper`` mode, whose disagreement is discussed; the first is the one scored.

    Returns:
        What ``metrics.json`` holds: n, psnr, ssim, lpips, acc5, acc10, rmse, class_accuracy, miou, fd, kd,
        fid; ``floor`` with the same keys; ``against_floor`` with intervals and verdicts; ``reasons`` with a sentence
        for each value that is ``None``; class_iou, confusion, palette, floor_colour, and facts of protocol, bundle and
        dataset.

    Raises:
        BundleError: The bundle or exported network cannot be read.
        ConfigError: The mode, device, precision or style is unknown or not there; scores are to be recorded in an
            exported network; or there are to be several samples where they would be equal or nothing is discussed.
        DatasetError: A pair cannot be read or does not fit the bundle, or none is left.
        InputError: A weights file is missing or damaged, or an argument is out of range.
        StorageError: The results cannot be written.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(f"batch_size is {batch_size} and limit is {limit}; both must be 1 or more.")
    if samples > 1 and not discuss:
        raise ConfigError(
            f"{samples} samples are drawn for the discussion of where they disagree; ask for it with --discuss."
        )
    started = time.monotonic()
    translator, model = _opened(bundle, mode, device, precision, seed)
    if record and model is None:
        raise ConfigError(f"{bundle} is an exported network and cannot hold scores; leave out --record.")
    if record and model is not None and model.path is not None:
        require_own(model.path)
    translator.check_samples(samples)
    header = translator.header
    folder = _made(Path(out))
    pairs = Samples(open_pairs(dataset, split, skip_bad=skip_bad), header, skip_bad)
    total = len(pairs.pairs) if limit is None else min(limit, len(pairs.pairs))
    judge = translator.device if translator.device.type == "cuda" else torch.device("cpu")
    seen, count, where = _looked_at(pairs, dataset, total)
    targets = sampled(_side_of(seen, "truth"), count)
    manifest = load_manifest(dataset)
    declared = None if manifest is None else str(manifest.settings.get("style", "classic"))
    classes = find_classes(targets, declared, style)
    floor = choose_floor(targets, f"{len(targets)} {where}", classes.palette)
    instruments = Instruments.open(weights, classes, bands=header.target.count, size=header.size, device=judge)
    evidence: Evidence | None = None
    shares: tuple[float | None, float | None] = (classes.share, None)
    if discuss:
        of_source = None
        if classes.palette is None:
            of_source = find_classes(sampled(_side_of(seen, "source"), count), declared, style)
            shares = (classes.share, of_source.share)
        evidence = _evidence(header.size, classes, of_source, samples)
    work = _Work(pairs, translator, judge, instruments, floor, classes, evidence)
    with Spool(folder, (header.target.count, header.size, header.size)) as spool:
        step = 1 if translator.mode == "paper" else batch_size
        for first in range(0, total, step):
            work.batch(
                range(first, min(first + step, total)),
                spool,
                folder / "predictions" if save_predictions else None,
            )
            if progress is not None:
                progress(min(first + step, total), total)
        if not work.ids:
            raise DatasetError(
                f"No pair of {split} in {dataset} can be scored; mend them or choose another --split. The first: "
                f"{pairs.skipped[0]}"
            )
        examples = _examples(work, spool)
        document = work.document() | {
            "protocol": protocol_facts(pairs, work.ids, translator, seed),
            "bundle": bundle_facts(header, model.path if model else Path(str(bundle)), translator.mode),
            "dataset": {
                "path": str(dataset),
                "split": split,
                "pairs": len(pairs.pairs),
                "skipped": [*pairs.pairs.skipped, *pairs.skipped],
            },
            "seconds": round(time.monotonic() - started, 1),
        }
        write_csv(folder / "per_image.csv", work.ids, work.own.per_image)
        write_text(folder / "report.html", render_report(document, examples))
        write_json(folder / "metrics.json", document)
        if record and model is not None and model.path is not None:
            scores = {key: document[key] for key in METRICS}
            header = header.model_copy(update={"scores": {f"{split} {key}": value for key, value in scores.items()}})
            replace(model, header=header).save(model.path)
        if evidence is not None:
            write_discussion(
                folder, evidence, work.own.per_image, pairs_again(pairs, work.places, spool, evidence),
                Setting(translator.mode, translator.backend.noisy, shares, header.ground_resolution, seed),
                work.facts(document["seconds"]) | {"dataset": str(dataset), "split": split},
            )  # fmt: skip
    return document


def _opened(
    bundle: Bundle | str | Path, mode: Mode | None, device: str, precision: str, seed: int
) -> tuple[Model, Bundle | None]:
    """The translator, and the bundle it was made from; an exported network has none."""
    if not isinstance(bundle, Bundle) and Path(bundle).suffix == ".onnx":
        return load(bundle, mode=mode, device=device, precision=precision, seed=seed), None
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    return Model(model, mode=mode, device=device, precision=precision, seed=seed), model


class _Work:
    """What is counted while the batches go through."""

    def __init__(
        self,
        samples: Samples,
        translator: Model,
        judge: torch.device,
        instruments: Instruments,
        floor: Floor,
        classes: Classes,
        evidence: Evidence | None,
    ) -> None:
        header = samples.header
        self.samples, self.translator, self.judge = samples, translator, judge
        self.instruments, self.floor, self.evidence = instruments, floor, evidence
        self.classes = classes
        self.drawing = 0.0  # seconds for the draws after the first
        self.ids: list[str] = []
        self.places: list[int] = []
        self.own, self.constant = Tally(instruments), Tally(instruments)
        colour = torch.tensor(floor.colour, dtype=torch.uint8, device=judge).view(1, -1, 1, 1)
        self.plain = colour.expand(1, -1, header.size, header.size).contiguous()
        self.plain_view = instruments.view(self.plain)

    def batch(self, places: range, spool: Spool, keep: Path | None) -> None:
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
        unit = self.translator.translate_batch(source).float().cpu()
        prediction = BYTE.from_unit(unit).to(self.judge)
        truth = torch.from_numpy(np.stack([sample.truth for sample in samples])).to(self.judge)
        mask = None if bool(masks.all()) else masks.to(self.judge)
        seen = self.instruments.view(truth)
        self.own.add(self.instruments.view(prediction, truth, mask), seen, mask)
        self.constant.add(self.instruments.view_constant(self.plain_view, self.plain, truth, mask), seen, mask)
        spool.append(prediction.cpu().numpy())
        if self.evidence is not None:
            self._discuss(self.evidence, samples, source, prediction.cpu())
        if keep is not None:
            _save(keep, samples, unit, header.target)

    def _discuss(self, evidence: Evidence, samples: list[Sample], source: Tensor, prediction: Tensor) -> None:
        """Draw the other samples, and count all in."""
        started = time.monotonic()
        others = [
            BYTE.from_unit(self.translator.translate_batch(source, sample=number).float().cpu())
            for number in range(1, evidence.draws)
        ]
        self.drawing += time.monotonic() - started
        draws = torch.stack([prediction, *others], dim=1).numpy()
        for sample, drawn in zip(samples, draws, strict=True):
            stored = as_bytes(sample.source, self.samples.header.source.scaling)
            evidence.add(stored, sample.truth, drawn, sample.mask)

    def facts(self, spent: float) -> dict[str, Any]:
        """What the head of a discussion says; ``spent``: seconds since the start."""
        others = self.drawing + (self.evidence.seconds if self.evidence is not None else 0.0)
        header = self.samples.header
        return {
            "n": len(self.ids),
            "network": header.architecture.name,
            "direction": header.direction,
            "evaluated_by": __version__,
            "evaluation_seconds": round(spent - others, 2),
            "drawing_seconds": round(self.drawing, 2),
        }

    def document(self) -> dict[str, Any]:
        """The scores as plain data."""
        own, floor = self.own, self.floor
        scores, reasons = own.scores()
        floor_scores, _ = self.constant.scores()
        counts = own.confusion()
        names = list(self.instruments.palette)
        return {
            "n": len(self.ids),
            **scores,
            "floor": {"n": len(self.ids), **floor_scores},
            "against_floor": against_floor(own, self.constant),
            "spread": {key: _spread(values) for key, values in own.per_image.items()},
            "reasons": reasons,
            "class_iou": own.iou(),
            "confusion": None if counts is None else {"classes": names, "rows_are_truth": counts.tolist()},
            "palette": palette_facts(self.classes),
            "floor_colour": {"value": list(floor.colour), "why": floor.why},
        }


def _looked_at(samples: Samples, dataset: str | Path, total: int) -> tuple[Samples, int, str]:
    """The pairs that floor and palette are measured on, how many, and what their targets are called.

    They are the training pairs, which a model could know, or where there are none those that are scored. What cannot be
    read is reported when its turn comes; here it is stepped over.
    """
    peek = samples.peek()
    if samples.pairs.split == "train":
        return peek, total, "training targets"
    if has_split(dataset, "train"):
        with suppress(DatasetError):
            training = Samples(open_pairs(dataset, "train", skip_bad=True), samples.header, skip_bad=True)
            return training, len(training.pairs), "training targets"
    return peek, total, "truths themselves (there is no training split)"


def _side_of(samples: Samples, side: MapSide) -> Read:
    def read(index: int) -> Image | None:
        sample = samples.usable(index)
        if sample is None:
            return None
        image = sample.truth if side == "truth" else as_bytes(sample.source, samples.header.source.scaling)
        return image, sample.mask

    return read


def _evidence(size: int, truth: Classes, source: Classes | None, samples: int) -> Evidence:
    """What a discussion gathers: by the seven classes of the side that shows them, if one does."""
    for side, classes in (("truth", truth), ("source", source)):
        if classes is not None and classes.palette is not None and classes.palette.named:
            return Evidence(size, cast(MapSide, side), classes.palette, samples)
    return Evidence(size, None, None, samples)


def _spread(values: list[float]) -> list[float]:
    """The 10, 50 and 90 percentiles."""
    return [float(value) for value in np.nanpercentile(values, (10, 50, 90))]


def _examples(work: _Work, spool: Spool) -> list[Example]:
    """The best, median and worst pairs with their pictures."""
    columns = work.own.per_image
    by = leading(columns)
    errors = [-value for value in columns[by.key]] if by.higher_is_better else columns[by.key]
    examples = []
    for group, row in pick_examples(errors):
        sample = work.samples.read(work.places[row])
        source = as_bytes(sample.source, work.samples.header.source.scaling)
        values = {name: column[row] for name, column in columns.items()}
        examples.append(Example(group, by.key, sample.id, source, spool.read(row), sample.truth, sample.mask, values))
    return examples


def _save(folder: Path, samples: list[Sample], unit: Tensor, target: Bands) -> None:
    suffix = ".png" if target.dtype == "uint8" and target.count in (1, 3) else ".tif"
    names = target.names if len(target.names) == target.count else default_bands(target.count)
    for sample, image in zip(samples, target.scaling.from_unit(unit).numpy(), strict=True):
        path = folder / f"{sample.id}{suffix}"
        _made(path.parent)
        write_image(Raster.from_pixels(image, bands=names), path)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be made ({error.strerror or error}); choose another --out or free some space."
        ) from error
    return folder
