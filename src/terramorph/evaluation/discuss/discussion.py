"""Discussion of an evaluation: evidence gathered while pairs are scored, sections, strongest findings, files."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import write_text
from terramorph.cartography import CLASSES, NEAR
from terramorph.evaluation.classes import Classes
from terramorph.evaluation.discuss.content import (
    COVARIATES,
    SCORES,
    content_section,
    content_tests,
    leading,
    map_covariates,
    score_columns,
    source_covariates,
    worst_first,
    worst_section,
    worst_tests,
)
from terramorph.evaluation.discuss.draws import (
    TITLE,
    Disagreement,
    compare_draws,
    draw_data,
    draw_tests,
    draws_section,
    most_disagreeing,
)
from terramorph.evaluation.discuss.errors import (
    BLOCKS,
    confusions_section,
    count_confusions,
    errors_by_place,
    in_blocks,
    places_section,
)
from terramorph.evaluation.discuss.section import Columns, Finding, Section, correct
from terramorph.evaluation.discuss.shapes import (
    KINDS,
    count_roads,
    pieces_of,
    pieces_section,
    road_widths,
    roads_section,
)
from terramorph.evaluation.files import write_json
from terramorph.evaluation.pictures import Look
from terramorph.evaluation.statistics import FEW, rank_correlation, smallest_shown
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import render_page

MapSide = Literal["truth", "source"]
PAGE, DATA = "discussion.html", "discussion.json"
MOST_SAID = 12
"""Most sentences at the top of the page."""


@dataclass
class Evidence:
    """Numbers of each image, and sums over the set; the only images kept are three pairs of disagreement maps.

    An image takes 2 kB, one with several draws 4 kB.

    Attributes:
        map_side: Side that is a map of the seven classes; ``None`` where neither is.
        classes: Classes of that side.
        draws: Number of draws of each image.
        rows: Values or arrays of each image by key: covariates and counts.
        blocks: Sums over images of errors and of valid pixels in `BLOCKS`, float64 ``(2, cells, cells)``.
        most: The images whose draws disagree most.
        seconds: Time spent here.
    """

    map_side: MapSide | None = None
    classes: Classes | None = None
    draws: int = 1
    rows: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    blocks: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    most: list[Disagreement] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def columns(self) -> Columns:
        return {key: np.stack(values) for key, values in self.rows.items()}

    def add(
        self, source: NDArray[np.uint8], truth: NDArray[np.uint8], draws: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> None:
        """Add an image.

        Args:
            source: uint8 ``(C, S, S)``.
            truth: uint8 ``(D, S, S)``.
            draws: uint8 ``(N, D, S, S)``; the first is the prediction that is scored.
            mask: bool ``(S, S)``, True where valid, somewhere.
        """
        started = time.perf_counter()
        prediction, classes = draws[0], None
        found: dict[str, Any] = dict(source_covariates(source, mask))
        if self.classes is not None and self.classes.palette is not None:
            palette = self.classes.palette
            classes = palette.classify(truth if self.map_side == "truth" else source)
            roads = road_widths(classes, mask)
            found |= map_covariates(classes, mask, roads)
            if self.map_side == "truth":
                drawn = palette.classify(prediction)
                found |= count_confusions(classes, drawn, mask)
                found["roads"] = count_roads(roads, road_widths(drawn, mask))
                found["pieces"] = np.stack([pieces_of(kind, classes, drawn, mask).counts for kind in KINDS])
        error = np.abs(prediction.astype(np.float32) - truth).mean(axis=0)
        found |= errors_by_place(error, mask, classes)
        self.blocks = self.blocks + np.stack([in_blocks(side, BLOCKS) for side in (np.where(mask, error, 0.0), mask)])
        if self.draws > 1:
            numbers, maps = compare_draws(draws, truth, mask)
            found |= numbers
            self.most = most_disagreeing([*self.most, (numbers["spread"], len(self.rows["spread"]), *maps)])
        for key, value in found.items():
            self.rows[key].append(value)
        self.seconds += time.perf_counter() - started


def write_discussion(
    folder: Path, evidence: Evidence, per_image: Mapping[str, Sequence[float]], look: Look, about: Mapping[str, Any]
) -> None:
    """Write ``discussion.html``, and ``discussion.json``: ``about``, ``sentences``, ``facts``, ``limits``, and the data
    of each subject.
    """
    started, columns = time.perf_counter(), evidence.columns
    contents = {one.key for one in COVARIATES}
    covariates = {key: column for key, column in columns.items() if key in contents}
    scores = score_columns(per_image, columns.get("confusion"))
    sections, tests = _sections(evidence, columns, covariates, scores, look, about)
    findings = _findings(sections, tests)
    limits = _limits(evidence, covariates, about["n"], len(tests))
    order, _ = worst_first(scores)
    opened = [(f"The {name} pair, {view.id}", view.pictures()) for name, view in
              (("median", look(int(order[len(order) // 2]))), ("worst", look(int(order[0]))))]  # fmt: skip
    about = {
        **about,
        "samples": evidence.draws,
        "map_side": evidence.map_side,
        "tests": len(tests),
        "correction": "Holm",
        "seconds": round(evidence.seconds + time.perf_counter() - started, 2),
    }
    cards = [(s.label, s.said(float(scores[s.key].mean())), "mean of images") for s in SCORES if s.key in scores]
    page = render_page(
        "terramorph.evaluation", "discussion.html.j2", about=about, cards=cards, opened=opened,
        findings=findings, sections=sections, limits=limits,
    )  # fmt: skip
    write_text(folder / PAGE, page)
    document = {
        "about": about,
        "sentences": [{"section": section, "text": text} for section, text in findings],
        "facts": {section.key: section.facts for section in sections},
        "limits": limits,
        **{section.key: section.data for section in sections if section.data},
    }
    write_json(folder / DATA, document)


def _sections(
    evidence: Evidence, columns: Columns, covariates: Columns, scores: Columns, look: Look, about: Mapping[str, Any]
) -> tuple[list[Section], list[Finding]]:
    """Make all sections, and all tests, corrected together."""
    generator, count, side = np.random.default_rng(about["seed"]), about["n"], evidence.map_side
    content, bins = content_tests(covariates, scores, generator) if count >= FEW else ([], {})
    worst = worst_tests(covariates, scores) if count >= FEW else []
    middle = []
    if side == "truth":
        middle = [
            confusions_section(columns, look),
            roads_section(columns["roads"], about["ground_resolution"], generator),
            pieces_section(columns["pieces"], look, generator),
        ]
    middle.append(places_section(columns, evidence.blocks, about["size"], side, generator))
    drawn = draw_data(columns, evidence.draws, generator) if evidence.draws > 1 else None
    tests = [*content, *worst, *(draw_tests(drawn) if drawn else [])]
    correct(tests)
    if drawn:
        last = draws_section(drawn, tests[len(content) + len(worst) :], evidence.most, look)
    else:
        why = "There is one draw of each image; several can be compared in mode paper, of a model that has noise."
        last = Section("draws", TITLE, [why])
    first = content_section(content, bins, count, leading(scores))
    return [first, *middle, worst_section(worst, scores, look), last], tests


def _findings(sections: Sequence[Section], tests: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return (section, sentence): significant tests, strongest first and one per content, and a fact per section."""
    facts = [(section.key, section.facts[0]) for section in sections if section.facts and section.data]
    strongest: dict[tuple[str, str], Finding] = {}
    for test in sorted((test for test in tests if test.shown), key=lambda test: (test.p, -abs(test.effect))):
        strongest.setdefault((test.section, test.subject[0]), test)
    said = [(test.section, test.sentence) for test in strongest.values()][: MOST_SAID - len(facts)]
    if tests and not said:
        said = [("content", f"Of {counted(len(tests), 'test')} of what goes with the scores none holds.")]
    return said + facts


