"""`terramorph train`: training of a bundle from pairs and a recipe."""

from __future__ import annotations

import functools
import os
import shlex
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terramorph.cli.choices import (
    Allow,
    Cache,
    Device,
    Direction,
    Settings,
    SkipBad,
    TrainingSeed,
    allowed_modules,
    argument,
    from_here,
    option,
)
from terramorph.cli.console import say
from terramorph.cli.reporting import NOTICE, stop_after_step
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.training import TrainResult

NAME = "train"
EXAMPLE = (
    "Example: terramorph train data/maps --preset pix2pix --direction AtoB --out runs/maps --set loss.l1_weight=50\n\n"
    "To resume after an interruption: terramorph train --resume runs/maps"
)


def run(
    dataset: Annotated[
        Path | None, argument("Folder of pairs: train/ and val/, A|B images or A/ and B/ twins.")
    ] = None,
    preset: Annotated[
        str | None, option("A preset's name, a TOML file, or a run's config.json. Default: pix2pix.")
    ] = None,
    direction: Annotated[Direction | None, option("AtoB: the left half (or A/) is the source.")] = None,
    out: Annotated[Path | None, option("Output folder of the run; the trained model is OUT/model.safetensors.")] = None,
    resume: Annotated[Path | None, option("Resume the run in this folder; give DATASET only if it was moved.")] = None,
    model: Annotated[str | None, option("Fine-tune this model; its recipe is the default preset.", "--from")] = None,
    partial: Annotated[bool, option("With --from: initialize weights that do not fit.", "--partial")] = False,
    freeze: Annotated[
        list[str] | None, option("Generator weights to freeze, such as 'down.*'; repeatable.", metavar="PATTERN")
    ] = None,
    max_steps: Annotated[int | None, option("Stop after this many steps.", min=1)] = None,
    batch_size: Annotated[int | None, option("Pairs per step and process.", min=1)] = None,
    device: Annotated[Device | None, option("Device to compute on.")] = None,
    seed: TrainingSeed = None,
    assignments: Settings = None,
    allow: Allow = None,
    cache: Cache = None,
    skip_bad: SkipBad = False,
    dry_run: Annotated[bool, option("Print the resolved configuration and stop.", "--dry-run")] = False,
    verbose: Annotated[bool, option("Print the configuration, every loss and score.", "--verbose", "-v")] = False,
) -> None:
    """Train a model on pairs."""
    changes = {
        "direction": direction,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "device": device,
        "seed": seed,
        "start.partial": partial or None,
        "start.freeze": freeze,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    others = out is not None or model is not None or given.keys() - {"max_steps"} or assignments or dry_run or skip_bad
    if resume is not None and others:
        raise ConfigError(
            "--resume keeps the settings of the run; it takes only --max-steps, --allow, --cache and DATASET."
        )
    if resume is None and (dataset is None or (out is None and not dry_run)):
        missing = "DATASET" if dataset is None else "--out RUN"
        raise ConfigError(f"{missing} is missing: give DATASET and --out RUN to start, or --resume RUN to resume.")

    from terramorph.data import DEFAULT_CACHE
    from terramorph.training import config_of, load_config, parse_assignments, train
    from terramorph.training import resume as go_on

    how: dict[str, Any] = {"cache": cache or DEFAULT_CACHE}
    if resume is not None:
        how |= {"max_steps": max_steps, "allowed": from_here(allow)}
        _run(functools.partial(go_on, resume, dataset, **how), resume, cache, verbose=verbose)
        return
    assert dataset is not None
    assigned = parse_assignments(assignments or [])
    changed = {**assigned, **given}
    how |= {"skip_bad": skip_bad, "dry_run": dry_run, "allowed": allowed_modules(allow, assigned)}
    if model is not None and preset is None:
        config = config_of(model, changed)
    else:
        config = load_config(preset or "pix2pix", {**changed, "start.model": model or ""})
    # A dry run keeps nothing.
    with TemporaryDirectory(prefix="terramorph-") if out is None else nullcontext(out) as folder:
        _run(functools.partial(train, dataset, Path(folder), config, **how), out, cache, dry_run, verbose)


def _run(
    work: Callable[..., TrainResult], out: Path | None, cache: Path | None, dry_run: bool = False, verbose: bool = False
) -> None:
    """Train until the end or a signal, and print the result."""
    from terramorph.cli.reporting import TrainingReporter
    from terramorph.report.numbers import counted

    # Under torchrun every process runs this; the first one prints for all.
    first = os.environ.get("RANK", "0") == "0"
    with (
        stop_after_step(NOTICE if first else "") as stop,
        TrainingReporter(quiet=not first, nowhere=out is None, verbose=verbose or dry_run, stop=stop) as reporter,
    ):
        result = work(reporter=reporter, should_stop=stop)
    if dry_run:
        if first:
            say("Dry run: nothing was trained.")
    elif result.finished:
        if first:
            say(f"{result.model} written after {counted(result.step, 'step')}. Details: terramorph info {result.model}")
    else:
        if first:
            command = f"terramorph train --resume {shlex.quote(str(out))}"
            command += f" --cache {shlex.quote(str(cache))}" if cache else ""
            say(f"Stopped after step {result.step} of {result.total}. Checkpoint: {result.checkpoint}")
            say(f"Resume with: {command}")
        # The signal may have reached another process of the group.
        raise typer.Exit(stop.exit_code if stop() else 128 + signal.SIGTERM)
