"""How a study stands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terramorph.metrics import METRICS
from terramorph.study.plan import StudyPlan
from terramorph.study.trial import Trial

_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class TuneResult:
    """How a study stands.

    Attributes:
        out: its folder.
        plan: what it is about.
        trials: every trial that was begun.
        best: the best of those that were scored at the last rung, by the first objective; None so far.
        front: those that no other is better than in every objective.
        wanted: trials in all.
        confirmation: of the best against the preset on the split that tuning never saw, as `compare` returns it; None
            so far.
    """

    out: Path
    plan: StudyPlan
    trials: tuple[Trial, ...]
    best: Trial | None
    front: tuple[Trial, ...]
    wanted: int
    confirmation: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return len(self.trials) >= self.wanted and all(trial.state != "running" for trial in self.trials)

    @property
    def ended(self) -> int:
        """How many trials have ended, however they did."""
        return sum(trial.state != "running" for trial in self.trials)

    @property
    def why_none(self) -> str:
        """What became of the trials that ended, if none of them came to the last rung: their commonest reason."""
        reasons = [trial.reason for trial in self.trials if trial.state != "running"]
        if self.best is not None or not reasons:
            return ""
        kinds = [_NUMBER.sub("", reason) for reason in reasons]  # "At step 3 ..." and "At step 7 ..." are one
        kind, times = Counter(kinds).most_common(1)[0]
        often = f"the reason of {times}" if times < len(reasons) else "the reason"
        return (
            f"None of the {len(reasons)} trials that have ended came to the last rung of {self.plan.rungs.last} "
            f"images; {often}: {reasons[kinds.index(kind)]}"
        )

    @property
    def default(self) -> Trial | None:
        """The preset's own trial."""
        return next((trial for trial in self.trials if trial.is_preset), None)

    @property
    def worst(self) -> Trial | None:
        """The poorest of the trials that were scored at all, each at the last rung it came to."""
        return best_of(self.trials, self.plan, sign=-1)


def best_of(trials: Sequence[Trial], plan: StudyPlan, sign: int = 1) -> Trial | None:
    """The best by the first objective of those that have a score, the earlier of equals; the worst for sign -1."""
    name = plan.objectives[0]
    upward = sign if METRICS[name].higher_is_better else -sign
    known = [(value, trial) for trial in trials if (value := trial.score(name)) is not None]
    return max(known, key=lambda pair: (upward * pair[0], -pair[1].number))[1] if known else None
