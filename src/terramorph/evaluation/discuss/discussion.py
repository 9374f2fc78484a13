"""Discussion of an evaluation: all sections, the strongest findings, and the files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from terramorph.atomic import write_text
from terramorph.cartography import CLASSES, NEAR
from terramorph.evaluation.discuss.confusions import confusions_section
from terramorph.evaluation.discuss.content import (
    SCORES,
    content_section,
    content_tests,
    leading,
    score_columns,
    worst_first,
    worst_section,
    worst_tests,
)
from terramorph.evaluation.discuss.covariates import COVARIATES
from terramorph.evaluation.discuss.draws import TITLE, draw_data, draw_tests, draws_section
from terramorph.evaluation.discuss.evidence import Evidence
from terramorph.evaluation.discuss.pieces import pieces_section
from terramorph.evaluation.discuss.places import places_section
from terramorph.evaluation.discuss.roads import roads_section
from terramorph.evaluation.discuss.section import Columns, Finding, Section, correct
from terramorph.evaluation.files import write_json
from terramorph.evaluation.pictures import Look
from terramorph.evaluation.statistics import FEW, rank_correlation, smallest_shown
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import render_page

PAGE, DATA = "discussion.html", "discussion.json"
MOST_SAID = 12
"""Most sentences at the top of the page."""


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
