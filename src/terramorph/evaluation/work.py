"""Translation and scoring of pairs, batch by batch, after a look at what they hold; the results as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from terramorph._version import __version__
from terramorph.atomic import make_folder
from terramorph.bundle import Bands
from terramorph.errors import DatasetError
from terramorph.evaluation.classes import Classes, Floor, Image, choose_floor, find_classes, sampled
from terramorph.evaluation.discuss import Evidence, MapSide
from terramorph.evaluation.files import Spool
from terramorph.evaluation.pictures import View
from terramorph.evaluation.samples import Sample, Samples, as_bytes
from terramorph.evaluation.scoring import Instruments, Tally, against_floor
from terramorph.metrics import PSNR_CAP, Metric
from terramorph.pairs import has_split, load_manifest, open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, write_image
from terramorph.translate import Model

Progress = Callable[[int, int], None]


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


class Work:
    """State of an evaluation: the pairs done, and their tallies."""

    def __init__(
        self, model: Model, samples: Samples, look: Look, metrics: Mapping[str, Metric], weights: str | Path | None
    ) -> None:
        header = model.header
        self.model, self.samples, self.look, self.metrics = model, samples, look, metrics
        self.device = model.device if model.device.type == "cuda" else torch.device("cpu")
        self.instruments = Instruments.open(
            weights, look.classes, bands=header.target.count, size=header.size, device=self.device
        )
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
        """Translate and score the first ``total`` pairs."""
        step = self.model.batch_size
        for first in range(0, total, step):
            self._batch(range(first, min(first + step, total)), spool, keep)
            if progress is not None:
                progress(min(first + step, total), total)
        if not self.ids:
            raise DatasetError(
                f"No pair of the split {self.samples.pairs.split} can be scored; repair them or choose another split. "
                f"The first: {self.samples.skipped[0]}"
            )

    def _batch(self, places: range, spool: Spool | None, keep: Path | None) -> None:
        """Translate and score some pairs."""
        found = [(place, self.samples.usable(place)) for place in places]
        samples = [sample for _, sample in found if sample is not None]
        if not samples:
            return
        self.places.extend(place for place, sample in found if sample is not None)
        self.ids.extend(sample.id for sample in samples)
        header = self.samples.header
        stored = torch.from_numpy(np.stack([sample.source for sample in samples]))
        masks = torch.from_numpy(np.stack([sample.mask for sample in samples]))[:, None]
        # Masked pixels hold what they held in training: the middle of the range.
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
        if self.look.evidence is not None:
            self._discuss(self.look.evidence, samples, source, prediction.cpu())
        if keep is not None:
            _save(keep, samples, unit, header.target)

    def _discuss(self, evidence: Evidence, samples: list[Sample], source: Tensor, prediction: Tensor) -> None:
        """Draw the other samples, and add all to the evidence."""
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
        """Read a scored pair and its prediction again."""
        sample, palette = self.samples.read(self.places[row]), self.look.classes.palette
        source = as_bytes(sample.source, self.samples.header.source.scaling)
        return View(sample.id, source, sample.truth, spool.read(row), sample.mask, palette)

    def document(self, data: str, started: float) -> dict[str, Any]:
        """Return scores and `FACTS` as plain data."""
        own, pairs, floor = self.own, self.samples.pairs, self.look.floor
        scores, reasons = own.scores()
        counts, palette = own.confusion(), self.look.classes.palette
        return {
            "n": len(self.ids),
            **scores,
            "floor": {"n": len(self.ids), **self.constant.scores()[0]},
            "against_floor": against_floor(own, self.constant),
            "spread": {
                key: np.nanpercentile(values, (10, 50, 90)).tolist()
                for key, values in own.per_image.items()
                if scores[key] is not None
            },
            "reasons": reasons,
            "class_iou": own.iou(),
            "confusion": None
            if counts is None
            else {"classes": list(self.instruments.palette), "rows_are_truth": counts.tolist()},
            "palette": {
                "name": None if palette is None else palette.name,
                "share": self.look.classes.share,
                "why": self.look.classes.why,
                "classes": [{"name": one.name, "rgb": list(one.rgb)} for one in palette.classes] if palette else [],
            },
            "floor_colour": {"value": list(floor.colour), "why": floor.why},
            "protocol": _protocol(self.samples, self.ids, self.model),
            "bundle": _bundle(self.model),
            "dataset": {
                "path": data,
                "split": pairs.split,
                "pairs": len(pairs),
                "skipped": [*pairs.skipped, *self.samples.skipped],
            },
            "seconds": round(time.monotonic() - started, 1),
        }


def _protocol(samples: Samples, ids: list[str], model: Model) -> dict[str, Any]:
    """Describe the protocol of an evaluation of the pairs ``ids``."""
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
        "psnr_cap": PSNR_CAP,
        "mode": model.mode,
        "precision": str(getattr(model.backend, "dtype", torch.float32)).removeprefix("torch."),
        "ensemble": model.ensemble,
        "batch_size_one": model.mode == "paper",
        "seed": model.seed if model.mode == "paper" else None,
    }


def _bundle(model: Model) -> dict[str, Any]:
    """Describe the bundle; its path is ``None`` for one in memory."""
    header = model.header
    return {
        "path": None if model.path is None else str(model.path),
        "network": header.architecture.name,
        "direction": header.direction,
        "source": f"{header.source.count} x {header.source.dtype} ({', '.join(header.source.names)})",
        "target": f"{header.target.count} x {header.target.dtype} ({', '.join(header.target.names)})",
        "size": header.size,
        "mode": model.mode,
        "recalibrated": header.recalibrated,
        "ground_resolution": header.ground_resolution,
        "made_by": header.made_by,
        "note": header.note,
        "evaluated_by": __version__,
    }


def _save(folder: Path, samples: list[Sample], unit: Tensor, target: Bands) -> None:
    suffix = ".png" if target.dtype == "uint8" and target.count in (1, 3) else ".tif"
    for sample, image in zip(samples, target.scaling.from_unit(unit).numpy(), strict=True):
        path = folder / f"{sample.id}{suffix}"
        make_folder(path.parent)
        write_image(Raster.from_pixels(image, bands=target.names), path)
