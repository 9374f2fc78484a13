"""`terramorph evaluate`: a bundle and held-out pairs make numbers, pictures and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terramorph.cli.choices import Allow, Device, Metrics, Mode, Precision, from_here, named_metrics
from terramorph.cli.console import Meter, say, show_columns
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.metrics import Metric

NAME = "evaluate"
EXAMPLE = "Example: terramorph evaluate runs/maps/model.safetensors data/maps --split val --out runs/maps/val"


def run(
    bundle: Annotated[str, typer.Argument(help="A model.safetensors, a run's folder, a model's name, or an .onnx.")],
    dataset: Annotated[Path, typer.Argument(help="Folder of pairs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for metrics.json, report.html and predictions/. Default: none."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which pairs: val, test or train.")] = "val",
    weights: Annotated[Path | None, typer.Option(help="Folder of the weights that LPIPS, FD, KD and FID need.")] = None,
    metric: Metrics = None,
    style: Annotated[
        str | None,
        typer.Option(help="Of the map side, for its classes: classic, osm or a .toml file. Default: what fits."),
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="raster: fixed statistics; paper: batch statistics. Default: the bundle's.")
    ] = None,
    save_predictions: Annotated[bool, typer.Option("--save-predictions", help="Write predictions/ID.png.")] = False,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="Of the translation. auto: bf16 in mode raster where it is native.")
    ] = Precision.auto,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="Mean over eight flips and turns of an image; 8 times as long."),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the bundle, for `info`.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List and leave out pairs that cannot be read.")] = False,
    discuss: Annotated[
        bool, typer.Option("--discuss", help="Write discussion.html: what the model gets right and wrong.")
    ] = False,
    samples: Annotated[
        int, typer.Option(min=1, help="With --discuss and --mode paper: draws of each image that are compared.")
    ] = 1,
    allow: Allow = None,
) -> None:
    """Score a model on held-out pairs, beside the floor of one constant colour."""
    from terramorph.evaluation import evaluate, own_bundle, record_scores
    from terramorph.metrics import with_own
    from terramorph.translate import load

    if samples > 1 and not discuss:
        raise ConfigError(f"--samples {samples} draws what a discussion compares; add --discuss.")
    own, allowed = named_metrics(metric), from_here(allow)
    held = own_bundle(bundle, allowed) if record else None
    model = load(
        bundle,
        mode=mode.value if mode else None,
        device=device.value,
        precision=precision.value,
        allowed=allowed,
        ensemble=ensemble,
    )
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
    say(f"{out / 'report.html'}: the page; {out / 'metrics.json'}: the figures.")
    if discuss:
        say(f"{out / 'discussion.html'}: what is right and wrong; {out / 'discussion.json'}: its figures.")


def show_metrics(metrics: Mapping[str, Any], own: Sequence[Metric] = ()) -> None:
    """Prints the scores beside those of the constant-colour floor."""
    from terramorph.metrics import with_own

    known = with_own(own)
    floor, verdicts = metrics["floor"], metrics["against_floor"]
    rows = [
        (one.label, one.said(metrics[key]), one.said(floor[key]), verdicts.get(key, {}).get("verdict", ""))
        for key, one in known.items()
        if metrics[key] is not None
    ]
    show_columns(f"{metrics['n']} pairs", ("metric", "model", "one colour", "model is"), rows)
    missing: dict[str, list[str]] = {}
    for key, one in known.items():
        if metrics[key] is None:
            missing.setdefault(metrics["reasons"].get(key, ""), []).append(one.name)
    for reason, names in missing.items():
        say(f"Not computed: {', '.join(names)}. {reason}".rstrip())
