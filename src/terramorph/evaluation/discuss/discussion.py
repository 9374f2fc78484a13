"""All sections of a discussion, as plain data and as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, NEAR
from terramorph.evaluation.discuss.confusions import confusions_section
from terramorph.evaluation.discuss.content import content_section
from terramorph.evaluation.discuss.covariates import COVARIATES
from terramorph.evaluation.discuss.draws import draws_section, no_draws_section
from terramorph.evaluation.discuss.evidence import Evidence
from terramorph.evaluation.discuss.pieces import pieces_section
from terramorph.evaluation.discuss.places import places_section
from terramorph.evaluation.discuss.roads import roads_section
from terramorph.evaluation.discuss.scores import SCORES, score_columns
from terramorph.evaluation.discuss.section import Section, Sentence, counted, percent, signed
from terramorph.evaluation.discuss.views import Look
from terramorph.evaluation.discuss.worst import worst_section
from terramorph.evaluation.statistics import FEW, rank_correlation, smallest_shown
from terramorph.report.pages import page_environment


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


def discuss(
    evidence: Evidence, per_image: Mapping[str, Sequence[float]], look: Look, setting: Setting
) -> list[Section]:
    """What the evidence says, subject by subject.

    Args:
        evidence: Gathered from all images.
        per_image: Score key -> one value an image, in the same order.
        look: Shows a pair again.
        setting: What was evaluated.
    """
    generator = np.random.default_rng(setting.seed)
    covariates = {key: np.array(values) for key, values in evidence.covariates.items()}
    scores = score_columns(per_image, evidence.confusions.images)
    sections = [content_section(covariates, scores, generator)]
    if evidence.map_side == "truth":
        sections += [
            confusions_section(evidence.confusions, look),
            roads_section(evidence.roads, setting.ground_resolution, generator),
            pieces_section(evidence.pieces, look, generator),
        ]
    else:
        sections.append(_no_classes(evidence, setting))
    sections += [
        places_section(evidence.places, evidence.map_side, generator),
        worst_section(covariates, scores, look),
        draws_section(evidence.disagreement, look, generator)
        if evidence.draws > 1
        else no_draws_section(setting.mode, evidence.draws, setting.noisy),
    ]
    return [*sections, _limits(evidence, setting, covariates, sections[0])]


def _no_classes(evidence: Evidence, setting: Setting) -> Section:
    """Why there are no confusions, roads and pieces."""
    said = [
        f"{name} {percent(share)}" if share is not None else f"{name} not to be told (not three bands)"
        for name, share in zip(("truth", "source"), setting.map_share, strict=True)
    ]
    instead = (
        "what the source's map shows stands for the content instead"
        if evidence.map_side == "source"
        else "neither is the source, and images are told apart by their edges, brightness and contrast alone"
    )
    text = (
        f"The truth is no map of known classes (pixels near a palette colour: {', '.join(said)}), so no class can be "
        f"confused, omitted or made up, and no road has a width to be found by; {instead}."
    )
    values = {"map_share_of_truth": setting.map_share[0], "map_share_of_source": setting.map_share[1]}
    return Section("classes", "Classes, roads and pieces", [Sentence(text, values)])


def _limits(
    evidence: Evidence, setting: Setting, covariates: Mapping[str, NDArray[np.float64]], content: Section
) -> Section:
    tests, count = content.data.get("tests"), len(covariates["edges"])
    said = [
        Sentence(
            f"All of this rests on {counted(count, 'image')} of one split. What goes together need not be cause and "
            "effect, and images that lie side by side on the ground are less independent than the tests take them to "
            "be.",
            {"n": count},
        )
    ]
    if tests and count >= FEW:
        least = smallest_shown(count, tests)
        text = (
            f"With {count} images and {tests} tests, a rank correlation under about {least:.2f} cannot be shown; "
            "where no dependence is shown there may be a weaker one."
        )
        said += [Sentence(text, {"smallest_shown": least, "tests": tests}), *_together(covariates)]
    said.append(
        Sentence(
            "The truth counts as right: a road built after the photograph, an old map or a pair that is off by 1 px or "
            "more reads as an error here.",
            {"off_px": 1},
        )
    )
    if evidence.map_side is not None:
        near = setting.map_share[evidence.map_side == "source"] or 0.0
        text = (
            f"The class of a pixel, one of {len(CLASSES)}, is that of the nearest palette colour; {percent(near)} "
            f"of the pixels looked at are within {NEAR} grey levels of one. Blurred borders pass through colours of "
            "other classes."
        )
        said.append(Sentence(text, {"classes": len(CLASSES), "near": near, "within": NEAR}))
    if evidence.draws > 1:
        text = (
            f"The {evidence.draws} draws differ by the dropout of one network. What every draw gets wrong alike does "
            "not show as disagreement."
        )
        said.append(Sentence(text, {"draws": evidence.draws}))
    return Section("limits", "What this cannot tell", said)


def _together(covariates: Mapping[str, NDArray[np.float64]]) -> list[Sentence]:
    """How far the contents go with one another."""
    pairs = [
        (abs(rho), rho, a, b)
        for a, b in combinations((c for c in COVARIATES if c.key in covariates), 2)
        if (rho := rank_correlation(covariates[a.key], covariates[b.key])) is not None
    ]
    if not pairs:
        return []
    _, rho, a, b = max(pairs, key=lambda pair: pair[0])
    text = (
        f"The contents go together themselves, most of all {a.short} and {b.short} (rho {signed(rho)}); which of them "
        "matters is not told apart."
    )
    return [Sentence(text, {"rho": rho, "a": a.key, "b": b.key})]


def as_document(sections: Sequence[Section], about: Mapping[str, Any]) -> dict[str, Any]:
    """What ``discussion.json`` holds: ``about``, ``sentences`` with their numbers, and the data of each section."""
    numbers = _numbers(sections)
    return {
        "about": dict(about),
        "sentences": [
            {
                "section": section.key,
                "text": sentence.text,
                "figure": numbers.get(sentence.figure),
                "values": sentence.values,
            }
            for section in sections
            for sentence in section.sentences
        ],
        **{section.key: section.data for section in sections if section.data},
    }


def render_discussion(sections: Sequence[Section], about: Mapping[str, Any], scores: Mapping[str, float | None]) -> str:
    """The page as one string of HTML, without any reference to the network.

    Args:
        sections: In order.
        about: Facts for the head: see `terramorph.evaluation.evaluate`.
        scores: Means of the evaluation, by key; those of `SCORES` are shown.
    """
    environment = page_environment("terramorph.evaluation")
    environment.finalize = _kept_together
    shown = [(s.name, s.said(value)) for s in SCORES if (value := scores.get(s.key)) is not None]
    return environment.get_template("discussion.html.j2").render(
        sections=sections, numbers=_numbers(sections), about=about, scores=shown
    )


def _kept_together(value: Any) -> Any:
    """No line ends between a number and its percent sign."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) else value


def _numbers(sections: Sequence[Section]) -> dict[str, int]:
    keys = [figure.key for section in sections for figure in section.figures]
    return {key: number for number, key in enumerate(keys, start=1)}
