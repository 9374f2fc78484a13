"""Reports of a run: its plan, its steps, its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from terramorph.training.config import TrainConfig
from terramorph.training.cost import Cost
from terramorph.training.validation import Validation


@dataclass(frozen=True)
class Plan:
    """Plan of a run, reported before the first step.

    Attributes:
        config: Resolved configuration.
        dataset, out: Folders of the dataset and of the run.
        pairs: Number of training pairs.
        skipped: A sentence about each pair that is left out.
        first_step, total_steps: Optimizer steps done before, and in all.
        parameters: Number of trainable values of each network.
        device, precision: Resolved device and precision.
        bands: Bands of source and target.
        afresh: Tensors that the model the run starts from does not fill.
        processes: Number of processes that train together.
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
    """Report of a step; on an accelerator, of the last of several.

    Attributes:
        step, total: Optimizer steps done, and in all.
        losses: Losses by their names in logs.
        images_per_second: Speed over the last steps, all processes together.
        eta_seconds: Seconds to the end at that speed.
        wait_share: Share of the time spent on making batches, 0 to 1.
        verdict: Reason why the run has probably failed, as in `TrainResult`; None without one.
    """

    step: int
    total: int
    losses: dict[str, float]
    images_per_second: float
    eta_seconds: float
    wait_share: float
    verdict: str | None = None


@dataclass(frozen=True)
class TrainResult:
    """Result of a run: finished with a model, or stopped with a checkpoint.

    Attributes:
        finished: Whether all steps are done, or early stopping ended the run.
        model: The bundle of a finished run; None for a stopped one.
        checkpoint: The checkpoint to resume from.
        step, total: Optimizer steps done, and in all.
        verdict: The first warning of `Health`, the reason why the run has probably failed; it goes on all the same. To
            end such a run, read it from a `StepReport` and return True in `should_stop`. A run with values that are
            not finite has no result but raises TrainingDivergedError.
        cost: Cost of this call.
    """

    finished: bool
    model: Path | None
    checkpoint: Path
    step: int
    total: int
    verdict: str | None = None
    cost: Cost | None = None


class Reporter(Protocol):
    """Receives the reports of a run; methods that a subclass leaves out do nothing."""

    def started(self, plan: Plan) -> None:
        """Receive the plan, before the first step; the configuration is saved."""
        return

    def step(self, report: StepReport) -> None:
        """Receive the report of a step."""
        return

    def validated(self, validation: Validation) -> None:
        """Receive outputs and scores of held-out pairs."""
        return

    def message(self, text: str) -> None:
        """Receive a sentence: a warning, or the name of a written file."""
        return

    def decoding(self, done: int, total: int) -> None:
        """Receive the number of pairs decoded into the cache, and of all pairs."""
        return


class Silent(Reporter):
    """A reporter that shows nothing."""
