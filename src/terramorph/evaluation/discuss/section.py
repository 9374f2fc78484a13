"""What a discussion is made of: subjects with their facts, tables, charts and pictures, and tests that are corrected
together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.pictures import error_map, viewable
from terramorph.evaluation.statistics import ALPHA, holm
from terramorph.report.numbers import p_value
from terramorph.report.pages import picture_uri
from terramorph.report.tables import Table

Columns = dict[str, NDArray[np.float64]]
"""Key of a covariate or score -> float64 ``(N,)``, one value an image."""
Pictures = list[tuple[str, str]]
"""Captions and data URIs."""
KEPT, MISSED, MADE_UP = (86, 180, 233), (240, 130, 0), (214, 0, 130)


@dataclass
class Finding:
    """One test of a discussion and what it says.

    Attributes:
        section: Key of the subject.
        subject: What was tested, such as the keys of a covariate and a score.
        effect: From -1 to 1, 0 for none: rho, or how far the chance of exceeding lies from a half, doubled.
        p: Two-sided.
        text: What it says when it holds, without a full stop.
        corrected: p by Holm for all tests of the discussion.
    """

    section: str
    subject: tuple[str, ...]
    effect: float
    p: float
    text: str = ""
    corrected: float = 1.0

    @property
    def shown(self) -> bool:
        """Whether it is more than a coincidence."""
        return self.corrected < ALPHA

    @property
    def sentence(self) -> str:
        """What is found, and how surely."""
        return f"{self.text} ({p_value(self.corrected)})."


def correct(tests: Sequence[Finding]) -> None:
    """Correct all tests together (Holm)."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        test.corrected = p


@dataclass(frozen=True)
class Section:
    """One subject.

    Attributes:
        key: Names it in ``discussion.json``.
        title: Its heading.
        facts: Sentences with figures, the most important first.
        data: Plain data behind it, for ``discussion.json``.
        table, charts, gallery: What is shown: charts are (title, SVG), rows of the gallery (title, pictures).
        legend: (name, CSS colour).
        chart_caption, gallery_caption: What is shown and how it was measured.
    """

    key: str
    title: str
    facts: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None
    charts: Sequence[tuple[str, Markup]] = ()
    gallery: Sequence[tuple[str, Pictures]] = ()
    legend: Sequence[tuple[str, str]] = ()
    chart_caption: str = ""
    gallery_caption: str = ""


@dataclass(frozen=True)
class View:
    """One pair, seen again.

    Attributes:
        id: Its name.
        source: uint8 ``(C, S, S)``.
        truth: uint8 ``(D, S, S)``.
        prediction: uint8 ``(D, S, S)``.
        mask: bool ``(S, S)``, True where valid.
        truth_classes, prediction_classes: uint8 ``(S, S)``, where the target is a map.
    """

    id: str
    source: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    truth_classes: NDArray[np.uint8] | None
    prediction_classes: NDArray[np.uint8] | None

    @property
    def classes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Those of truth and prediction, where there are some."""
        assert self.truth_classes is not None
        assert self.prediction_classes is not None
        return self.truth_classes, self.prediction_classes

    def pictures(self, last: str = "error", picture: NDArray[np.uint8] | None = None, crop: Any = ...) -> Pictures:
        """Input, output, truth and one more: the error, or a picture uint8 ``(3, S, S)``.

        Args:
            last: Caption of the last picture.
            picture: The last picture.
            crop: Index of the part that is shown, without smoothing.
        """
        if picture is None:
            picture = error_map(self.prediction, self.truth, self.mask)
        shown = {"input": self.source, "output": self.prediction, "truth": self.truth, last: picture}
        if crop is ...:
            return [(name, picture_uri(viewable(image))) for name, image in shown.items()]
        parts = {name: viewable(image)[crop].repeat(2, axis=1).repeat(2, axis=2) for name, image in shown.items()}
        return [(name, picture_uri(image, "PNG")) for name, image in parts.items()]


Look = Callable[[int], View]
"""Shows the pair of a row: reads it and its prediction anew, so that none is kept."""


def blended(
    image: NDArray[np.uint8], layers: Sequence[tuple[NDArray[np.bool_], tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """Colours over a pale grey version of an image.

    Args:
        image: uint8 ``(C, H, W)``.
        layers: bool ``(H, W)`` and its colour; later ones lie on top.

    Returns:
        uint8 ``(3, H, W)``.
    """
    grey = (110 + viewable(image).mean(axis=0) * 0.55).clip(0, 255)
    drawn = np.repeat(grey.astype(np.uint8)[None], 3, axis=0)
    for where, colour in layers:
        drawn[:, where] = np.array(colour, np.uint8)[:, None]
    return drawn


def css(colour: Sequence[int]) -> str:
    """A colour as the page writes it."""
    return "rgb({}, {}, {})".format(*colour)
