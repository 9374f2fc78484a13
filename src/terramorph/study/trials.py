"""The trials of a study, as Optuna keeps them: in STUDY/trials.db, or in any database by URL.

A trial of ours has a number, the user attribute `number`; 0 is the preset itself. Optuna may hold several of one
number: a trial that was interrupted has failed there, and goes on as a new one with the same settings and scores, by
Optuna's RetryHeartbeatStaleTrialCallback. As many as are wanted are put in the queue beforehand, and Optuna hands each
of the queue to one process only; of two with one number, the later one gives way. A process that dies stops giving
signs of life to the storage, and the next that asks puts its trial back into the queue.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from terramorph.errors import ConfigError, MissingPackageError, StorageError, TerramorphError
from terramorph.metrics import METRICS
from terramorph.study.plan import ETA, IN_FOLDER, StudyPlan, in_turn

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from sqlalchemy import URL

WAIT = 60.0
"""Seconds that a locked SQLite file is waited for."""
HEARD, SILENT = 5, 30
"""Seconds from one sign of life of a trial to the next, and without any until its process is taken for dead."""
NUMBER, VALUES, SCORES, REASON, SECONDS = "number", "values", "scores", "reason", "seconds"
"""User attributes of a trial in the storage."""
_STARTUP = 10
"""Trials drawn by chance before the sampler has something to learn from; a quarter of all, if that is fewer."""


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: counted from 0; 0 is the preset itself.
        state: running (or interrupted, to go on), complete (scored at the last rung), pruned or failed.
        values: settings that were tried, by dotted key.
        scores: images seen -> metric -> score.
        reason: why it was pruned or failed.
        seconds: of training and scoring, all processes together.
    """

    number: int
    state: Literal["running", "complete", "pruned", "failed"]
    values: dict[str, Any]
    scores: dict[int, dict[str, float | None]]
    reason: str
    seconds: float

    @property
    def is_preset(self) -> bool:
        """Whether it is the preset itself."""
        return self.number == 0

    @property
    def folder(self) -> str:
        """Its name in STUDY/trials."""
        return f"{self.number:04d}"

    @property
    def at(self) -> int:
        """Images seen at the last rung it came to; 0 if it was never scored."""
        return max(self.scores, default=0)

    def score(self, objective: str, images: int | None = None) -> float | None:
        """Its score after so many images, or at the last rung it came to."""
        return self.scores.get(self.at if images is None else images, {}).get(objective)


class Trials:
    """The trials of one study, in a storage of their own or one that machines share.

    Args:
        out: the study's folder.
        plan: what it is about; a storage of another study is refused.
        url: of a database; None for STUDY/trials.db.

    Attributes:
        study: Optuna's.

    Raises:
        MissingPackageError: if Optuna is not installed.
        ConfigError: if the URL cannot be used, or the storage is of another study or an earlier version.
        StorageError: from here and every method, if the storage cannot be read or written.
    """

    def __init__(self, out: Path, plan: StudyPlan, url: str | None = None) -> None:
        require_optuna()
        self.out, self.plan = out, plan
        if (url is None) != (plan.storage == IN_FOLDER):
            raise ConfigError(f"The trials of {out} are in {plan.storage}; name the storage it was begun with.")
        self.url = _url(url or f"sqlite:///{out.resolve() / 'trials.db'}")
        # Machines may see a data set under different paths; in a study's own folder its study.json has been compared.
        identity = plan.plain() | {"dataset": plan.dataset.name}
        with in_turn(out), self.storing():
            self.study = self._open(out.resolve().name)
            known = self.study.user_attrs.get("plan")
            if known is None:
                self.study.set_user_attr("plan", identity)
                return
            compared = [key for key in identity if url is not None or key != "dataset"]
            different = next((key for key in compared if known.get(key) != identity[key]), None)
        if different is not None:
            raise ConfigError(
                f"The storage {self.url} holds a study {self.study.study_name} with another {different}; choose "
                "another --out or --storage."
            )

    def _open(self, name: str) -> optuna.Study:
        import optuna
        from sqlalchemy.exc import ArgumentError

        timeout = {"connect_args": {"timeout": WAIT}} if self.url.drivername.startswith("sqlite") else {}
        try:
            with quiet():
                storage = optuna.storages.RDBStorage(
                    self.url.render_as_string(hide_password=False),
                    engine_kwargs=timeout,
                    heartbeat_interval=HEARD,
                    grace_period=SILENT,
                    heartbeat_stale_trial_callback=_retry,
                )
        except (ImportError, ValueError, ArgumentError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ConfigError(f"The storage {self.url} cannot be opened ({reason}); install its driver.") from error
        directions = ["maximize" if METRICS[metric].higher_is_better else "minimize" for metric in self.plan.objectives]
        return optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            load_if_exists=True,
            # On our rungs: they are told to Optuna as 1, ETA, ETA squared.
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA),
        )

    def fill(self, wanted: int) -> bool:
        """Puts into the queue what is missing of so many trials, and what was interrupted; whether anything waits."""
        import optuna

        with self.storing(), quiet():
            optuna.storages.fail_stale_trials(self.study)
            for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                started = trial.datetime_start or datetime.now()
                if VALUES not in trial.user_attrs and (datetime.now() - started).total_seconds() > SILENT:
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it died before its first sign
            by_number = self._by_number()
            for number in range(wanted):
                known = by_number.get(number, [])
                if not known:
                    own = self.plan.space.labels(self.plan.space.values_of(self.plan.preset)) if number == 0 else {}
                    self.study.enqueue_trial(own, user_attrs={NUMBER: number})
                elif all(_is_interrupted(trial) for trial in known):
                    _retry(self.study, known[-1])
            return bool(self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)))

    def is_taken(self, trial: optuna.Trial) -> bool:
        """Whether what Optuna has handed out is done by another process, or is more than was wanted."""
        number = trial.user_attrs.get(NUMBER)
        if number is None:  # the queue was emptied by others a moment ago, and Optuna made up one more
            return True
        others = [other for other in self._by_number()[number] if other.number != trial.number]
        return any(
            other.state.name in ("COMPLETE", "PRUNED")
            or (other.state.name == "FAIL" and REASON in other.user_attrs)
            or (other.state.name == "RUNNING" and other.number < trial.number)
            for other in others
        )

    def all(self) -> list[Trial]:
        """Every trial that was begun, by number."""
        with self.storing():
            by_number = self._by_number()
        begun = {number: [one for one in known if VALUES in one.user_attrs] for number, known in by_number.items()}
        return [_trial(number, max(known, key=_weight)) for number, known in sorted(begun.items()) if known]

    def front(self) -> list[int]:
        """Numbers of the trials that no other is better than in every objective; with one objective, the best."""
        with self.storing():
            return [int(trial.user_attrs[NUMBER]) for trial in self.study.best_trials]

    def _by_number(self) -> dict[int, list[FrozenTrial]]:
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if NUMBER in trial.user_attrs:
                found.setdefault(trial.user_attrs[NUMBER], []).append(trial)
        return found

    @contextmanager
    def storing(self) -> Iterator[None]:
        """The storage's errors as one sentence."""
        from optuna.exceptions import OptunaError, TrialPruned, UpdateFinishedTrialError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (TerramorphError, TrialPruned, UpdateFinishedTrialError):
            raise
        except (OptunaError, SQLAlchemyError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:160].rstrip(".")
            raise StorageError(
                f"The study's storage {self.url} cannot be used ({reason}); free or restore it, and run again."
            ) from error


