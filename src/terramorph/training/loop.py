"""The training loop: counts, logs, saves and resumes the steps of `Pix2Pix`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from terramorph.bundle import Bundle, load_bundle
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import CheckpointError, ConfigError
from terramorph.training.config import TrainConfig
from terramorph.training.cost import Clock
from terramorph.training.devices import any_process, averaged, launch_of, make_fabric
from terramorph.training.finetune import inherited_note, require_weights
from terramorph.training.graph import GraphedStep
from terramorph.training.health import Health, require_finite
from terramorph.training.inputs import Inputs
from terramorph.training.optimizer import AveragedNetwork, rate_factor, total_steps
from terramorph.training.pix2pix import Pix2Pix
from terramorph.training.recalibrate import recalibrate_network, recalibrated
from terramorph.training.reporter import Plan, Reporter, StepReport, TrainResult, default_reporter
from terramorph.training.runlog import RunLog
from terramorph.training.settings import parse_config, with_generator
from terramorph.training.state import (
    CHECKPOINT,
    CONFIG,
    Position,
    held,
    load_state,
    read_position,
    read_settings,
    require_same,
    save_settings,
    save_state,
)
from terramorph.training.terms import Term, with_terms
from terramorph.training.validation import EarlyStopping, stopping_metric

MODEL = "model.safetensors"
BEST = "best.safetensors"
"""The bundle of the best validation of a run with early stopping."""
_VALIDATION_IMAGES = 32
"""Training pairs over which a validation averages statistics: enough for a sheet, a second at batch 1 on a CPU."""


def train(
    dataset: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    skip_bad: bool = False,
    cache: str | Path = DEFAULT_CACHE,
    dry_run: bool = False,
    generator: type[nn.Module] | None = None,
    terms: Sequence[Term] = (),
    allowed: Collection[str] = (),
) -> TrainResult:
    """Train a model from pairs.

    Args:
        dataset: Folder with a train split, and a val or test split for the sample sheets.
        out: Folder of the run; must not hold a run already.
        config: Resolved configuration; the preset pix2pix if None.
        reporter: Receives the progress; None shows it in a notebook, and nothing elsewhere.
        should_stop: Called after every step; if it returns True, a checkpoint is written and the run ends unfinished.
        skip_bad: Leave out pairs that cannot be read, and list them.
        cache: Folder of the decoded pairs.
        dry_run: Stop after the configuration is resolved, reported and saved.
        generator: A class that replaces the configured generator; it takes in_bands, out_bands and
            `config.generator.settings`, and has `stride` and `halo` (see `terramorph.networks.generator`).
        terms: Further terms of the generator's loss, besides those of the configuration.
        allowed: Modules whose code the configuration may name as `package.module:name`.

    Returns:
        The result. A finished run holds `model.safetensors`.

    Raises:
        ConfigError, DatasetError: If the configuration or the dataset cannot be used, before anything is trained.
        TrainingDivergedError: If a loss is no longer finite; the last good checkpoint stays.
        StorageError: If a file cannot be written; the last good checkpoint stays.
    """
    out = Path(out)
    require_new_run(out)
    config = with_terms(config or TrainConfig(), terms)
    if generator is not None:
        config, allowed = with_generator(config, generator), [*allowed, generator.__module__]
    run = _Run(Path(dataset), out, config, reporter or default_reporter(), skip_bad, Path(cache), terms, allowed)
    return run.go(should_stop, dry_run)


def resume(
    run: str | Path,
    dataset: str | Path | None = None,
    *,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
    max_steps: int | None = None,
    terms: Sequence[Term] = (),
    allowed: Collection[str] = (),
) -> TrainResult:
    """Resume a run from its last checkpoint, or its beginning, to the same weights as without the interruption.

    Args:
        run: Folder of the run.
        dataset: New folder of the dataset, if it was moved; the pairs must be the same.
        reporter, should_stop, cache, terms, allowed: As in `train`.
        max_steps: New last step. A finished run continues to a later one as if it had never stopped, and keeps its
            model until the new one is written; a run that is past it finishes where it is.

    Raises:
        CheckpointError: If the folder holds no run, its checkpoint is damaged, or pairs have changed or are missing.
        ConfigError: If `max_steps` is negative.
    """
    out = Path(run)
    settings = read_settings(out)
    config = parse_config(settings["config"])
    if max_steps is not None:
        config = parse_config({**settings["config"], "max_steps": max_steps})
    config = with_terms(config, terms)
    pairs = Path(dataset or settings["dataset"])
    if dataset is None and not pairs.is_dir():
        raise CheckpointError(
            f"The dataset {pairs} of the run {out} does not exist; name its new folder beside `resume` {out}."
        )
    reporter, skip_bad = reporter or default_reporter(), settings["skip_bad"]
    return _Run(pairs, out, config, reporter, skip_bad, Path(cache), terms, allowed).go(should_stop, dry_run=False)


def require_new_run(out: Path) -> None:
    """Validate that a folder holds no run."""
    for name in (CHECKPOINT, MODEL):
        if (out / name).is_file():
            raise ConfigError(f"{out} already holds a run ({name}); `resume` it, or choose another `out`.")


class _Run:
    """One run, from pairs to a bundle."""

    def __init__(
        self,
        dataset: Path,
        out: Path,
        config: TrainConfig,
        reporter: Reporter,
        skip_bad: bool,
        cache: Path,
        terms: Sequence[Term],
        allowed: Collection[str],
    ) -> None:
        self.dataset, self.out, self.config, self.reporter = dataset, out, config, reporter
        self.skip_bad, self.allowed = skip_bad, allowed
        metric = stopping_metric(config.stop.metric, allowed)
        begun = read_position(out / CHECKPOINT) if (out / CHECKPOINT).is_file() else None
        restored = begun is not None
        require_weights(config, restored)
        self.fabric = make_fabric(config, "" if begun is None else begun.precision)
        self.launch = launch_of(config, self.fabric)
        self.inputs = Inputs(dataset, config, self.fabric, skip_bad, cache, metric, reporter.decoding)
        self.pairs = self.inputs.pairs
        source, target = (side.count for side in self.inputs.bands)
        self.recipe = Pix2Pix(config, source, target, self.fabric, terms, allowed, restored)
        self.recipe.fit(self.inputs.targets)
        self.generator: nn.Module = self.recipe.networks["generator"]
        self.average = AveragedNetwork(self.generator, config.ema) if config.ema else None
        self.health = Health()
        self.stopping = EarlyStopping(config.stop, metric)
        self.per_step = self.inputs.per_step
        self.clock = Clock(self.fabric.device, self.recipe.networks, self.per_step)
        self.total = total_steps(config.schedule, len(self.pairs), self.per_step, config.max_steps)
        self.done = 0
        self.saved = -1
        if begun is not None:
            self._restore(begun)

    def _restore(self, position: Position) -> None:
        require_same(position, self.config, self.pairs.fingerprint, self.fabric.world_size, self.out / CONFIG)
        load_state(self.out / CHECKPOINT, self.recipe, self.average)
        self.health.restore(position.health)
        self.stopping.restore(position.stopping)
        self.done = self.saved = position.step

    def go(self, should_stop: Callable[[], bool] | None, dry_run: bool) -> TrainResult:
        """Take steps until the end, or until `should_stop` returns True."""
        with held(self.out) if self.fabric.is_global_zero else nullcontext():
            return self._go(should_stop, dry_run)

    def _go(self, should_stop: Callable[[], bool] | None, dry_run: bool) -> TrainResult:
        plan = self._plan()
        if self.fabric.is_global_zero:
            save_settings(plan, self.skip_bad)
        self.reporter.started(plan)
        if dry_run:
            return self._result(False, None)
        log = RunLog(self.out if self.fabric.is_global_zero else None, self.done)
        how = {"total": self.total, "pairs": len(self.pairs), "launch": self.launch}
        log.event("resumed" if self.done else "started", step=self.done, **how)
        try:
            finished = self._steps(log, should_stop or (lambda: False))
            model = self._finish(log) if finished else None
        finally:
            log.close()
        return self._result(finished, model)

    def _result(self, finished: bool, model: Path | None) -> TrainResult:
        checkpoint, cost = self.out / CHECKPOINT, self.clock.cost()
        return TrainResult(finished, model, checkpoint, self.done, self.total, self.health.verdict, cost)

    def _steps(self, log: RunLog, should_stop: Callable[[], bool]) -> bool:
        config, device = self.config, self.fabric.device
        step = GraphedStep(self.recipe) if self.launch == "graph" else self.recipe.step
        # Reading a loss waits for the device, so on an accelerator only some steps are read.
        look_every = 1 if device.type == "cpu" else config.log.scalars
        self.clock.restart(self.done)
        patient = bool(config.stop.patience)
        while self.done < self.total and not (patient and any_process(self.fabric, self.stopping.over)):
            with self.clock.step():
                with self.clock.waiting():
                    batches = self.inputs.of_step(self.done)
                self.recipe.set_rate(rate_factor(config.schedule, self.done, len(self.pairs), self.per_step))
                mixed = np.random.SeedSequence((config.seed, self.done, self.fabric.global_rank))
                self.recipe.noise.manual_seed(int(mixed.generate_state(1, np.uint64)[0] >> 1))
                losses = step(batches, self.done)
                if self.average is not None:
                    self.average.update(self.generator, self.done)
                self.done += 1
                last = self.done == self.total
                looking = self.done % look_every == 0 or last
                values = averaged(self.fabric, losses) if looking else {}
            if looking:
                for warning in self.health.check_losses(self.done, values, look_every, self.recipe.networks):
                    self._warn(log, warning)
                pace, waited = self.clock.speed(self.done)
                left = (self.total - self.done) * self.per_step / pace
                report = StepReport(self.done, self.total, values, pace, left, waited, self.health.verdict)
                self.reporter.step(report)
                if self.done % config.log.scalars == 0 or last:
                    rates = {"images per second": report.images_per_second, "wait share": report.wait_share}
                    log.scalars(self.done, {**values, **rates})
                    self.clock.restart(self.done)
            if self.done % config.log.samples == 0 or last:
                self._validate(log)
            stop = any_process(self.fabric, should_stop())
            if self.done % config.log.checkpoint == 0 or last or stop:
                self._save()
            if stop and not last:
                log.event("stopped", step=self.done)
                return False
        return True

    def _warn(self, log: RunLog, warning: str) -> None:
        log.event("warning", step=self.done, text=warning)
        self.reporter.message(warning)

    def _validate(self, log: RunLog) -> None:
        if self.inputs.validator is None or not self.fabric.is_global_zero:
            return
        network = self.average.network if self.average is not None else self.generator
        # Running statistics lag behind the weights; a validation scores what a bundle of this step would give.
        sources = self.inputs.calibration(_VALIDATION_IMAGES)
        fitting = recalibrated(network, sources) if self.config.recalibrate else nullcontext()
        with self.fabric.autocast(), fitting:
            found = self.inputs.validator.validate(network, self.done)
            if self.stopping.improved(found.scores) and self.config.stop.patience:
                was = network.training
                self._bundle(network, bool(self.config.recalibrate)).save(self.out / BEST)
                network.train(was)  # a bundle's network is in evaluation mode
        for warning in self.health.check_outputs(self.done, found.translated, found.truth):
            self._warn(log, warning)
        log.validation(self.done, found.scores, found.sheet)
        self.reporter.validated(found)

    def _save(self) -> None:
        if not self.fabric.is_global_zero or self.saved == self.done:
            return
        require_finite(self.done, self.recipe.networks)
        position = Position(
            self.done,
            self.config.model_dump(mode="json"),
            self.pairs.fingerprint,
            self.fabric.world_size,
            self.health.state(),
            self.stopping.state(),
            str(self.fabric._precision.precision),
        )
        save_state(self.out / CHECKPOINT, position, self.recipe, self.average)
        self.saved = self.done

    def _finish(self, log: RunLog) -> Path:
        model = self.out / MODEL
        if self.fabric.is_global_zero:
            self._save()
            best = None
            if self.config.stop.patience and (self.out / BEST).is_file():  # no validation may have had a finite score
                best = load_bundle(self.out / BEST, self.allowed)
            if best is not None:
                network = best.network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            else:
                network = self.average.network if self.average is not None else self.generator
            with self.fabric.autocast():
                measured = bool(self.config.recalibrate) and recalibrate_network(network, self.inputs.calibration())
            (best or self._bundle(network, measured)).save(model)
            log.event("finished", step=self.done, verdict=self.health.verdict, **asdict(self.clock.cost()))
        self.fabric.barrier()
        return model

    def _bundle(self, network: nn.Module, recalibrated: bool) -> Bundle:
        source, target = self.inputs.bands
        return Bundle.of(
            network,
            self.config.generator.network,
            source=source,
            target=target,
            direction=self.config.direction,
            size=self.config.data.crop_size,
            recalibrated=recalibrated,
            ground_resolution=self.pairs.ground_resolution,
            recipe=self.config.model_dump(mode="json"),
            data={
                "name": self.dataset.name,
                "fingerprint": self.pairs.fingerprint,
                "pairs": len(self.pairs),
                "steps": self.done,
            },
            note=inherited_note(self.config.start),
        )

    def _plan(self) -> Plan:
        return Plan(
            config=self.config,
            dataset=self.dataset,
            out=self.out,
            pairs=len(self.pairs),
            skipped=self.pairs.skipped,
            first_step=self.done,
            total_steps=self.total,
            parameters=self.clock.cost().parameters,
            device=str(self.fabric.device),
            precision=str(self.fabric._precision.precision),
            bands=(self.inputs.bands[0].count, self.inputs.bands[1].count),
            afresh=self.recipe.afresh,
            processes=self.fabric.world_size,
        )
