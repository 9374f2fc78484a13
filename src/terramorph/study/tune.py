"""Search for better settings: trials are scored at rungs, poor ones are pruned, the best becomes a preset.

STUDY/study.json        the plan (plan.py)
STUDY/tuning/           links to the pairs of the trials (splits.py)
STUDY/trials.db         the trials, unless a database is given (trials.py)
STUDY/trials/0007/      trial 7: run/ its training, scores/ its last evaluation (climb.py)
STUDY/best.toml         the best trial as a preset, best.safetensors its bundle (conclusion.py)
STUDY/confirm/          comparison of the best trial with the preset on held-out pairs
STUDY/report.html       the page (tune_page.py)

With three rungs a trial is scored after 1/9, 1/3 and all of its images. It continues from its checkpoint if it is in
the best third at that rung, by Optuna's SuccessiveHalvingPruner (ASHA; Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning").
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from terramorph.data import DEFAULT_CACHE
from terramorph.errors import ConfigError, raised_as
from terramorph.metrics import Metric, add_metrics, added_metrics
from terramorph.study.climb import Work, Worker
from terramorph.study.conclusion import TuneResult, conclude, standing
from terramorph.study.plan import StudyOptions, keep_plan, make_plan
from terramorph.study.reporter import SilentStudy, StudyReporter
from terramorph.study.trials import Trials, require_optuna
from terramorph.training import TrainConfig

_LOOK_EVERY = 0.5


def tune(
    dataset: str | Path,
    out: str | Path,
    preset: TrainConfig | None = None,
    options: StudyOptions | None = None,
    *,
    reporter: StudyReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
    allowed: Collection[str] = (),
) -> TuneResult:
    """Begin a study or resume it; several processes and machines may do so at once.

        >>> import terramorph
        >>> from terramorph.study import StudyOptions
        >>> from terramorph.training import load_config
        >>> small = {"generator.network": "unet64", "generator.width": 4, "discriminator.width": 4, "recalibrate": 2}
        >>> preset = load_config("pix2pix", {**small, "data.load_size": 64, "data.crop_size": 64})
        >>> found = terramorph.tune("town", "study", preset, StudyOptions(trials=1, images=8, rungs=1))
        >>> found.best.number, found.plan.objectives, found.finished
        (0, ('miou',), True)

    Args:
        dataset: Folder of pairs with a train split, and val or test or both.
        out: The study's folder; machines that work together share it.
        preset: Configuration to improve; the preset pix2pix if None.
        options: Options of the study.
        reporter: Receives progress.
        should_stop: Called after every step; on True a checkpoint is written and the call ends.
        cache: Folder of the decoded pairs.
        allowed: Modules from outside whose code may run, where a setting names it.

    Returns:
        The trials so far and the best of them.

    Raises:
        ConfigError: Before any training, if the space, an objective or an option is invalid or `out` holds another
            study; later, if the budget ends before the first rung of any trial.
        DatasetError: If there are no pairs to tune or to confirm on.
        StorageError: If something cannot be written; finished trials are kept.
        MissingPackageError: If Optuna, or MLflow where it is asked for, is not installed.
    """
    require_optuna()
    out, options = Path(out), options or StudyOptions()
    deadline = None if options.budget is None else time.time() + options.budget
    plan = make_plan(Path(dataset), out, preset or TrainConfig(), options, allowed)
    Trials(out, plan, options.storage)  # opened first, for one that cannot be opened must not bind the folder
    keep_plan(out, plan)
    work = Work(out, plan, options, deadline, Path(cache), allowed)
    asked, listener = should_stop or (lambda: False), reporter or SilentStudy()
    if options.jobs == 1:
        Worker(work, listener, asked).go()
    else:
        _work_together(work, listener, asked)
    kept = Trials(out, plan, options.storage)
    if work.is_late and not any(trial.scores or trial.state != "running" for trial in kept.all()):
        raise ConfigError(
            f"The budget of {options.budget:.0f} s ends before the first rung of {plan.rungs[0]} images; give a larger "
            "`budget` or fewer `images`. The checkpoint is kept, and the same command resumes."
        )
    return conclude(standing(out, plan, kept, options.trials))


def _work_together(work: Work, listener: StudyReporter, asked: Callable[[], bool]) -> None:
    """Work on a study in several processes, each with its share of the cores.

    Their only locks are those of files, which the system releases when a process is killed.
    """
    own, advice = added_metrics(), "define its functions at the top of a module, or tune with jobs=1"
    for metric in own:
        with raised_as(ConfigError, f"The metric {metric.key} cannot be sent to other processes", advice):
            pickle.dumps(metric)
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // work.options.jobs)
    workers, open_ends = [], []
    for _ in range(work.options.jobs):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_worker, args=(work, threads, theirs, own))
        worker.start()
        theirs.close()  # so that this end closes when the worker ends
        workers.append(worker)
        open_ends.append(ours)
    failed: list[BaseException] = []
    stopped = False
    while open_ends:
        if not stopped and (failed or asked()):
            stopped = True
            for worker in workers:
                worker.terminate()  # SIGTERM, at which `_worker` stops
        for end in wait(open_ends, _LOOK_EVERY):
            assert isinstance(end, Connection)
            try:
                name, said = end.recv()
            except (EOFError, OSError):
                open_ends.remove(end)
                end.close()
                continue
            if name == "failed":
                failed.append(said)
            else:
                getattr(listener, name)(*said)
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    if not stopped and any(worker.exitcode for worker in workers):
        listener.message("A process of the study was killed; its trial is taken up by the next call.")


class _ToParent:
    """Reporter in a worker that sends everything to its parent."""

    def __init__(self, end: Connection) -> None:
        self._end = end

    def progress(self, done: int, total: int, detail: str) -> None:
        self._end.send(("progress", (done, total, detail)))

    def message(self, text: str) -> None:
        self._end.send(("message", (text,)))


def _worker(work: Work, threads: int, end: Connection, metrics: Sequence[Metric]) -> None:
    """Work as one process of `_work_together`; it ends with its parent, which alone handles Ctrl-C."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    torch.set_num_threads(threads)
    add_metrics(metrics)
    parent = multiprocessing.parent_process()
    try:
        Worker(work, _ToParent(end), lambda: stop.is_set() or parent is None or not parent.is_alive()).go()
    except BrokenPipeError:
        pass  # the parent is gone; the checkpoint of the last rung holds what was trained
    except Exception as error:
        end.send(("failed", error))
