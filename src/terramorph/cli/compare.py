"""`terramorph compare`: the effect of each change of a recipe, over several seeds."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import Allow, Cache, Metrics, Pairs, Settings, allowed_modules, named_metrics, option
from terramorph.cli.console import say
from terramorph.cli.reporting import StudyProgress, stop_after_step
from terramorph.errors import ConfigError

NAME = "compare"
EXAMPLE = (
    "Example: terramorph compare data/maps --study pix2pix-paper --out studies/paper\n\n"
    "On a small machine: terramorph compare data/maps --study improvements --images 4000 --set data.load_size=143 "
    "--set data.crop_size=128 --set generator.network=unet128 --set generator.width=32 --out studies/small"
)


def run(
    dataset: Pairs,
    study: Annotated[str, option("pix2pix-paper, improvements, or a TOML file of your own.")],
    out: Annotated[Path, option("Output folder of the study; the same command resumes it.")],
    seeds: Annotated[int | None, option("Runs of each variant. Default: the study's.", min=1)] = None,
    images: Annotated[int | None, option("Budget of each run, in training images.", min=1)] = None,
    minutes: Annotated[float | None, option("Budget of each run, in minutes (not reproducible).")] = None,
    split: Annotated[str | None, option("Split to score on. Default: the study's, else val, else test.")] = None,
    assignments: Settings = None,
    weights: Annotated[Path | None, option("Folder with the network weights for LPIPS, FD and FID.")] = None,
    mlflow: Annotated[bool, option("Also log the runs to OUT/mlflow.db.", "--mlflow")] = False,
    cache: Cache = None,
    metric: Metrics = None,
    allow: Allow = None,
) -> None:
    """Train a recipe and named changes of it under one budget, and report the effect of each change."""
    from terramorph.data import DEFAULT_CACHE
    from terramorph.metrics import add_metrics
    from terramorph.study import compare, conclude, load_study
    from terramorph.study.reporter import MlflowTracking
    from terramorph.training import parse_assignments

    if images is not None and minutes is not None:
        raise ConfigError("The budget is either --images or --minutes; give one of them.")
    add_metrics(named_metrics(metric))
    settings = parse_assignments(assignments or [])
    resolved = load_study(
        study, settings=settings, images=images, minutes=minutes, seeds=seeds, weights=weights, split=split
    )
    runs = resolved.seeds * len(resolved.variants)
    say(f"{len(resolved.variants)} variants, {resolved.seeds} seeds each: {runs} runs of {resolved.budget}.")
    for sentence in resolved.left_out:
        say(sentence)
    with stop_after_step() as stop, StudyProgress("runs") as reporter:
        document = compare(
            dataset,
            resolved,
            out,
            weights=weights,
            cache=cache or DEFAULT_CACHE,
            reporter=reporter,
            should_stop=stop,
            tracker=MlflowTracking(out, resolved.name) if mlflow else None,
            allowed=allowed_modules(allow, settings),
        )
    for conclusion in conclude(document):
        say(f"- {conclusion.text}")
    say(f"Report: {out / 'comparison.html'}. Figures: {out / 'comparison.json'}.")
    if not document["finished"]:
        again = shlex.join(["terramorph", *sys.argv[1:]])
        say(f"Stopped; {document['over']} of {runs} runs are done. Resume with: {again}")
        raise typer.Exit(stop.exit_code if stop() else 128 + signal.SIGTERM)
