"""`terramorph tune`: search for better settings than a preset's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terramorph.cli.choices import (
    Allow,
    Cache,
    Device,
    Direction,
    Metrics,
    Settings,
    TrainingSeed,
    allowed_modules,
    argument,
    named_metrics,
    option,
)
from terramorph.cli.console import say, show_columns, warn
from terramorph.cli.reporting import StudyProgress, stop_after_step
from terramorph.errors import ConfigError, RunError

if TYPE_CHECKING:
    from terramorph.study import TuneResult

NAME = "tune"
EXAMPLE = (
    "Example: terramorph tune data/maps --preset pix2pix --direction AtoB --out studies/maps --budget 2h\n\n"
    "The same command resumes the study; several at once share the work.\n\n"
    "Confirm the best on pairs that tuning never saw: terramorph tune --out studies/maps --report"
)
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def run(
    out: Annotated[Path, option("Output folder of the study; best.toml and report.html are written there.")],
    dataset: Annotated[
        Path | None, argument("Folder of pairs: train/, and val/ or test/ for the confirmation.")
    ] = None,
    preset: Annotated[str, option("Preset to improve: a name or a TOML file.")] = "pix2pix",
    direction: Annotated[Direction | None, option("AtoB: the left half (or A/) is the source.")] = None,
    trials: Annotated[int, option("Total number of trials, earlier calls included.")] = 40,
    budget: Annotated[str | None, option("Time limit of this call, such as 90m or 2h.")] = None,
    images: Annotated[int | None, option("Training images of a full trial. Default: the preset's schedule.")] = None,
    rungs: Annotated[
        int, option("Number of evaluations of a trial, after each of which it may be pruned; 1 prunes nothing.")
    ] = 3,
    objective: Annotated[
        list[str] | None, option("Metric to optimize, such as lpips, fd or miou; repeat for a Pareto front.")
    ] = None,
    space: Annotated[Path | None, option("TOML file with the search space.")] = None,
    jobs: Annotated[int, option("Number of processes on this machine.")] = 1,
    storage: Annotated[
        str | None, option("URL of a database shared by several machines. Default: a file in OUT.")
    ] = None,
    weights: Annotated[Path | None, option("Folder with the network weights for LPIPS and FD; remembered.")] = None,
    mlflow: Annotated[bool, option("Also log every trial to OUT/mlflow.db.", "--mlflow")] = False,
    device: Annotated[Device | None, option("Device to compute on.")] = None,
    seed: TrainingSeed = None,
    assignments: Settings = None,
    cache: Cache = None,
    report: Annotated[
        bool, option("Start no trial: confirm the best one over three seeds and write the report.", "--report")
    ] = False,
    metric: Metrics = None,
    allow: Allow = None,
) -> None:
    """Search for better settings of a preset; poor trials are pruned, the best becomes a preset and a bundle."""
    from terramorph.data import DEFAULT_CACHE
    from terramorph.metrics import add_metrics
    from terramorph.study import StudyOptions, confirm_study, tune
    from terramorph.training import load_config, parse_assignments

    if dataset == Path("report") and not dataset.exists():  # `tune report --out STUDY` means --report
        report, dataset = True, None
    add_metrics(named_metrics(metric))
    assigned = parse_assignments(assignments or [])
    how: dict[str, Any] = {"cache": cache or DEFAULT_CACHE, "allowed": allowed_modules(allow, assigned)}
    if report:
        with stop_after_step() as stop, StudyProgress("confirmation") as shown:
            result = confirm_study(out, storage=storage, weights=weights, reporter=shown, should_stop=stop, **how)
        _show_confirmation(result)
    else:
        if dataset is None:
            raise ConfigError("DATASET is missing: give the folder of pairs, or --report for an existing study.")
        options = StudyOptions(
            objectives=tuple(objective or ()),
            trials=trials,
            budget=None if budget is None else parse_duration(budget),
            images=images,
            rungs=rungs,
            jobs=jobs,
            space=space,
            storage=storage,
            weights=weights,
            mlflow=mlflow,
        )
        changes = {"direction": direction, "device": device, "seed": seed}
        given = {key: value for key, value in changes.items() if value is not None}
        config = load_config(preset, {**assigned, **given})
        with stop_after_step() as stop, StudyProgress("trials") as shown:
            result = tune(dataset, out, config, options, reporter=shown, should_stop=stop, **how)
        _show_study(result)
    if stop():
        raise typer.Exit(stop.exit_code)
    if result.why_none and result.ended == len(result.trials):
        raise RunError(result.why_none)


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `30m`, `2h`, `1h30m` or `1d`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text)
    if not parts or re.sub(r"\s", "", text) != "".join(number + unit for number, unit in parts):
        raise ConfigError(f"--budget must be a duration such as 90s, 30m, 2h or 1h30m, got {text!r}.")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _show_study(result: TuneResult) -> None:
    from terramorph.metrics import METRICS

    plan, best = result.plan, result.best
    left = "" if result.finished else "; run the same command to resume"
    say(f"{result.ended} of {result.wanted} trials have ended{left}. Report: {result.out / 'report.html'}")
    if best is None:
        if not result.why_none or result.ended < len(result.trials):
            warn(result.why_none or f"no trial has reached the last rung of {plan.rungs[-1]} images yet.")
        return
    rows = [
        (name, trial.number, *(trial.score(metric) for metric in plan.objectives), trial.at)
        for name, trial in (("best", best), ("the preset", result.default))
        if trial is not None
    ]
    show_columns(f"on {plan.tuned_on}", ("", "trial", *(METRICS[key].label for key in plan.objectives), "images"), rows)
    say(f"Best trial: preset {result.out / 'best.toml'}, bundle {result.out / 'best.safetensors'}.")
    if result.confirmation is None and not best.is_preset:
        say(f"Confirm it on pairs that tuning never saw: terramorph tune --out {result.out} --report")


def _show_confirmation(result: TuneResult) -> None:
    from terramorph.study import conclude

    if result.confirmation is None:
        said = "no trial is better than the preset" if result.best and result.best.is_preset else "not done yet"
        say(f"Nothing is confirmed: {said}. Report: {result.out / 'report.html'}")
        return
    for conclusion in conclude(result.confirmation):
        say(f"- {conclusion.text}")
    say(f"Report: {result.out / 'report.html'}")
