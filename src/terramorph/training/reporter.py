"""What a run tells while it goes: its plan, its steps, its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from terramorph.training.config import TrainConfig
from terramorph.training.cost import Cost
from terramorph.training.validation import Validation


@dataclass(frozen=True)
class Plan:
    """What is about to be done.

    Attributes:
        config: resolved.
        dataset, out: folders.
        pairs: training pairs that are used.
        skipped: sentences about those that are not.
        first_step, total_steps: optimizer steps done before, and in all.
        parameters: of each network.
        device, precision: as resolved.
        bands: of source and target.
        afresh: tensors that the model it starts from does not fill.
        processes: how many train together.
    """

    config: TrainConfig
    dataset: Path
    out: Path
    pairs: int
    skipped: tuple[str, ...]
    first_step: int
    total_steps: int
    parameters: dict[str, int]
    device: str
    precision: str
    bands: tuple[int, int]
    afresh: tuple[str, ...]
    processes: int


@dataclass(frozen=True)
class StepReport:
    """One step, or on an accelerator the last of a few.

    Attributes:
        step, total: optimizer steps done, and in all.
        losses: by readable names.
        images_per_second: over the last steps, all processes together.
        eta_seconds: until the end at that pace.
        wait_share: part of the time that was spent making batches.
        verdict: why the run is thought dead, as in `TrainResult`; None while it is not.
    """

    step: int
    total: int
    losses: dict[str, float]
    images_per_second: float
    eta_seconds: float
    wait_share: float
    verdict: str | None = None


class Stopwatch:
    """How fast the last steps were."""

    def __init__(self, step: int, images: int) -> None:
        self._images = images
        self.restart(step)

    def restart(self, step: int) -> None:
        self._begun, self._waited, self._since = time.perf_counter(), 0.0, step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here went into making batches."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def report(self, step: int, total: int, losses: dict[str, float], verdict: str | None) -> StepReport:
        """What is told of a step."""
        elapsed = max(time.perf_counter() - self._begun, 1e-9)
        pace = (step - self._since) / elapsed
        return StepReport(
            step,
            total,
            losses,
            images_per_second=pace * self._images,
            eta_seconds=(total - step) / pace,
            wait_share=self._waited / elapsed,
            verdict=verdict,
        )


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: finished with a model, or stopped with a checkpoint to go on from.

    Attributes:
        finished: whether all steps are done, or early stopping ended the run.
        model: the bundle of a finished run.
        checkpoint: what to go on from.
        step, total: optimizer steps done, and in all.
        verdict: the first warning of `Health`: why the run is thought dead, although it was let go on. A caller that
            wants to end such a run looks for it in the `StepReport`s and says so in `should_stop`. A run whose numbers
            are no longer finite has no result: it raises TrainingDivergedError.
        cost: of what this call did.
    """

    finished: bool
    model: Path | None
    checkpoint: Path
    step: int
    total: int
    verdict: str | None = None
    cost: Cost | None = None


class Reporter(Protocol):
    """Who is told how it goes. What a subclass leaves out says nothing."""

    def started(self, plan: Plan) -> None:
        """The configuration is resolved and saved; nothing is trained yet."""
        return

    def step(self, report: StepReport) -> None:
        """A step is done."""
        return

    def validated(self, validation: Validation) -> None:
        """Held-out pairs were translated and scored."""
        return

    def message(self, text: str) -> None:
        """A sentence: a warning, or something that was written."""
        return

    def decoding(self, done: int, total: int) -> None:
        """Pairs are being decoded into the cache."""
        return


class Silent(Reporter):
    """A reporter that says nothing."""
