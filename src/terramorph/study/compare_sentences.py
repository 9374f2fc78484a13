"""What a comparison says, in sentences made from its verdicts; each figure points at the row it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from terramorph.metrics import METRICS
from terramorph.study.definition import BASE

TRAINED_ON = "trained on this metric"
"""In place of a verdict."""

Kind = Literal["better", "worse", "mixed", "none", "open"]


@dataclass(frozen=True)
class Conclusion:
    """One sentence.

    Attributes:
        variant: that it is about.
        kind: `mixed` is better on one metric and worse on another, `none` shows no difference, `open` has no verdict.
        pieces: text in order, each with the anchor of its evidence, or "".
    """

    variant: str
    kind: Kind
    pieces: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Without the anchors."""
        return "".join(text for text, _ in self.pieces)


def conclude(document: Mapping[str, Any]) -> list[Conclusion]:
    """A sentence for every change that has runs which are over: first those that are better, last those left open.

    Before all stands why there is nothing to compare with, if every run of the base that is over diverged.

    Args:
        document: from `make_comparison`.
    """
    found, base = [], []
    for variant in document["variants"]:
        if variant["name"] == BASE:
            base = _without_base(variant)
            continue
        rows = [row for row in document["effects"] if row["variant"] == variant["name"]]
        said = _without_runs(variant) if not rows else _with_runs(variant, rows)
        if said is not None:
            found.append(said)
    order: list[Kind] = ["better", "mixed", "worse", "none", "open"]
    return base + sorted(found, key=lambda conclusion: order.index(conclusion.kind))


def anchor(variant: str, metric: str = "") -> str:
    """Of the row of a variant, or of its effect on a metric."""
    return f"effect-{variant}-{metric}" if metric else f"variant-{variant}"


def signed(value: float) -> str:
    """With its sign, to three figures."""
    return f"{value:+.3g}".replace("-", "−")


def plain(value: float) -> str:
    """To four figures."""
    return f"{value:.4g}".replace("-", "−")


def _without_base(base: Mapping[str, Any]) -> list[Conclusion]:
    if base["done"] or not base["diverged"]:
        return []
    text = f" diverged with every seed so far, so no change can be compared with it: {base['diverged'][0]['reason']}"
    return [Conclusion(BASE, "open", (("The ", ""), (BASE, anchor(BASE)), (text, "")))]


def _without_runs(variant: Mapping[str, Any]) -> Conclusion | None:
    name = variant["name"]
    if variant["refused"]:
        text = f" could not be trained: {variant['refused']}"
    elif variant["diverged"]:
        earliest = min(run["step"] for run in variant["diverged"])
        text = f" diverged with every seed so far, after step {earliest} at the earliest."
    else:
        return None
    return Conclusion(name, "open", ((name, anchor(name)), (text, "")))


def _with_runs(variant: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Conclusion:
    name = variant["name"]
    by_verdict = {word: [row for row in rows if row["verdict"] == word] for word in ("better", "worse")}
    rest = [row for row in rows if row["verdict"] == "no difference shown"]
    learned = [row for row in rows if row["verdict"] == TRAINED_ON]
    pieces: list[tuple[str, str]]
    kind: Kind
    if by_verdict["better"] or by_verdict["worse"]:
        kind = "mixed" if all(by_verdict.values()) else "better" if by_verdict["better"] else "worse"
        pieces = [(name, anchor(name))]
        for word, link in (("better", " is"), ("worse", " and" if by_verdict["better"] else " is")):
            if by_verdict[word]:
                pieces += [(f"{link} {word} than the base on ", ""), *_listed(by_verdict[word])]
        if rest:
            pieces += [("; no difference is shown on ", ""), *_listed(rest)]
    elif rest:
        kind = "none"
        pieces = [
            ("No difference is shown between the base and ", ""),
            (name, anchor(name)),
            (" on ", ""),
            *_listed(rest),
        ]
    elif len(learned) < len(rows):
        kind = "open"
        pieces = [("One seed, so no verdict on ", ""), (name, anchor(name))]
        pieces += [(": beside the base it has ", ""), *_listed([row for row in rows if row not in learned])]
    else:
        kind = "open"
        pieces = [(name, anchor(name)), (" has no verdict", "")]
    if learned:
        pieces += [("; on ", ""), *_listed(learned), (f" it is {TRAINED_ON}", "")]
    pieces += [(f"{_failures(variant)}.", "")]
    return Conclusion(name, kind, tuple(pieces))


def _listed(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Metrics with their differences and intervals, each pointing at its row."""
    pieces = []
    for number, row in enumerate(rows):
        comma = "" if number == 0 else " and " if number == len(rows) - 1 else ", "
        interval = "" if row["over"] == "nothing" else f", {signed(row['low'])} to {signed(row['high'])}"
        only = " over images alone" if row["over"] == "images" else ""
        figure = f"{METRICS[row['metric']].name} ({signed(row['difference'])}{interval}{only})"
        pieces += [(comma, ""), (figure, anchor(row["variant"], row["metric"]))]
    return pieces


def _failures(variant: Mapping[str, Any]) -> str:
    if not variant["diverged"]:
        return ""
    seeds = ", ".join(f"seed {run['seed']} after step {run['step']}" for run in variant["diverged"])
    return f"; not in these figures are the runs that diverged, {seeds}"
