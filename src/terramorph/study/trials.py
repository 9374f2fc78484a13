"""Trials of a study in Optuna's storage: STUDY/trials.db, or any database by URL.

Trial 0 is the preset itself. An interrupted trial has failed in Optuna and continues as a retry with its settings and
scores (RetryHeartbeatStaleTrialCallback): a trial here is Optuna's trial and its retries. A process that dies stops
sending heartbeats to the storage, and the next process that asks queues its trial again. Optuna gives each queued trial
to one process; of two that were queued for one trial, the later is given back.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from terramorph.errors import ConfigError, StorageError, raised_as
from terramorph.imports import needs
from terramorph.metrics import METRICS
from terramorph.study.plan import ETA, IN_FOLDER, StudyPlan, in_turn

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

WAIT = 60.0
"""Seconds to wait for a locked SQLite file."""
HEARD, SILENT = 5, 30
"""Seconds between two heartbeats of a trial, and without one until its process counts as dead."""
VALUES, SCORES, REASON, SECONDS, GIVEN_BACK = "values", "scores", "reason", "seconds", "given back"
"""User attributes of a trial in the storage; one with `GIVEN_BACK` does not count."""
_STARTUP = 10
"""Random trials before the sampler models the scores; a quarter of all trials if that is fewer."""


@dataclass(frozen=True)
class Trial:
    """The state of a trial.

    Attributes:
        number: From 0; 0 is the preset itself.
        state: Running (or interrupted, to be resumed), complete (scored at the last rung), pruned or failed.
        values: Settings of the trial, by dotted key.
        scores: Images seen -> metric -> score.
        reason: Why it was pruned or failed.
        seconds: Of training and scoring, all processes together.
    """

    number: int
    state: Literal["running", "complete", "pruned", "failed"]
    values: dict[str, Any]
    scores: dict[int, dict[str, float | None]]
    reason: str
    seconds: float

    @property
    def is_preset(self) -> bool:
        return self.number == 0

    @property
    def folder(self) -> str:
        return f"{self.number:04d}"

    @property
    def at(self) -> int:
        """Images seen at the last rung with a score; 0 if there is none."""
        return max(self.scores, default=0)

    def score(self, objective: str, images: int | None = None) -> float | None:
        """Return the score after `images`, or at the last rung with one."""
        return self.scores.get(self.at if images is None else images, {}).get(objective)


class Trials:
    """The trials of one study, in its own storage or a shared one."""

    def __init__(self, out: Path, plan: StudyPlan, url: str | None = None) -> None:
        require_optuna()
        self.out, self.plan = out, plan
        if (url is None) != (plan.storage == IN_FOLDER):
            raise ConfigError(f"The trials of {out} are in {plan.storage}; give the `storage` it was begun with.")
        self.url = url or f"sqlite:///{out.resolve() / 'trials.db'}"
        # Machines may have a dataset under different paths; in a study's own folder study.json was compared.
        identity = plan.identity() | {"dataset": plan.dataset.name}
        with in_turn(out), self.storing():
            self.study = self._open(out.resolve().name)
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(plan.space.labels(plan.space.values_of(plan.preset)))
            known = self.study.user_attrs.get("plan")
            if known is None:
                self.study.set_user_attr("plan", identity)
                return
        compared = [key for key in identity if url is not None or key != "dataset"]
        different = next((key for key in compared if known.get(key) != identity[key]), None)
        if different is not None:
            raise ConfigError(
                f"The storage {self.url} holds the study {self.study.study_name} with another {different}; choose "
                "another `out` or `storage`."
            )

    def _open(self, name: str) -> optuna.Study:
        import optuna
        from sqlalchemy.exc import ArgumentError
        from sqlalchemy.pool import NullPool

        # SQLite's connections are closed after each use: nobody would close those of a pool.
        in_file = {"connect_args": {"timeout": WAIT}, "poolclass": NullPool}
        advice = "give a URL of SQLAlchemy, such as postgresql+psycopg://user@host/database, and install its driver"
        with raised_as(
            ConfigError, f"The storage {self.url} cannot be opened", advice, ImportError, ValueError, ArgumentError
        ):
            storage = optuna.storages.RDBStorage(
                self.url,
                engine_kwargs=in_file if self.url.startswith("sqlite") else {},
                heartbeat_interval=HEARD,
                grace_period=SILENT,
                heartbeat_stale_trial_callback=_retry,
            )
        directions = ["maximize" if METRICS[metric].higher_is_better else "minimize" for metric in self.plan.objectives]
        return optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            load_if_exists=True,
            # Rungs are reported to Optuna as 1, ETA, ETA squared.
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA),
        )

    def is_open(self, wanted: int) -> bool:
        """Return whether one of `wanted` trials is left to begin or resume; interrupted ones are queued again."""
        import optuna

        states = optuna.trial.TrialState
        with self.storing():
            optuna.storages.fail_stale_trials(self.study)
            for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                started = trial.datetime_start or datetime.now()
                if VALUES not in trial.user_attrs and (datetime.now() - started).total_seconds() > SILENT:
                    self.study.tell(trial.number, state=states.FAIL)  # its process died before the first heartbeat
            kept = [chain for chain in self._chains() if chain]
            for chain in kept[:wanted]:
                if _is_interrupted(trial := _counting(chain)):
                    _retry(self.study, trial)
            return len(kept) < wanted or bool(self.study.get_trials(deepcopy=False, states=(states.WAITING,)))

    def number_of(self, trial: optuna.Trial, wanted: int) -> int | None:
        """Return the number of a trial from Optuna; None if another process has it, or it is beyond `wanted`."""
        chains = self._chains()
        number = next(at for at, chain in enumerate(chains) if any(one.number == trial.number for one in chain))
        taken = _counting(chains[number]).number != trial.number
        return None if taken or sum(map(bool, chains[:number])) >= wanted else number

    def all(self) -> list[Trial]:
        """Return every trial that was begun, by number."""
        with self.storing():
            begun = enumerate([one for one in chain if VALUES in one.user_attrs] for chain in self._chains())
        return [_trial(number, _counting(chain)) for number, chain in begun if chain]

    def front(self) -> set[int]:
        """Return the numbers of the trials on the Pareto front; with one objective, the best."""
        with self.storing():
            best = {trial.number for trial in self.study.best_trials}
            return {at for at, chain in enumerate(self._chains()) if best & {one.number for one in chain}}

    def _chains(self) -> list[list[FrozenTrial]]:
        """Return each trial and its retries, by number, without those given back."""
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            chain = found.setdefault(_first(trial), [])
            if GIVEN_BACK not in trial.user_attrs:
                chain.append(trial)
        return list(found.values())

    def storing(self) -> AbstractContextManager[None]:
        """Raise errors of the storage as StorageError."""
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        kinds = (OptunaError, SQLAlchemyError, OSError)
        return raised_as(StorageError, f"The study's storage {self.url} cannot be used", "free or restore it", *kinds)


def make_sampler(plan: StudyPlan, wanted: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's TPE sampler, seeded for each trial: proposals depend on the seed, the trial's number and the
    scores so far, not on the process."""
    import optuna

    class Reseeded(optuna.samplers.TPESampler):  # type: ignore[misc]
        def __init__(self, number: int = 0) -> None:
            super().__init__(
                n_startup_trials=min(_STARTUP, max(2, wanted // 4)),
                multivariate=True,
                group=True,  # needed for spaces with conditions
                constant_liar=True,  # running trials count as poor, or all processes would try the same
                seed=int(np.random.SeedSequence((plan.preset.seed, number)).generate_state(1)[0]),
            )

        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            earlier = [one.number for one in study.get_trials(deepcopy=False) if _first(one) == one.number]
            self.__init__(sorted(earlier).index(_first(trial)))  # type: ignore[misc]
            super().before_trial(study, trial)

    return Reseeded()


def require_optuna() -> None:
    """Raise MissingPackageError if Optuna is not installed; suppress its logs, those of its libraries, and its warnings
    about experimental features."""
    with needs("Optuna", "study"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue an interrupted trial again, with its settings and scores."""
    import optuna

    optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _first(trial: FrozenTrial) -> int:
    """Return Optuna's number of the first try of a trial."""
    import optuna

    first = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return int(trial.number if first is None else first)


def _is_interrupted(trial: FrozenTrial) -> bool:
    return trial.state.name == "FAIL" and REASON not in trial.user_attrs


def _counting(chain: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the try that counts: the first that runs or has ended, else the newest."""
    ends = (one for one in chain if one.state.name != "WAITING" and not _is_interrupted(one))
    return next(ends, chain[-1])


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    states: dict[str, Literal["complete", "pruned", "failed"]]
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return Trial(
        number=number,
        state="running" if _is_interrupted(frozen) else states.get(frozen.state.name, "running"),
        values=frozen.user_attrs[VALUES],
        scores={int(images): scores for images, scores in frozen.user_attrs.get(SCORES, {}).items()},
        reason=frozen.user_attrs.get(REASON, ""),
        seconds=frozen.user_attrs.get(SECONDS, 0.0),
    )
