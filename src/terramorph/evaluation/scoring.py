"""From images to the rows of protocol maps-256, for predictions and for the floor alike.

A `Tally` takes 8-bit images batch by batch and gives one set of scores at the end. What it keeps per image
is a few numbers and 512 features, so memory does not grow with the pixels of the set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from terramorph.cartography import Palette
from terramorph.errors import InputError
from terramorph.metrics import (
    Features,
    InceptionFid,
    Lpips,
    acc5,
    acc10,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frechet_distance,
    kernel_distance,
    mean_iou,
    psnr,
    rmse,
    ssim,
    why_no_fid,
)
from terramorph.pixels import BYTE

PER_IMAGE_KEYS = ("psnr", "ssim", "lpips", "acc5", "acc10", "rmse")
SET_KEYS = ("class_accuracy", "miou", "fd", "kd", "fid")
SCORE_KEYS = (*PER_IMAGE_KEYS, *SET_KEYS)
LOWER = ("lpips", "rmse", "fd", "kd", "fid")
"""Scores that are better when lower."""
_SMALLEST = 17  # pixels a side that SqueezeNet can look at


@dataclass
class Instruments:
    """What needs weights, and why it is missing where it is.

    Attributes:
        lpips: LPIPS and the features behind FD and KD, or ``None``.
        fid: FID, or ``None``; truths are counted in once for predictions and floor.
        reasons: Score key -> sentence, for every score that cannot be computed.
    """

    lpips: Lpips | None = None
    fid: InceptionFid | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, weights: str | Path | None, *, bands: int, size: int, device: torch.device) -> Instruments:
        """Load what the weights folder offers for images of so many bands and pixels.

        Args:
            weights: Folder with the SqueezeNet and LPIPS weights, and the Inception weights if there are any.
            bands: Bands of the target; deep features exist for 3, and for 1 shown as grey.
            size: Side of the compared images in pixels.
            device: Where the networks run.

        Raises:
            InputError: The folder was given and a SqueezeNet or LPIPS file is missing or damaged, or the Inception
                weights are there and damaged.
        """
        made = cls()
        deep = ("lpips", "fd", "kd")
        if bands not in (1, 3):
            reason = f"SqueezeNet and Inception look at 1 or 3 bands, and the target has {bands}."
            made.reasons |= dict.fromkeys((*deep, "fid"), reason)
            return made
        if size < _SMALLEST:
            reason = f"SqueezeNet needs images of {_SMALLEST} px or more, and these are {size} px."
            made.reasons |= dict.fromkeys(deep, reason)
        elif weights is None:
            reason = "No weights folder was given; with --weights DIR the SqueezeNet and LPIPS weights are used."
            made.reasons |= dict.fromkeys(deep, reason)
        else:
            made.lpips = Lpips.from_folder(weights).to(device)
        no_fid = why_no_fid(weights)
        if no_fid is not None:
            made.reasons["fid"] = no_fid
        elif weights is not None:
            made.fid = InceptionFid(weights, device)
        return made

    @torch.inference_mode()
    def look(self, images: Tensor) -> Features | None:
        """Deep features of uint8 ``(N, 1 or 3, H, W)``; ``None`` without weights."""
        return None if self.lpips is None else self.lpips.features(BYTE.to_unit(_colour(images)))


@dataclass
class Tally:
    """Scores of one set of predictions, gathered batch by batch.

    Attributes:
        instruments: Shared between tallies of the same truths.
        palette: Of the target's map classes; ``None`` where there are none.
        per_image: Score key -> one value per image, in the order of arrival.
        confusions: int64 ``(K, K)`` an image, rows truth, columns prediction.
    """

    instruments: Instruments
    palette: Palette | None = None
    per_image: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in PER_IMAGE_KEYS})
    confusions: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    truth_features: list[Tensor] = field(default_factory=list)

    @torch.inference_mode()
    def add(
        self,
        prediction: Tensor,
        truth: Tensor,
        mask: Tensor | None,
        truth_features: Features | None,
        features: Features | None = None,
        truth_classes: Tensor | None = None,
    ) -> None:
        """Count one batch in.

        Args:
            prediction: uint8 ``(N, C, H, W)``.
            truth: uint8 ``(N, C, H, W)``.
            mask: bool ``(N, 1, H, W)`` or ``None``. Deep features see the truth where the mask is False.
            truth_features: What `Instruments.look` says of the truth.
            features: The same of the prediction where already known (one image may stand for all).
            truth_classes: `classes_of` the truth, where there is a palette.
        """
        for key, metric in (("psnr", psnr), ("ssim", ssim), ("acc5", acc5), ("acc10", acc10), ("rmse", rmse)):
            self.per_image[key].extend(metric(prediction, truth, mask).tolist())
        if self.instruments.lpips is not None and truth_features is not None:
            if features is None or mask is not None:
                features = self.instruments.look(_shown(prediction, truth, mask))
            assert features is not None
            self.per_image["lpips"].extend(self.instruments.lpips.distance(features, truth_features).tolist())
            self.features.append(features.pooled.expand(len(truth), -1).cpu())
            self.truth_features.append(truth_features.pooled.cpu())
        if self.palette is not None and truth_classes is not None:
            valid = [None] * len(truth) if mask is None else list(mask[:, 0].cpu())
            drawn, count = classes_of(prediction, self.palette), len(self.palette.classes)
            for one, other, where in zip(truth_classes, drawn, valid, strict=True):
                self.confusions.append(confusion_matrix(one, other, count, where))

    def add_fid(self, prediction: Tensor, truth: Tensor, mask: Tensor | None) -> None:
        """Count one batch into FID, truths and predictions."""
        if self.instruments.fid is not None:
            self.instruments.fid.add(_colour(truth), real=True)
            self.instruments.fid.add(_colour(_shown(prediction, truth, mask)), real=False)

    def scores(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """The means over images and the figures of the set, and why the missing ones are missing.

        Returns:
            Score key -> value or ``None`` (all of `SCORE_KEYS`), and score key -> sentence for each ``None``.
        """
        reasons = dict(self.instruments.reasons)
        found: dict[str, float | None] = dict.fromkeys(SCORE_KEYS)
        for key in PER_IMAGE_KEYS:
            values = self.per_image[key]
            if values:
                found[key] = math.fsum(values) / len(values)
        confusion = self.confusion()
        if confusion is not None and int(confusion.sum()):
            found["class_accuracy"] = class_accuracy(confusion)
            found["miou"] = mean_iou(confusion)
        if self.features:
            own, real = torch.cat(self.features), torch.cat(self.truth_features)
            if len(real) >= 2:
                found["fd"] = frechet_distance(own, real)
                found["kd"] = kernel_distance(own, real)
            else:
                sentence = "A distance between sets needs two images or more, and there is one."
                reasons |= {"fd": sentence, "kd": sentence}
        if self.instruments.fid is not None:
            try:
                found["fid"] = self.instruments.fid.value()
            except InputError as error:
                reasons["fid"] = str(error)
        return found, {key: text for key, text in reasons.items() if found[key] is None}

    def confusion(self) -> Tensor | None:
        """int64 ``(K, K)`` over the set, rows truth, columns prediction; ``None`` without classes."""
        if self.palette is None:
            return None
        count = len(self.palette.classes)
        return sum(self.confusions, torch.zeros(count, count, dtype=torch.int64))

    def iou(self) -> dict[str, float | None] | None:
        """IoU of each class; ``None`` for a class that does not occur, and altogether without classes."""
        confusion = self.confusion()
        if self.palette is None or confusion is None:
            return None
        values = class_iou(confusion, self.palette.names)
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def classes_of(images: Tensor, palette: Palette) -> Tensor:
    """Map class of every pixel: uint8 ``(N, 3, H, W)`` -> int64 ``(N, H, W)`` on the CPU."""
    return torch.stack([torch.from_numpy(palette.classify(image)).long() for image in images.cpu().numpy()])


def _shown(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    return prediction if mask is None else torch.where(mask, prediction, truth)


def _colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
