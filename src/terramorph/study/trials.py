"""The trials of a study: handed out so that no two processes do one, kept so that none that was finished is lost.

Optuna's storage (an SQLite file in the study's folder, or any database by URL) knows every trial, and its sampler
proposes the next. Around it stand four rules:

- Trials are handed out one at a time, under STUDY/lock. A process holds the lock STUDY/trials/NAME/lock for as long as
  it works on a trial; the system lets go of it when the process dies, and the next that asks takes that trial up again.
- What a trial scored is written to the storage after each rung, so what is lost with a process is a rung.
- Folders that share a database do not see each other's locks. A trial belongs to the folder it was handed out in, by
  the name in STUDY/owner, and no other takes it up; while it is worked on, that is said to the database every minute.
  One that was not heard of for an hour is given up, once nothing else is left to do.
- A finished trial is also a file, STUDY/trials/NAME/trial.json. If the storage is lost, it is filled again from those.
"""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from terramorph.atomic import atomic, locked
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, MissingPackageError, StorageError, TerramorphError
from terramorph.metrics import METRICS
from terramorph.study.plan import IN_FOLDER, StudyPlan
from terramorph.study.space import Space
from terramorph.study.trial import (
    FOLDER,
    OWNER,
    PRESET,
    REASON,
    SCORES,
    SECONDS,
    VALUES,
    Trial,
    as_record,
    from_record,
    states,
    trial_of,
)
from terramorph.study.waiting import in_turn

if TYPE_CHECKING:
    import optuna
    from sqlalchemy import URL

WAIT = 60.0
"""Seconds that a locked SQLite file is waited for."""
_HEARD, _SILENT = 60, 3600
"""Seconds from one sign of life of a trial in a shared database to the next, and without any until it is given up."""
_STARTUP = 10
"""Trials drawn by chance before the sampler has something to learn from; a quarter of all, if that is fewer."""


class GivenUp(Exception):
    """Another machine, which had not heard of a trial for long, has ended it."""


@dataclass
class Taken:
    """A trial that this process works on, and nobody else.

    Attributes:
        trial: as it stood when it was taken.
        folder: of its run.
        id: in the storage.
        scores, seconds: as in `Trial`, kept up.
    """

    trial: Trial
    folder: Path
    id: int
    scores: dict[int, dict[str, float | None]]
    seconds: float


