"""One trial: as we speak of it, as Optuna keeps it, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Attributes of a trial in the storage.
PRESET, FOLDER, VALUES, SCORES, REASON, SECONDS = "preset", "folder", "values", "scores", "reason", "seconds"
OWNER = "owner"
"""The study's folder it was handed out in, where several share a database."""
SILENCE = "Nothing was heard of its machine for too long."
"""Why a trial failed that another machine had to end."""


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: counted from 0; 0 is the preset itself.
        state: running, complete (scored at the last rung), pruned or failed.
        is_preset: whether it is the preset itself.
        folder: its name in STUDY/trials.
        values: settings that were tried, by dotted key.
        scores: images seen -> metric -> score.
        reason: why it was pruned or failed.
        seconds: of training and scoring, all processes together.
    """

    number: int
    state: str
    is_preset: bool
    folder: str
    values: dict[str, Any]
    scores: dict[int, dict[str, float | None]]
    reason: str
    seconds: float

    @property
    def at(self) -> int:
        """Images seen at the last rung it came to; 0 if it was never scored."""
        return max(self.scores, default=0)

    def score(self, objective: str, images: int | None = None) -> float | None:
        """Its score after so many images, or at the last rung it came to."""
        return self.scores.get(self.at if images is None else images, {}).get(objective)


def trial_of(frozen: FrozenTrial) -> Trial:
    attributes = frozen.user_attrs
    state = next((name for name, state in states().items() if state is frozen.state), "running")
    return Trial(
        number=frozen.number,
        state=state,
        is_preset=bool(attributes.get(PRESET, False)),
        folder=attributes.get(FOLDER, f"{frozen.number:04d}"),
        values=attributes.get(VALUES, {}),
        scores={int(images): scores for images, scores in attributes.get(SCORES, {}).items()},
        reason=attributes.get(REASON, SILENCE if state == "failed" else ""),
        seconds=attributes.get(SECONDS, 0.0),
    )


def as_record(frozen: FrozenTrial, state: str, values: list[float | None] | None) -> dict[str, Any]:
    """A trial as plain data; `from_record` makes a trial of it again."""
    from optuna.distributions import distribution_to_json

    return {
        "state": state,
        "params": frozen.params,
        "distributions": {key: distribution_to_json(one) for key, one in frozen.distributions.items()},
        "values": values,
        "intermediate": {str(step): value for step, value in frozen.intermediate_values.items()},
        "attributes": frozen.user_attrs,
    }


def from_record(record: Mapping[str, Any]) -> FrozenTrial:
    import optuna
    from optuna.distributions import json_to_distribution

    return optuna.create_trial(
        state=states()[record["state"]],
        params=record["params"],
        distributions={key: json_to_distribution(one) for key, one in record["distributions"].items()},
        values=record["values"],
        intermediate_values={int(step): value for step, value in record["intermediate"].items()},
        user_attrs=record["attributes"],
    )


def states() -> dict[str, Any]:
    """Optuna's states by our words."""
    from optuna.trial import TrialState

    return {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
