"""Evaluate a bundle on held-out pairs by protocol maps-256 (docs/protocols.md): numbers, pictures, one
page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph._version import __version__
from terramorph.bundle import Bands, Bundle, Mode, load_bundle
from terramorph.cartography import CLASSES
from terramorph.errors import BundleError, DatasetError, InputError, StorageError
from terramorph.evaluation.files import Spool, write_csv, write_json, write_text
from terramorph.evaluation.floor import MAP_SHARE, MAP_TOLERANCE, Floor, ReadTarget, choose_floor
from terramorph.evaluation.report import Example, pick_examples, render_report
from terramorph.evaluation.samples import Sample, Samples, as_bytes
from terramorph.evaluation.scoring import SCORE_KEYS, Instruments, Tally, classes_of
from terramorph.pairs import has_split, open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, default_bands, write_image
from terramorph.translate import Translator

Progress = Callable[[int, int], None]


def evaluate(
    bundle: Bundle | str | Path,
    dataset: str | Path,
    *,
    split: str = "val",
    out: str | Path,
    weights: str | Path | None = None,
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
    target is not 1 or 3 bands of uint8). Memory does not grow with the set.

    Args:
        bundle: A bundle, or where one is.
        dataset: A folder of pairs, as `terramorph.data.open_pairs` takes.
        split: Which split to evaluate.
        out: A folder, made if missing.
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

    Returns:
        What ``metrics.json`` holds: n, psnr, ssim, lpips, acc5, acc10, rmse, class_accuracy, miou, fd, kd,
        fid; ``floor`` with the same keys; ``reasons`` with a sentence for each value that is ``None``;
        class_iou, confusion, floor_colour, protocol, bundle and dataset facts.

    Raises:
        BundleError: The bundle cannot be read, or is an exported .onnx file.
        ConfigError: The mode, device or precision is unknown or not there.
        DatasetError: A pair cannot be read or does not fit the bundle, or none is left.
        InputError: A weights file is missing or damaged, or an argument is out of range.
        StorageError: The results cannot be written.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(f"batch_size is {batch_size} and limit is {limit}; both must be 1 or more.")
    started = time.monotonic()
    if not isinstance(bundle, Bundle) and Path(bundle).suffix.lower() == ".onnx":
        raise BundleError(
            f"{bundle} is an exported network and evaluate takes bundles; give the .safetensors file it was made from."
        )
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    header = model.header
    chosen: Mode = mode or header.mode
    folder = _made(Path(out))
    samples = Samples(open_pairs(dataset, split, skip_bad=skip_bad), header, skip_bad)
    total = len(samples.pairs) if limit is None else min(limit, len(samples.pairs))
    translator = Translator(model, mode=chosen, device=device, precision=precision, seed=seed)
    judge = translator.device if translator.device.type == "cuda" else torch.device("cpu")
    floor = _floor(samples, dataset, total)
    instruments = Instruments.open(weights, bands=header.target.count, size=header.size, device=judge)
    work = _Work(samples, translator, judge, instruments, floor)
    with Spool(folder, (header.target.count, header.size, header.size)) as spool:
        step = 1 if chosen == "paper" else batch_size
        for first in range(0, total, step):
            work.batch(
                range(first, min(first + step, total)),
                spool,
                folder / "predictions" if save_predictions else None,
            )
            if progress is not None:
                progress(min(first + step, total), total)
        if not work.ids:
            raise DatasetError(f"No pair of {split} in {dataset} can be scored: {samples.skipped[0]}")
        examples = _examples(work, spool)
    document = work.document() | {
        "protocol": _protocol(samples, work.ids, translator, seed),
        "bundle": _bundle_facts(model, chosen),
        "dataset": {
            "path": str(dataset),
            "split": split,
            "pairs": len(samples.pairs),
            "skipped": [*samples.pairs.skipped, *samples.skipped],
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    write_csv(folder / "per_image.csv", work.ids, work.own.per_image)
    write_text(folder / "report.html", render_report(document, examples))
    write_json(folder / "metrics.json", document)
    if record and model.path is not None:
        scores = {key: document[key] for key in SCORE_KEYS if key in document}
        header = header.model_copy(update={"scores": {f"{split} {key}": value for key, value in scores.items()}})
        replace(model, header=header).save(model.path)
    return document


class _Work:
    """What is counted while the batches go through."""

    def __init__(
        self,
        samples: Samples,
        translator: Translator,
        judge: torch.device,
        instruments: Instruments,
        floor: Floor,
    ) -> None:
        header = samples.header
        self.samples, self.translator, self.judge = samples, translator, judge
        self.instruments, self.floor = instruments, floor
        self.ids: list[str] = []
        self.places: list[int] = []
        self.own, self.constant = Tally(instruments, floor.is_map), Tally(instruments, floor.is_map)
        colour = torch.tensor(floor.colour, dtype=torch.uint8, device=judge).view(1, -1, 1, 1)
        self.plain = colour.expand(1, -1, header.size, header.size).contiguous()
        self.plain_features = instruments.look(self.plain)

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
        seen = self.instruments.look(truth)
        classes = classes_of(truth) if self.floor.is_map else None
        self.own.add(prediction, truth, mask, seen, truth_classes=classes)
        self.own.add_fid(prediction, truth, mask)
        self.constant.add(self.plain.expand_as(truth), truth, mask, seen, self.plain_features, classes)
        spool.append(prediction.cpu().numpy())
        if keep is not None:
            _save(keep, samples, unit, header.target)

    def document(self) -> dict[str, Any]:
        """The scores as plain data."""
        own, floor = self.own, self.floor
        scores, reasons = own.scores()
        if self.instruments.fid is not None:
            self.instruments.fid.forget_predictions()
            # Two copies of one image have the mean and covariance of any number of copies.
            self.instruments.fid.add(self.plain.expand(2, 3, -1, -1), real=False)
        floor_scores, _ = self.constant.scores()
        if not floor.is_map:
            reasons |= dict.fromkeys(("class_accuracy", "miou"), _why_no_classes(floor))
        confusion = {"classes": list(CLASSES), "rows_are_truth": own.confusion.tolist()} if floor.is_map else None
        return {
            "n": len(self.ids),
            **scores,
            "floor": {"n": len(self.ids), **floor_scores},
            "spread": {key: _spread(values) for key, values in own.per_image.items() if values},
            "reasons": reasons,
            "class_iou": own.iou(),
            "confusion": confusion,
            "floor_colour": {"value": list(floor.colour), "why": floor.why, "map_share": floor.map_share},
        }


def _floor(samples: Samples, dataset: str | Path, total: int) -> Floor:
    """The floor's colour. What cannot be read is reported when its turn comes; here it is stepped over."""
    peek = samples.peek()
    if samples.pairs.split == "train" or not has_split(dataset, "train"):
        return choose_floor(_target_of(peek), total)
    try:
        training = Samples(open_pairs(dataset, "train", skip_bad=True), samples.header, skip_bad=True)
    except DatasetError:
        return choose_floor(_target_of(peek), total)
    return choose_floor(_target_of(peek), total, _target_of(training), len(training.pairs))