class Trials:
    """The trials of one study, in a storage of their own or one that machines share.

    Args:
        out: the study's folder.
        plan: what it is about; a storage of another study is refused.
        url: of a database; None for STUDY/trials.db.
        wanted: trials in all.

    Raises:
        MissingPackageError: if Optuna is not installed.
        ConfigError: if the URL cannot be used, or the storage is of another study.
        StorageError: from here and every method, if the storage cannot be read or written.
    """

    def __init__(self, out: Path, plan: StudyPlan, url: str | None = None, wanted: int = 0) -> None:
        require_optuna()
        self.out, self.plan, self.wanted = out, plan, wanted
        if (url is None) != (plan.storage == IN_FOLDER):
            raise ConfigError(f"The trials of {out} are in {plan.storage}; name with --storage what it was begun with.")
        self.url = _url(url or f"sqlite:///{out.resolve() / 'trials.db'}")
        self._is_shared = url is not None
        # Machines may see a data set under different paths; in a study's own folder its study.json has been compared.
        identity = plan.plain() | {"dataset": plan.dataset.name}
        compared = [key for key in identity if self._is_shared or key != "dataset"]
        with self._turn():
            self._study = self._open(out.resolve().name)
            self._owner = self._name() if self._is_shared else ""
            known = self._study.user_attrs.get("plan")
            if known is None:
                self._study.set_user_attr("plan", identity)
                self._refill()
                refilled = self._study.get_trials(deepcopy=False)
                if not any(PRESET in trial.user_attrs for trial in refilled):
                    own = plan.space.labels(plan.space.values_of(plan.preset))
                    self._study.enqueue_trial(own, user_attrs={PRESET: True})
            elif different := next(
                (key for key in identity if key in compared and known.get(key) != identity[key]), ""
            ):
                raise ConfigError(
                    f"The storage {self.url} holds a study {self._study.study_name} with another {different}; choose "
                    "another --out or --storage."
                )

    def _open(self, name: str) -> optuna.Study:
        import optuna
        from sqlalchemy.exc import ArgumentError

        timeout = {"connect_args": {"timeout": WAIT}} if self.url.drivername.startswith("sqlite") else {}
        signs = {"heartbeat_interval": _HEARD, "grace_period": _SILENT} if self._is_shared else {}
        try:
            with _as_experiment():
                self._storage = optuna.storages.RDBStorage(
                    self.url.render_as_string(hide_password=False), engine_kwargs=timeout, **signs
                )
        except (ImportError, ValueError, ArgumentError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ConfigError(f"The storage {self.url} cannot be opened ({reason}); install its driver.") from error
        directions = ["maximize" if METRICS[metric].higher_is_better else "minimize" for metric in self.plan.objectives]
        return optuna.create_study(storage=self._storage, study_name=name, directions=directions, load_if_exists=True)

    def _name(self) -> str:
        """What this folder is called in a database that others share: paths and hosts may be those of another, too."""
        path = self.out / "owner"
        if not path.is_file():
            with atomic(path) as part:
                part.write_text(uuid4().hex, encoding="utf-8")
        return path.read_text(encoding="utf-8")

    @contextmanager
    def take(self) -> Iterator[Taken | None]:
        """Hands out a trial for as long as the block lasts: one whose process is gone, else a new one, else None.

        In the block, what is kept of the trial raises `GivenUp` if another machine has ended it.
        """
        with ExitStack() as held:
            with self._turn():
                taken = self._abandoned(held) or self._new(held)
                if taken is None and self._is_shared:
                    self._give_up()
            if taken is not None and self._is_shared:
                held.enter_context(self._signs_of_life(taken.id))
            yield taken

    @contextmanager
    def _signs_of_life(self, trial: int) -> Iterator[None]:
        """Says to the database again and again that a trial is worked on."""
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        over = threading.Event()

        def tell() -> None:
            while not over.is_set():
                with suppress(OptunaError, SQLAlchemyError):  # there is time for many more
                    self._storage.record_heartbeat(trial)
                over.wait(_HEARD)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _give_up(self) -> None:
        """Ends the trials that no machine was heard to work on."""
        import optuna

        with _as_experiment():
            optuna.storages.fail_stale_trials(self._study)

    def spend(self, taken: Taken, seconds: float) -> None:
        """Keeps that a process worked on a trial for so long."""
        taken.seconds += seconds
        with self._storing():
            self._keep(taken.id, SECONDS, taken.seconds)

    def record(self, taken: Taken, images: int, scores: Mapping[str, float | None]) -> None:
        """Keeps what a trial scored at a rung."""
        taken.scores[images] = dict(scores)
        value = scores[self.plan.objectives[0]]
        with self._storing():
            self._keep(taken.id, SCORES, {str(key): scores for key, scores in taken.scores.items()})
            if len(self.plan.objectives) == 1 and value is not None:
                # What the sampler knows of a trial that is pruned later.
                self._storage.set_trial_intermediate_value(taken.id, images, value)

    def doom(self, taken: Taken, reason: str) -> None:
        """Keeps why a trial will be pruned, before its process can be gone."""
        with self._storing():
            self._keep(taken.id, REASON, reason)

    def finish(self, taken: Taken, state: str, reason: str = "") -> None:
        """Ends a trial: complete, pruned or failed."""
        with self._storing():
            frozen = self._storage.get_trial(taken.id)
            if frozen.state.is_finished():
                raise GivenUp
            if reason:
                self.doom(taken, reason)
                frozen = self._storage.get_trial(taken.id)
            values = None
            if state == "complete":
                values = [taken.scores[self.plan.rungs.last][name] for name in self.plan.objectives]
            record = as_record(frozen, state, values)
            with atomic(taken.folder / "trial.json", make_folder=True) as part:
                part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            self._study.tell(frozen.number, values, states()[state])

    def all(self) -> list[Trial]:
        """Every trial that was begun, by number."""
        with self._storing():
            found = self._study.get_trials(deepcopy=False)
        return [trial_of(trial) for trial in found if trial.state.name != "WAITING"]

    def front(self) -> list[int]:
        """Numbers of the trials that no other is better than in every objective; with one objective, the best."""
        with self._storing():
            return [trial.number for trial in self._study.best_trials]

    def _abandoned(self, held: ExitStack) -> Taken | None:
        """A trial of this folder that is running and that no process works on."""
        import optuna

        for frozen in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if frozen.user_attrs.get(OWNER, "") == self._owner:  # else its lock is in a folder elsewhere
                taken = self._hold(held, optuna.trial.Trial(self._study, frozen._trial_id))
                if taken is not None:
                    return taken
        return None

    def _new(self, held: ExitStack) -> Taken | None:
        import optuna

        known = self._study.get_trials(deepcopy=False)
        if sum(trial.state.name != "WAITING" for trial in known) >= self.wanted:
            return None
        with _as_experiment():  # `group`, which spaces with conditions need
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=min(_STARTUP, max(2, self.wanted // 4)),
                multivariate=True,
                group=True,
                constant_liar=True,  # those that others work on count as poor, or all would try the same
                # A sampler of its own for each trial: what it proposes depends on the seed and what is known.
                seed=int(np.random.SeedSequence((self.plan.preset.seed, len(known))).generate_state(1)[0]),
            )
            trial = self._study.ask()
        return self._hold(held, trial)

    def _hold(self, held: ExitStack, trial: optuna.Trial) -> Taken | None:
        """Locks a trial and completes what a process that died while it was handed out had not written."""
        trials = self.out / "trials"
        if self._owner and OWNER not in trial.user_attrs:
            trial.set_user_attr(OWNER, self._owner)
        if FOLDER not in trial.user_attrs:
            space, preset = self.plan.space, self.plan.preset
            is_preset = trial.user_attrs.get(PRESET, False)
            if is_preset:  # it is itself also where the space does not reach it
                space = Space(tuple(p for p in space.parameters if p.key in space.values_of(preset)))
            values = space.suggest(trial, preset)
            trial.set_user_attr(VALUES, {} if is_preset else values)
            name = next(name for n in count(trial.number) if not (trials / (name := f"{n:04d}")).exists())
            trial.set_user_attr(FOLDER, name)
        folder = trials / str(trial.user_attrs[FOLDER])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(locked(folder / "lock", _Held()))
        except _Held:
            return None
        known = trial_of(self._storage.get_trial(trial._trial_id))
        if known.state != "running":
            return None  # whoever held it ended it since it was listed
        return Taken(known, folder, trial._trial_id, dict(known.scores), known.seconds)

    def _keep(self, trial: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial, key, value)

    def _refill(self) -> None:
        """Puts the finished trials of an earlier storage, now lost, into a new one."""
        for path in sorted((self.out / "trials").glob("*/trial.json")):
            try:
                record = parse_json(path.read_text(encoding="utf-8"))
                self._study.add_trial(from_record(record))
            except (OSError, ValueError, KeyError) as error:
                raise StorageError(
                    f"{path} cannot be read ({error}); restore it, or delete its folder to try that again."
                ) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with in_turn(self.out / "lock"), self._storing():
            yield

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """The storage's errors as one sentence."""
        from optuna.exceptions import OptunaError, UpdateFinishedTrialError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except TerramorphError:
            raise
        except UpdateFinishedTrialError:
            raise GivenUp from None
        except (OptunaError, SQLAlchemyError, KeyError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:160].rstrip(".")
            raise StorageError(
                f"The study's storage {self.url} cannot be used ({reason}); finished trials are kept in "
                f"{self.out / 'trials'}: free or restore the storage, or delete it, and run again."
            ) from error


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
def _as_experiment() -> Iterator[None]:
    """Uses what Optuna calls experimental, and tells outside `Study.optimize` that trials are alive."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
        yield


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


class _Held(Exception):
    """Another process works on a trial."""
