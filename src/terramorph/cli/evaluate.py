"""`terramorph evaluate`: scores of a bundle on held-out pairs, and their report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from terramorph.cli import choices
from terramorph.cli.choices import from_here, option
from terramorph.cli.console import Meter, say, show_columns
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.metrics import Metric

NAME = "evaluate"
EXAMPLE = "Example: terramorph evaluate runs/maps/model.safetensors data/maps --split val --out runs/maps/val"


def run(
    bundle: choices.ModelPath,
    dataset: choices.Pairs,
    out: Annotated[
        Path | None, option("Output folder for metrics.json, report.html and predictions/. Default: write no files.")
    ] = None,
    split: Annotated[str, option("Split to score: val, test or train.")] = "val",
    weights: Annotated[Path | None, option("Folder with the network weights for LPIPS, FD, KD and FID.")] = None,
    metric: choices.Metrics = None,
    style: Annotated[
        str | None,
        option("Style that defines the map classes: classic, osm or a TOML file. Default: the one that fits."),
    ] = None,
    mode: choices.ModeOption = None,
    save_predictions: Annotated[
        bool, option("Write each prediction to predictions/ID.png.", "--save-predictions")
    ] = False,
    device: Annotated[choices.Device, option("Device to compute on.")] = "auto",
    precision: choices.PrecisionOption = "auto",
    ensemble: choices.Ensemble = False,
    limit: Annotated[int | None, option("Score only the first pairs, this many.", min=1)] = None,
    record: Annotated[bool, option("Store the scores in the bundle, where `info` shows them.", "--record")] = False,
    skip_bad: choices.SkipBad = False,
    discuss: Annotated[bool, option("Write discussion.html, an error analysis.", "--discuss")] = False,
    samples: Annotated[
        int, option("With --discuss and --mode paper: number of outputs drawn for each image.", min=1)
    ] = 1,
    allow: choices.Allow = None,
) -> None:
    """Score a model on held-out pairs, beside the floor of one constant colour."""
    from terramorph.evaluation import evaluate, own_bundle, record_scores
    from terramorph.metrics import with_own
    from terramorph.translate import load

    if samples > 1 and not discuss:
        raise ConfigError(f"--samples {samples} needs --discuss; add it or leave out --samples.")
    own, allowed = choices.named_metrics(metric), from_here(allow)
    held = own_bundle(bundle, allowed) if record else None
    how: dict[str, Any] = {"mode": mode, "device": device, "precision": precision, "ensemble": ensemble}
    model = load(bundle, allowed=allowed, accept_quality_loss=True, **how)
    with Meter("evaluating") as meter:
        metrics = evaluate(
            model,
            dataset,
            out,
            split=split,
            limit=limit,
            skip_bad=skip_bad,
            style=style,
            weights=weights,
            metrics=own,
            save_predictions=save_predictions,
            discuss=samples if discuss else 0,
            progress=meter.update,
        )
    if held is not None:
        record_scores(held, split, {key: metrics[key] for key in with_own(own)})
    show_metrics(metrics, own)
    if out is None:
        return
    say(f"Report: {out / 'report.html'}. Figures: {out / 'metrics.json'}.")
    if discuss:
        say(f"Discussion: {out / 'discussion.html'}. Figures: {out / 'discussion.json'}.")


def show_metrics(metrics: Mapping[str, Any], own: Sequence[Metric] = ()) -> None:
    from terramorph.metrics import with_own
    from terramorph.report.numbers import counted

    known = with_own(own)
    floor, verdicts = metrics["floor"], metrics["against_floor"]
    rows = [
        (one.label, one.said(metrics[key]), one.said(floor[key]), verdicts.get(key, {}).get("verdict", ""))
        for key, one in known.items()
        if metrics[key] is not None
    ]
    show_columns(counted(metrics["n"], "pair"), ("metric", "model", "one colour", "verdict"), rows)
    missing: dict[str, list[str]] = {}
    for key, one in known.items():
        if metrics[key] is None:
            missing.setdefault(metrics["reasons"].get(key, ""), []).append(one.name)
    for reason, names in missing.items():
        say(f"Not computed: {', '.join(names)}. {reason}".rstrip())
