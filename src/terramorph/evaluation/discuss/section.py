"""Sections of a discussion, one subject each, and tests that are corrected together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.pictures import Pictures
from terramorph.evaluation.statistics import ALPHA, holm
from terramorph.report.numbers import p_value
from terramorph.report.tables import Table

Columns = dict[str, NDArray[np.float64]]
"""Key of a covariate or score -> float64 ``(N,)``, one value an image."""


@dataclass
class Finding:
    """Result of one test.

    Attributes:
        section: Key of the subject.
        subject: What was tested, such as the keys of a covariate and a score.
        effect: From -1 to 1, 0 for none: rho, or how far the chance of exceeding lies from a half, doubled.
        p: Two-sided.
        text: The sentence if it holds, without a full stop.
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
        """Whether the corrected p is under `ALPHA`."""
        return self.corrected < ALPHA

    @property
    def sentence(self) -> str:
        """The text with its corrected p."""
        return f"{self.text} ({p_value(self.corrected)})."


def correct(tests: Sequence[Finding]) -> None:
    """Correct all tests together (Holm)."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        test.corrected = p


@dataclass(frozen=True)
class Section:
    """A subject of a discussion.

    Attributes:
        key: In ``discussion.json``.
        title: Its heading.
        facts: Sentences with figures, the most important first.
        data: Plain data behind it, for ``discussion.json``.
        table, charts, gallery: Charts are (title, SVG), rows of the gallery (title, pictures).
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
