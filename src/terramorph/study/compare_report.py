"""The page of a comparison: what is concluded, the table, the effects, the pictures, the curves; complete in one
file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from terramorph.documents import parse_json
from terramorph.metrics import METRICS
from terramorph.report.pages import page_environment, picture_uri
from terramorph.study.compare_charts import Curve, curves_plot, effect_plot
from terramorph.study.compare_sentences import anchor, conclude, plain, signed
from terramorph.study.definition import BASE
from terramorph.study.examples import EXAMPLES, read_example
from terramorph.training.page import read_log


def render_comparison(document: Mapping[str, Any], out: Path) -> str:
    """Makes the page.

    Args:
        document: from `make_comparison`.
        out: the study's folder, for pictures and logs.

    Returns:
        HTML that needs nothing from outside.
    """
    environment = page_environment("terramorph.study")
    environment.filters |= {"signed": signed, "plain": plain, "duration": _duration, "setting": _setting}
    environment.globals["anchor"] = anchor
    by_name = {(row["variant"], row["metric"]): row for row in document["effects"]}
    shown = [metric for metric in document["metrics"] if metric["missing"] is None]
    return environment.get_template("compare.html.j2").render(
        document=document,
        base=BASE,
        metrics=METRICS,
        conclusions=conclude(document),
        effects=by_name,
        shown=shown,
        missing=[metric for metric in document["metrics"] if metric["missing"] is not None],
        plots=_plots(document, shown),
        curves=_curves(document, out),
        examples=_examples(document, out),
        memory_is_own=all(run.get("memory_is_own") for run in document["runs"] if run["memory"]),
        names=[variant["name"] for variant in document["variants"]],
    )


def _plots(document: Mapping[str, Any], shown: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Markup]]:
    plots = []
    for metric in shown:
        rows = [row for row in document["effects"] if row["metric"] == metric["key"]]
        if rows:
            plots.append((metric, Markup(effect_plot(rows, metric["higher_is_better"]))))
    return plots


def _curves(document: Mapping[str, Any], out: Path) -> list[tuple[str, Markup]]:
    """The L1 distance to the truth during training, which every recipe logs, of each variant over the base."""
    by_variant: dict[str, list[Curve]] = {}
    for run in document["runs"]:
        curve = _curve(out / run["folder"])
        if curve:
            by_variant.setdefault(run["variant"], []).append(curve)
    base = by_variant.get(BASE, [])
    diverged = {variant["name"] for variant in document["variants"] if variant["diverged"]}
    return [
        (name, Markup(curves_plot(curves, base if name != BASE else [], name in diverged)))
        for name, curves in by_variant.items()
    ]


def _curve(run: Path) -> Curve:
    """(images seen, L1) from a run's log."""
    try:
        config = parse_json((run / "config.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError):
        return []
    per_step = config["batch_size"] * config["accumulate"]
    return [(line["step"] * per_step, line["l1"]) for line in read_log(run) if "l1" in line]


def _examples(document: Mapping[str, Any], out: Path) -> list[tuple[str, list[str | None]]]:
    """Rows of the grid: source and truth, then every variant, a picture for each pair or None."""

    def row(folder: str, side: str) -> list[str | None]:
        images = [read_example(out / folder, number, side) for number in range(EXAMPLES)]
        return [None if image is None else picture_uri(image) for image in images]

    first = {run["variant"]: run["folder"] for run in document["runs"] if run["seed"] == 0}
    rows = [("source", row(first[BASE], "source")), ("truth", row(first[BASE], "truth"))]
    rows += [(name, row(folder, "translated")) for name, folder in first.items()]
    kept = [number for number in range(EXAMPLES) if any(images[number] for _, images in rows)]
    return [(name, [images[number] for number in kept]) for name, images in rows] if kept else []


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _setting(value: Any) -> str:
    """As it is written after --set."""
    return "true" if value is True else "false" if value is False else str(value)
