"""Discussion of an evaluation: all subjects, the strongest findings, and the files that hold them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

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
from terramorph.evaluation.discuss.draws import draw_data, draw_tests, draws_section, no_draws_section
from terramorph.evaluation.discuss.evidence import Evidence
from terramorph.evaluation.discuss.pieces import pieces_section
from terramorph.evaluation.discuss.places import places_section
from terramorph.evaluation.discuss.roads import roads_section
from terramorph.evaluation.discuss.section import Columns, Finding, Section, correct
from terramorph.evaluation.files import write_json, write_text
from terramorph.evaluation.pictures import Look
from terramorph.evaluation.statistics import FEW, rank_correlation, smallest_shown
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import render_page

PAGE, DATA = "discussion.html", "discussion.json"
MOST_SAID = 12
"""Sentences at the top of the page, at most."""


def write_discussion(
    folder: Path,
    evidence: Evidence,
    per_image: Mapping[str, Sequence[float]],
    look: Look,
    about: Mapping[str, Any],
    *,
    noisy: bool,
    shares: tuple[float | None, float | None],
) -> None:
    """Write ``discussion.html``, and ``discussion.json``: ``about``, ``sentences``, ``facts``, ``limits``, and the data
    of each subject.

    Args:
        folder: Of the evaluation.
        evidence: Gathered from all images.
        per_image: Score key -> one value an image, in the same order.
        look: Shows a pair again.
        about: For the head of the page: n, network, direction, dataset, split, mode, seed (of the resamplings),
            ground_resolution, evaluated_by, evaluation_seconds, drawing_seconds.
        noisy: Whether draws can differ.
        shares: Share of sampled pixels near a colour of their palette, of the truth and of the source; ``None`` where a
            side does not have three bands or was not asked.

    Raises:
        DatasetError: A pair that was scored can no longer be read.
        StorageError: The folder cannot be written.
    """
    started = time.perf_counter()
    covariates = {key: np.array(values) for key, values in evidence.covariates.items()}
    scores = score_columns(per_image, evidence.confusions.images)
    sections, tests = _sections(evidence, covariates, scores, look, about, noisy)
    findings = _findings(sections, tests)
    limits = _limits(evidence, shares, covariates, about["n"], tests)
    order, _ = worst_first(scores)
    opened = [(f"The {name} pair, {view.id}", view.pictures()) for name, view in
              (("median", look(int(order[len(order) // 2]))), ("worst", look(int(order[0]))))]  # fmt: skip
    about = {
        **about,
        "size": evidence.size,
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
    evidence: Evidence, covariates: Columns, scores: Columns, look: Look, about: Mapping[str, Any], noisy: bool
) -> tuple[list[Section], list[Finding]]:
    """Subject by subject, and all tests, corrected together."""
    generator, count, side = np.random.default_rng(about["seed"]), about["n"], evidence.map_side
    tests, bins = content_tests(covariates, scores, generator) if count >= FEW else ([], {})
    tests += worst_tests(covariates, scores) if count >= FEW else []
    middle = []
    if side == "truth":
        middle = [
            confusions_section(evidence.confusions, look),
            roads_section(evidence.roads, about["ground_resolution"], generator),
            pieces_section(evidence.pieces, look, generator),
        ]
    middle.append(places_section(evidence.places, side, generator))
    drawn = draw_data(evidence.disagreement, generator) if evidence.draws > 1 else None
    tests += [] if drawn is None else draw_tests(drawn)
    correct(tests)
    sections = [
        content_section(tests, bins, count, leading(scores)),
        *middle,
        worst_section(tests, covariates, scores, look),
        no_draws_section(about["mode"], noisy)
        if drawn is None
        else draws_section(evidence.disagreement, drawn, tests, look),
    ]
    return sections, tests


def _findings(sections: Sequence[Section], tests: Sequence[Finding]) -> list[tuple[str, str]]:
    """(section, sentence): the tests that hold, the strongest first, and a fact of each subject."""
    facts = [(section.key, section.facts[0]) for section in sections if section.facts and section.data]
    shown = sorted((test for test in tests if test.shown), key=lambda test: (test.p, -abs(test.effect)))
    said = [(test.section, test.sentence) for test in shown[: MOST_SAID - len(facts)]]
    if tests and not shown:
        said = [("content", f"Of {counted(len(tests), 'test')} of what goes with the scores none holds.")]
    return said + facts


def _limits(
    evidence: Evidence,
    shares: tuple[float | None, float | None],
    covariates: Columns,
    count: int,
    tests: Sequence[Finding],
) -> list[str]:
    """Sentences on what the discussion cannot tell."""
    said = [
        f"All of this rests on {counted(count, 'image')} of one split. What goes together need not be cause "
        "and effect, and images side by side on the ground are less independent than the tests take them to be.",
        "The truth counts as right: a road built after the photograph, an old map or a pair that is off by 1 px "
        "or more reads as an error here.",
    ]
    if tests:
        said.append(
            f"p values are corrected by Holm for all {len(tests)} tests of this page; a rank correlation under about "
            f"{smallest_shown(count, len(tests)):.2f} cannot be shown with {count} images.{_together(covariates)}"
        )
    if evidence.map_side is None:
        told = [f"{name} {'not to be told' if share is None else percent(share)}"
                for name, share in zip(("truth", "source"), shares, strict=True)]  # fmt: skip
        said.append(
            f"Neither side is a map of known classes (pixels near a palette colour: {', '.join(told)}): images "
            "are told apart by their edges, brightness and contrast alone."
        )
    else:
        near = shares[evidence.map_side == "source"] or 0.0
        said.append(
            f"The class of a pixel, one of {len(CLASSES)}, is that of the nearest palette colour; {percent(near)} "
            f"of the pixels looked at are within {NEAR} grey levels of one. Blurred borders pass through other colours."
        )
    if evidence.map_side == "source":
        said.append("The truth is no map: no class can be confused, omitted or made up, and no road has a width.")
    return said


def _together(covariates: Columns) -> str:
    """Which contents go together most."""
    pairs = [
        (abs(found[0]), found[0], a, b)
        for a, b in combinations((one for one in COVARIATES if one.key in covariates), 2)
        if (found := rank_correlation(covariates[a.key], covariates[b.key])) is not None
    ]
    if not pairs:
        return ""
    _, rho, a, b = max(pairs, key=lambda pair: pair[0])
    return (
        f" The contents go together themselves, most of all {a.short} and {b.short} (rho {signed(rho)}); which of them "
        "matters is not told apart."
    )