def _limits(evidence: Evidence, covariates: Columns, count: int, tests: int) -> list[str]:
    """Return sentences on the limits of the discussion."""
    said = [
        f"All of this rests on {counted(count, 'image')} of one split. What goes together need not be cause "
        "and effect, and images side by side on the ground are less independent than the tests take them to be.",
        "The truth counts as right: a road built after the photograph, an old map or a pair that is off by 1 px "
        "or more reads as an error here.",
    ]
    if tests:
        said.append(
            f"p values are corrected by Holm for {counted(tests, 'test')} on this page; a rank correlation under about "
            f"{smallest_shown(count, tests):.2f} cannot be shown with {count} images."
        )
        pairs = [(rank_correlation(covariates[a.key], covariates[b.key]), a.short, b.short)
                 for a, b in combinations((one for one in COVARIATES if one.key in covariates), 2)]  # fmt: skip
        if known := [(found[0], a, b) for found, a, b in pairs if found is not None]:
            rho, a, b = max(known, key=lambda pair: abs(pair[0]))
            said[-1] += (
                f" The contents go together themselves, most of all {a} and {b} (rho {signed(rho)}); which of them "
                "matters is not told apart."
            )
    if evidence.classes is None:
        said.append("Neither side is a map of known classes: images are told apart by edges, brightness and contrast.")
    else:
        said.append(
            f"The class of a pixel, one of {len(CLASSES)}, is that of the nearest palette colour; "
            f"{percent(evidence.classes.share)} of the pixels looked at are within {NEAR} grey levels of one. Blurred "
            "borders pass through other colours."
        )
    if evidence.map_side == "source":
        said.append("The truth is no map: no class can be confused, omitted or made up, and no road has a width.")
    return said