def make_sampler(plan: StudyPlan, wanted: int) -> optuna.samplers.BaseSampler:
    """Optuna's TPE, made anew for each trial: what is proposed depends on the seed, its number and what is known, and
    not on which process proposes it."""
    import optuna

    class Reseeded(optuna.samplers.BaseSampler):  # type: ignore[misc]
        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            number = trial.user_attrs.get(NUMBER, trial.number)
            with quiet():
                self.own = optuna.samplers.TPESampler(
                    n_startup_trials=min(_STARTUP, max(2, wanted // 4)),
                    multivariate=True,
                    group=True,  # which spaces with conditions need
                    constant_liar=True,  # those that others work on count as poor, or all would try the same
                    seed=int(np.random.SeedSequence((plan.preset.seed, number)).generate_state(1)[0]),
                )
            self.own.before_trial(study, trial)

        def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
            return dict(self.own.infer_relative_search_space(study, trial))

        def sample_relative(
            self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
        ) -> dict[str, Any]:
            return dict(self.own.sample_relative(study, trial, search_space))

        def sample_independent(
            self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
        ) -> Any:
            return self.own.sample_independent(study, trial, param_name, param_distribution)

    return Reseeded()


def require_optuna() -> None:
    """Raises MissingPackageError if Optuna is not installed; makes it and what is beneath it quiet."""
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError(
            "Optuna is not installed; install it with pip install 'terramorph[study]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def quiet() -> Iterator[None]:
    """Uses what Optuna calls experimental, without its saying so."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts a trial that was interrupted back into the queue, with what it has scored."""
    import optuna

    with quiet():
        optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _is_interrupted(trial: FrozenTrial) -> bool:
    return trial.state.name == "FAIL" and REASON not in trial.user_attrs


def _weight(trial: FrozenTrial) -> tuple[int, int]:
    """Of trials with one number, the one that counts: what has ended, else what runs, else the newest."""
    rank = {"COMPLETE": 3, "PRUNED": 3, "RUNNING": 2}.get(trial.state.name, 0)
    return (1 if trial.state.name == "FAIL" and not _is_interrupted(trial) else rank, trial.number)


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    states: Mapping[str, Literal["complete", "pruned"]] = {"COMPLETE": "complete", "PRUNED": "pruned"}
    ended = "failed" if frozen.state.name == "FAIL" and not _is_interrupted(frozen) else "running"
    return Trial(
        number=number,
        state=states.get(frozen.state.name, "failed" if ended == "failed" else "running"),
        values=frozen.user_attrs[VALUES],
        scores={int(images): scores for images, scores in frozen.user_attrs.get(SCORES, {}).items()},
        reason=frozen.user_attrs.get(REASON, ""),
        seconds=frozen.user_attrs.get(SECONDS, 0.0),
    )


def _url(text: str) -> URL:
    """A URL, which hides its password when it is printed."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return make_url(text)
    except SQLAlchemyError as error:
        raise ConfigError(
            "The storage is not a URL as SQLAlchemy takes it, such as postgresql+psycopg://user@host/database."
        ) from error
