"""Who is told of a study: its reporter, that of one training of it, and a tracker of its runs, none or an MLflow store.

`mlflow ui --backend-store-uri sqlite:///OUT/mlflow.db` sorts and compares the runs of a study. The store is written
without a server, and nothing is sent over the network.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from terramorph.atomic import locked
from terramorph.errors import StorageError, raised_as
from terramorph.imports import needs
from terramorph.training import Plan, StepReport
from terramorph.training.reporter import Silent

_TELL_EVERY = 0.5  # seconds
_PARAMETERS_AT_ONCE = 100  # MLflow's limit for one call


class StudyReporter(Protocol):
    """Receiver of a study's progress; methods that a subclass leaves out do nothing."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Report the runs or trials that are over, their total, and what is in progress."""
        return

    def message(self, text: str) -> None:
        """Report a sentence: which run begins, or how one ended."""
        return


class SilentStudy(StudyReporter):
    """A reporter that reports nothing."""


class Watch(Silent):
    """Reporter of one training that tells its progress every half second; `warning` is the first of a health check."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, time.monotonic()
        self.plan: Plan | None = None
        self.step_now = 0
        self.warning = ""

    @property
    def has_stepped(self) -> bool:
        """Whether the training has taken a step."""
        return self.plan is not None and self.step_now > self.plan.first_step

    def started(self, plan: Plan) -> None:
        self.plan, self.step_now = plan, plan.first_step

    def step(self, report: StepReport) -> None:
        self.step_now = report.step
        seen = 0 if self.plan is None else report.step * self.plan.config.per_step
        self._say(f"{seen} images, {report.images_per_second:.1f} images/s")

    def decoding(self, done: int, total: int) -> None:
        self._say(f"decoding pair {done} of {total}")

    def message(self, text: str) -> None:
        self.warning = self.warning or text

    def _say(self, text: str) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            self._tell(text)


class NoTracking:
    """A tracker that logs nothing; base of all trackers."""

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, Any]) -> Iterator[NoTracking]:
        """Log the block as one run, with settings by dotted key; a run of the same name is resumed."""
        yield self

    def log_metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Log scores after `step` images, without those that are None or not finite."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file of the run; `folder` groups files."""

    def log_sheet(self, run: Path) -> None:
        """Log the newest sample sheet in a run's folder."""
        for sheet in sorted((run / "samples").glob("*.png"))[-1:]:
            self.log_artifact(sheet, "samples")

    def fail(self, reason: str) -> None:
        """Log the reason why the run failed."""


class MlflowTracking(NoTracking):
    """The MLflow store OUT/mlflow.db, with files in OUT/mlflow-artifacts; several processes may write at once.

    A process has one run open at a time.
    """

    def __init__(self, out: Path, experiment: str) -> None:
        out = out.resolve()
        self.store = out / "mlflow.db"
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it while it is imported
        with _quiet():
            with needs("MLflow", "mlflow"):
                from mlflow import MlflowClient
            for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
                logging.getLogger(name).setLevel(logging.WARNING)
            # Two processes must not create the tables of a new store at once.
            out.mkdir(parents=True, exist_ok=True)
            busy = StorageError(f"Another process holds {out / 'mlflow.lock'}; end it if it hangs.")
            with locked(out / "mlflow.lock", busy, wait=120), self.storing():
                self._client = MlflowClient(tracking_uri=f"sqlite:///{self.store}")
                known = self._client.get_experiment_by_name(experiment)
                self._experiment = (
                    known.experiment_id
                    if known is not None
                    else self._client.create_experiment(experiment, (out / "mlflow-artifacts").as_uri())
                )

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, Any]) -> Iterator[NoTracking]:
        """Log the block as a run of the store: FINISHED after the block, FAILED after `fail` or an exception."""
        from mlflow.entities import Param

        with self.storing():
            quoted = name.replace("'", "\\'")
            known = self._client.search_runs([self._experiment], f"attributes.run_name = '{quoted}'", max_results=1)
            run = known[0] if known else self._client.create_run(self._experiment, run_name=name)
            self._run, self._failed = run.info.run_id, False
            self._client.update_run(self._run, status="RUNNING")
            listed = [Param(key, str(value)) for key, value in parameters.items()]
            for first in range(0, len(listed), _PARAMETERS_AT_ONCE):
                self._client.log_batch(self._run, params=listed[first : first + _PARAMETERS_AT_ONCE])
        status = "FAILED"
        try:
            yield self
            status = "FAILED" if self._failed else "FINISHED"
        finally:
            with self.storing():
                self._client.set_terminated(self._run, status)

    def log_metrics(self, values: Mapping[str, float | None], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        listed = [
            Metric(key.replace(" ", "_"), float(value), now, step)
            for key, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        with self.storing():
            self._client.log_batch(self._run, metrics=listed)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        with self.storing():
            self._client.log_artifact(self._run, str(path), folder or None)

    def fail(self, reason: str) -> None:
        self._failed = True
        with self.storing():
            self._client.set_tag(self._run, "reason", reason)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Raise errors of MLflow and of the database as StorageError; suppress warnings of MLflow."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        kinds = (MlflowException, SQLAlchemyError, OSError)
        failed = f"The MLflow store {self.store} cannot be used"
        with _quiet(), raised_as(StorageError, failed, "make it writable", *kinds):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress deprecation warnings of MLflow and its libraries."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message=r".*`?noload`? loader strategy")
        yield