def _target_of(samples: Samples) -> ReadTarget:
    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        sample = samples.usable(index)
        return None if sample is None else (sample.truth, sample.mask)

    return read


def _why_no_classes(floor: Floor) -> str:
    if floor.map_share is None:
        return "Map classes are colours, and the target does not have three bands."
    return (
        f"The target does not look like a map of the palette: {floor.map_share:.0%} of its pixels lie within "
        f"{MAP_TOLERANCE} grey levels of a palette colour, and {MAP_SHARE:.0%} would have to."
    )


def _spread(values: list[float]) -> list[float]:
    """The 10, 50 and 90 percentiles."""
    return [float(value) for value in np.percentile(values, (10, 50, 90))]


def _examples(work: _Work, spool: Spool) -> list[Example]:
    """The best, median and worst pairs with their pictures."""
    columns = {key: values for key, values in work.own.per_image.items() if values}
    key = "lpips" if "lpips" in columns else "rmse"
    examples = []
    for group, row in pick_examples(columns[key]):
        sample = work.samples.read(work.places[row])
        source = as_bytes(sample.source, work.samples.header.source.scaling)
        values = {name: column[row] for name, column in columns.items()}
        examples.append(Example(group, key, sample.id, source, spool.read(row), sample.truth, sample.mask, values))
    return examples


def _save(folder: Path, samples: list[Sample], unit: Tensor, target: Bands) -> None:
    _made(folder)
    suffix = ".png" if target.dtype == "uint8" and target.count in (1, 3) else ".tif"
    names = target.names if len(target.names) == target.count else default_bands(target.count)
    for sample, image in zip(samples, target.scaling.from_unit(unit).numpy(), strict=True):
        write_image(Raster.from_pixels(image, bands=names), folder / f"{sample.id}{suffix}")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error.strerror or error}.") from error
    return folder


def _protocol(samples: Samples, ids: list[str], translator: Translator, seed: int) -> dict[str, Any]:
    size = samples.header.size
    name, resize = "maps-256" if size == 256 else f"maps-256 at {size} px", "PIL bicubic, stored dtype"
    if samples.native:
        name = f"maps-256 at {size} px and the scale of the files"
        enlarged = len(samples.enlarged.intersection(ids))
        resize = f"none, the centre of {size} px is cut out" + (
            f"; {enlarged} of {len(ids)} pairs with a side under that: {resize}" if enlarged else ""
        )
    return {
        "name": name,
        "size": size,
        "resize": resize,
        "compared_as": "uint8",
        "features": "SqueezeNet 1.1, globally pooled, 512-d (FD is not FID)",
        "psnr_cap": 100.0,
        "mode": translator.mode,
        "precision": str(getattr(translator.backend, "dtype", torch.float32)).removeprefix("torch."),
        "batch_size_one": translator.mode == "paper",
        "seed": seed if translator.mode == "paper" else None,
    }


def _bundle_facts(bundle: Bundle, mode: Mode) -> dict[str, Any]:
    header = bundle.header
    return {
        "path": None if bundle.path is None else str(bundle.path),
        "network": header.architecture.name,
        "direction": header.direction,
        "source": f"{header.source.count} x {header.source.dtype} ({', '.join(header.source.names)})",
        "target": f"{header.target.count} x {header.target.dtype} ({', '.join(header.target.names)})",
        "size": header.size,
        "mode": mode,
        "recalibrated": header.recalibrated,
        "ground_resolution": header.ground_resolution,
        "made_by": header.made_by,
        "evaluated_by": __version__,
    }
