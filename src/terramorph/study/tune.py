"""Search for better settings: trials climb rungs, the poor ones are left behind, the best becomes a preset.

STUDY/study.json        what the study is about (plan.py)
STUDY/tuning/           pairs it looks at (splits.py)
STUDY/trials.db         its trials, unless a database was named (trials.py)
STUDY/trials/0007/      trial 7: run/ its training, scores/ its last evaluation (climb.py)
STUDY/best.toml         the best trial as a preset, best.safetensors its bundle (conclusion.py)
STUDY/confirm/          the best trial against the preset on pairs that tuning never saw (a comparison)
STUDY/report.html       all of it on one page (tune_page.py)

A trial is scored after 1/9, 1/3 and all of its images (for three rungs), and goes on from its checkpoint if it is among
the best third of those that have been there, by Optuna's SuccessiveHalvingPruner (ASHA; Li et al. 2020, "A System for
Massively Parallel Hyperparameter Tuning").
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
from terramorph.errors import ConfigError
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
    """Begin a study, or go on with it; several processes and machines may do so at once.

        >>> import terramorph
        >>> from terramorph.study import StudyOptions
        >>> from terramorph.training import load_config
        >>> small = {"generator.network": "unet64", "generator.width": 4, "discriminator.width": 4, "recalibrate": 2}
        >>> preset = load_config("pix2pix", {**small, "data.load_size": 64, "data.crop_size": 64})
        >>> found = terramorph.tune("town", "study", preset, StudyOptions(trials=1, images=8, rungs=1))
        >>> found.best.number, found.plan.objectives, found.finished
        (0, ('miou',), True)

    Args:
        dataset: folder of pairs with a train split, and val or test or both.
        out: the study's folder; machines that work together share it.
        preset: what is to be improved; the preset pix2pix if None.
        options: of the study.
        reporter: told how it goes.
        should_stop: asked after every step; if it says True a checkpoint is written and the call ends.
        cache: folder of the decoded pairs.
        allowed: modules from outside whose code may run, where a setting names it.

    Returns:
        The trials so far and the best of them.

    Raises:
        ConfigError: before anything is trained, if the space, an objective or an option cannot be used or the study is
            another one; and if the budget ends before the first rung of any trial.
        DatasetError: there are no pairs to tune or to confirm on.
        StorageError: something cannot be written; finished trials are kept.
        MissingPackageError: Optuna is not installed, or MLflow is asked for and is not.
    """
    require_optuna()
    out, options = Path(out), options or StudyOptions()
    deadline = None if options.budget is None else time.time() + options.budget
    plan = make_plan(Path(dataset), out, preset or TrainConfig(), options, allowed)
    Trials(out, plan, options.storage)  # one that cannot be opened must not bind the folder
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
            "`budget` or fewer `images`. The checkpoint is kept, and the same command goes on."
        )
    return conclude(standing(out, plan, kept, options.trials))


def _work_together(work: Work, listener: StudyReporter, asked: Callable[[], bool]) -> None:
    """Work on a study with several processes, each with its share of the cores.

    They share no lock but those of the files, which the system lets go of: a killed one holds up no other.
    """
    own = added_metrics()
    for metric in own:
        try:
            pickle.dumps(metric)
        except Exception as error:
            raise ConfigError(
                f"The metric {metric.key} cannot be handed to other processes; define its functions at the top of a "
                "module, or tune with jobs=1."
            ) from error
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // work.options.jobs)
    workers, open_ends = [], []
    for _ in range(work.options.jobs):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_worker, args=(work, threads, theirs, own))
        worker.start()
        theirs.close()  # so that its end is seen here when the worker ends
        workers.append(worker)
        open_ends.append(ours)
    failed: list[BaseException] = []
    stopped = False
    while open_ends:
        if not stopped and (failed or asked()):
            stopped = True
            for worker in workers:
                worker.terminate()  # which `_worker` takes as a wish to stop
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
    """Sends what a `StudyReporter` is told from a worker to its parent."""

    def __init__(self, end: Connection) -> None:
        self._end = end

    def progress(self, done: int, total: int, detail: str) -> None:
        self._end.send(("progress", (done, total, detail)))

    def message(self, text: str) -> None:
        self._end.send(("message", (text,)))


def _worker(work: Work, threads: int, end: Connection, metrics: Sequence[Metric]) -> None:
    """One process of `_work_together`. It ends with its parent, which alone listens to the terminal."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    torch.set_num_threads(threads)
    add_metrics(metrics)
    parent = multiprocessing.parent_process()
    try:
        Worker(work, _ToParent(end), lambda: stop.is_set() or parent is None or not parent.is_alive()).go()
    except BrokenPipeError:
        pass  # the parent is gone; what was trained is in the checkpoint of the last rung
    except Exception as error:
        end.send(("failed", error))
