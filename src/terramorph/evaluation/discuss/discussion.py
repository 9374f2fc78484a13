"""All subjects of a discussion, its strongest findings, and the files that hold them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from terramorph.evaluation.discuss.section import Columns, Finding, Look, Section, View, correct
from terramorph.evaluation.files import Spool, write_json, write_text
from terramorph.evaluation.samples import Samples, as_bytes
from terramorph.evaluation.statistics import FEW, rank_correlation, smallest_shown
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import render_page

PAGE, DATA = "discussion.html", "discussion.json"
MOST_SAID = 12
"""Sentences at the top of the page, at most."""


@dataclass(frozen=True)
class Setting:
    """What was evaluated, as far as a discussion speaks of it.

    Attributes:
        mode: ``raster`` or ``paper``.
        noisy: Whether draws can differ.
        map_share: Share of sampled pixels near a colour of their palette, of the truth and of the source; ``None``
            where a side does not have three bands or was not asked.
        ground_resolution: Metres per pixel, or ``None``.
        seed: Of the resamplings.
    """

    mode: str
    noisy: bool
    map_share: tuple[float | None, float | None]
    ground_resolution: float | None
    seed: int


@dataclass(frozen=True)
class Discussion:
    """What the evidence says.

    Attributes:
        findings: (section, sentence): a fact of each subject, and the tests that hold, the strongest first.
        sections: Subject by subject.
        limits: Sentences on what it cannot tell.
        tests: All that were made, corrected together.
    """

    findings: list[tuple[str, str]]
    sections: list[Section]
    limits: list[str]
    tests: list[Finding]


def discuss(evidence: Evidence, per_image: Mapping[str, Sequence[float]], look: Look, setting: Setting) -> Discussion:
    """What the evidence says.

    Args:
        evidence: Gathered from all images.
        per_image: Score key -> one value an image, in the same order.
        look: Shows a pair again.
        setting: What was evaluated.
    """
    generator = np.random.default_rng(setting.seed)
    covariates = {key: np.array(values) for key, values in evidence.covariates.items()}
    scores = score_columns(per_image, evidence.confusions.images)
    count = len(next(iter(scores.values())))
    tests, bins = content_tests(covariates, scores, generator) if count >= FEW else ([], {})
    tests += worst_tests(covariates, scores) if count >= FEW else []
    middle = [places_section(evidence.places, None, generator)] if evidence.map_side is None else []
    if evidence.map_side == "truth":
        middle = [
            confusions_section(evidence.confusions, look),
            roads_section(evidence.roads, setting.ground_resolution, generator),
            pieces_section(evidence.pieces, look, generator),
        ]
    if evidence.map_side is not None:
        middle.append(places_section(evidence.places, evidence.map_side, generator))
    drawn = draw_data(evidence.disagreement, generator) if evidence.draws > 1 else None
    tests += [] if drawn is None else draw_tests(drawn)
    correct(tests)
    sections = [
        content_section(tests, bins, count, leading(scores)),
        *middle,
        worst_section(tests, covariates, scores, look),
        no_draws_section(setting.mode, setting.noisy)
        if drawn is None
        else draws_section(evidence.disagreement, drawn, tests, look),
    ]
    return Discussion(_findings(sections, tests), sections, _limits(evidence, setting, covariates, count, tests), tests)


def _findings(sections: Sequence[Section], tests: Sequence[Finding]) -> list[tuple[str, str]]:
    """The facts of the subjects, and the tests that hold, the strongest first, in as many sentences as are allowed."""
    facts = [(section.key, section.facts[0]) for section in sections if section.facts and section.data]
    shown = sorted((test for test in tests if test.shown), key=lambda test: (test.p, -abs(test.effect)))
    room = MOST_SAID - len(facts)
    said = [(test.section, test.sentence) for test in shown[:room]]
    if not shown:
        said = (
            [("content", f"Of {counted(len(tests), 'test')} of what goes with the scores none holds.")] if tests else []
        )
    return said + facts


def _limits(
    evidence: Evidence, setting: Setting, covariates: Columns, count: int, tests: Sequence[Finding]
) -> list[str]:
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
        told = [
            f"{name} {percent(share)}" if share is not None else f"{name} not to be told"
            for name, share in zip(("truth", "source"), setting.map_share, strict=True)
        ]
        said.append(
            f"Neither side is a map of known classes (pixels near a palette colour: {', '.join(told)}): images "
            "are told apart by their edges, brightness and contrast alone."
        )
    else:
        near = setting.map_share[evidence.map_side == "source"] or 0.0
        said.append(
            f"The class of a pixel, one of {len(CLASSES)}, is that of the nearest palette colour; {percent(near)} "
            f"of the pixels looked at are within {NEAR} grey levels of one. Blurred borders pass through other colours."
        )
    if evidence.map_side == "source":
        said.append("The truth is no map: no class can be confused, omitted or made up, and no road has a width.")
    return said


def _together(covariates: Columns) -> str:
    """How far the contents go with one another."""
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


def pairs_again(samples: Samples, places: Sequence[int], spool: Spool, evidence: Evidence) -> Look:
    """Shows scored pairs again.

    Args:
        samples: Where they are read from.
        places: Their numbers in the split, in the order in which they were scored.
        spool: Their predictions, in that order.
        evidence: Says whether the truth is a map.
    """

    def look(row: int) -> View:
        sample, prediction = samples.read(places[row]), spool.read(row)
        source = as_bytes(sample.source, samples.header.source.scaling)
        palette = evidence.palette if evidence.map_side == "truth" else None
        classes = [None if palette is None else palette.classify(side) for side in (sample.truth, prediction)]
        return View(sample.id, source, sample.truth, prediction, sample.mask, classes[0], classes[1])

    return look


def write_discussion(
    folder: Path,
    evidence: Evidence,
    per_image: Mapping[str, Sequence[float]],
    look: Look,
    setting: Setting,
    facts: Mapping[str, Any],
) -> None:
    """Write ``discussion.html``, and ``discussion.json``: ``about``, ``sentences``, ``facts``, ``limits``, and the data
    of each subject.

    Args:
        folder: Of the evaluation.
        evidence: Gathered from all images.
        per_image: Score key -> one value an image, in the same order.
        look: Shows a pair again.
        setting: What was evaluated.
        facts: For the head of the page: n, network, direction, dataset, split, evaluated_by, evaluation_seconds,
            drawing_seconds.

    Raises:
        DatasetError: A pair that was scored can no longer be read.
        StorageError: The folder cannot be written.
    """
    started = time.perf_counter()
    said = discuss(evidence, per_image, look, setting)
    scores = score_columns(per_image, evidence.confusions.images)
    order, _ = worst_first(scores)
    opened = [(f"The {name} pair, {view.id}", view.pictures()) for name, view in
              (("median", look(int(order[len(order) // 2]))), ("worst", look(int(order[0]))))]  # fmt: skip
    about = {
        **facts,
        "size": evidence.size,
        "mode": setting.mode,
        "samples": evidence.draws,
        "map_side": evidence.map_side,
        "ground_resolution": setting.ground_resolution,
        "seed": setting.seed,
        "tests": len(said.tests),
        "correction": "Holm",
        "seconds": round(evidence.seconds + time.perf_counter() - started, 2),
    }
    cards = [(s.label, s.said(float(scores[s.key].mean())), "mean of images") for s in SCORES if s.key in scores]
    page = render_page(
        "terramorph.evaluation", "discussion.html.j2", about=about, cards=cards, opened=opened,
        findings=said.findings, sections=said.sections, limits=said.limits,
    )  # fmt: skip
    write_text(folder / PAGE, page)
    document = {
        "about": about,
        "sentences": [{"section": section, "text": text} for section, text in said.findings],
        "facts": {section.key: section.facts for section in said.sections},
        "limits": said.limits,
        **{section.key: section.data for section in said.sections if section.data},
    }
    write_json(folder / DATA, document)
