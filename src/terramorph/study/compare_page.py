"""The page of a comparison: conclusions, pictures, effects and tables in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from terramorph.bundle import load_bundle
from terramorph.documents import parse_json
from terramorph.evaluation.pictures import viewable
from terramorph.evaluation.samples import Samples, as_bytes
from terramorph.metrics import METRICS
from terramorph.pairs import open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, read_image, write_image
from terramorph.report import charts, duration
from terramorph.report.numbers import DASH, counted
from terramorph.report.pages import Cell, Row, Table, picture_uri, render_page
from terramorph.study.comparison import Conclusion, anchor, conclude, difference_of, interval_of
from terramorph.study.definition import BASE
from terramorph.training.loop import MODEL
from terramorph.training.runlog import read_log
from terramorph.translate import Model

EXAMPLES = 6
"""Number of pairs that are shown."""
CLASSES = {"better": "better", "worse": "worse", "mixed": "", "none": "calm", "open": "bad"}
"""CSS class of each kind of conclusion."""
_WORDS = {
    "better": "better than the base", "mixed": "better and worse", "worse": "worse", "none": "no difference shown",
}  # fmt: skip
_COLOURS = {"better": charts.GOOD, "worse": charts.BAD}


def render_comparison(document: Mapping[str, Any], out: Path) -> str:
    said = conclude(document)
    shown = [metric["key"] for metric in document["metrics"] if metric["missing"] is None]
    return render_page(
        "terramorph.study",
        "compare.html.j2",
        document=document,
        about=_about(document),
        lead=_lead(document, said),
        figures=_figures(document, said),
        conclusions=[(CLASSES[one.kind], one.html) for one in said],
        missing=[(METRICS[one["key"]].label, one["missing"]) for one in document["metrics"] if one["missing"]],
        effects=[
            (METRICS[key].label, _effect_chart(rows, METRICS[key].higher_is_better))
            for key in shown
            if (rows := [row for row in document["effects"] if row["metric"] == key])
        ],
        examples=_examples(document, out),
        curves=_curves(document, out),
        variants=_variants(document, shown),
        rows=effect_table(document),
        runs=_runs(document, shown),
    )


def _about(document: Mapping[str, Any]) -> str:
    """Return study, budget and pairs in one line."""
    scored = f", scored on {counted(document['pairs'], 'pair')} of {document['split']}" if document["pairs"] else ""
    return (
        f"{counted(len(document['variants']) - 1, 'change')} against the base, each trained on {document['budget']} of "
        f"{document['dataset']} with {counted(document['seeds'], 'seed')}{scored}"
    )


def _lead(document: Mapping[str, Any], said: Sequence[Conclusion]) -> str:
    if not document["effects"]:
        none = "Nothing is compared yet: the base and a change must both have a run that is done."
        return said[0].text if said else none
    if document["seeds"] == 1:
        return "One seed, so no verdicts: a difference may be the noise of training; three seeds or more can tell."
    parts = []
    for kind, words in _WORDS.items():
        names = [one.variant for one in said if one.kind == kind]
        parts += [f"{words}: {', '.join(names)}"] if names else []
    text = "; ".join(parts) or "no change has a verdict"
    return f"{text[0].upper()}{text[1:]}."


def _figures(document: Mapping[str, Any], said: Sequence[Conclusion]) -> list[tuple[str, ...]]:
    """Return the key figures: better changes, surest gain, score of the base, finished runs."""
    better = [row for row in document["effects"] if row["verdict"] == "better"]
    figures: list[tuple[str, ...]] = []
    for kind in ("better", "worse"):
        count = sum(one.kind == kind for one in said)
        figures.append((f"changes that are {kind}", str(count), f"of {len(document['variants']) - 1}"))
    if better:
        best = min((one for one in better if one["metric"] == better[0]["metric"]), key=lambda one: one["p"])
        name = f"{METRICS[best['metric']].name} by {best['variant']}"
        figures.append((name, difference_of(best), "better", "better"))
    means = document["variants"][0]["means"]
    for metric in [METRICS[one["key"]] for one in document["metrics"] if means.get(one["key"]) is not None][:1]:
        label = f"{metric.label} of the base {metric.arrow}"
        figures.append((label, metric.said(means[metric.key]), document["split"]))
    return [*figures, ("runs that are over", str(document["over"]), f"of {len(document['runs'])}")]


def _effect_chart(rows: Sequence[Mapping[str, Any]], higher_is_better: bool) -> Markup:
    """Return a chart of the differences from the base on one metric, with 95 % intervals; better is on the right."""
    figure, axes = charts.chart(340, 64 + 22 * len(rows), x="worse ← difference from the base → better")
    names = [row["variant"] if len(row["variant"]) <= 26 else row["variant"][:25] + "…" for row in rows]
    with charts.style():
        axes.axvline(0, color=charts.SOFT, linewidth=0.8)
        for place, row in enumerate(rows):
            colour = _COLOURS.get(row["verdict"], charts.SERIES[3])
            axes.plot([row["low"], row["high"]], [place, place], color=colour)
            dot = axes.scatter([row["difference"]], [place], color=colour, s=28, zorder=3)
            dot.set_urls([f"tip:{place}"])
        axes.set_yticks(range(len(rows)), names)
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    reach = 1.06 * max(abs(row[end]) for row in rows for end in ("low", "high", "difference")) or 1.0
    axes.set_xlim(*((-reach, reach) if higher_is_better else (reach, -reach)))
    tips = [f"{row['variant']}: {difference_of(row)} ({interval_of(row)}), {row['verdict']}" for row in rows]
    return charts.chart_svg(figure, "Differences from the base", tips)


def _curves(document: Mapping[str, Any], out: Path) -> list[tuple[str, Markup]]:
    """Return charts of the L1 distance to the truth during training, each variant over the base."""
    by_variant: dict[str, list[list[tuple[float, float]]]] = {}
    for run in document["runs"]:
        curve = _curve(out / run["folder"])
        if curve:
            by_variant.setdefault(run["variant"], []).append(curve)
    diverged = {variant["name"] for variant in document["variants"] if variant["diverged"]}
    drawn = []
    for name, own in by_variant.items():
        figure, axes = charts.chart(300, 170, x="images", y="L1")
        for curve in by_variant.get(BASE, []) if name != BASE else []:
            axes.plot(*zip(*curve, strict=True), color=charts.SERIES[3], alpha=0.5)
        for curve in own:
            axes.plot(*zip(*curve, strict=True), color=charts.ACCENT)
            if name in diverged:
                axes.plot(*curve[-1], "x", color=charts.BAD)
        drawn.append((name, charts.chart_svg(figure, f"L1 of {name} during training")))
    return drawn


def _curve(run: Path) -> list[tuple[float, float]]:
    """Return (images seen, L1) from a run's log."""
    try:
        config = parse_json((run / "config.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError):
        return []
    per_step = config["batch_size"] * config["accumulate"]
    return [(line["step"] * per_step, line["l1"]) for line in read_log(run) if "l1" in line]


def keep_examples(run: Path, dataset: Path, split: str, device: str, allowed: Collection[str] = ()) -> None:
    """Write RUN/examples/NUMBER-SIDE.png of a few pairs, evenly spread over the split, for the page."""
    bundle = load_bundle(run / MODEL, allowed)
    samples, model = Samples(open_pairs(dataset, split), bundle.header), Model(bundle, device=device)
    scaling, folder = bundle.header.source.scaling, run / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(np.unique(np.linspace(0, len(samples.pairs) - 1, EXAMPLES).astype(int)).tolist()):
        sample = samples.read(index)
        unit = scaling.to_unit(torch.from_numpy(sample.source[None])) * torch.from_numpy(sample.mask)
        translated = BYTE.from_unit(model.translate_batch(unit).float().cpu())[0].numpy()
        images = {"source": as_bytes(sample.source, scaling), "translated": translated, "truth": sample.truth}
        for side, image in images.items():
            write_image(Raster.from_pixels(viewable(image)), folder / f"{number}-{side}.png")


def _examples(document: Mapping[str, Any], out: Path) -> list[list[tuple[str, str]]]:
    """Return source, output of every variant and truth of each kept pair, as (caption, URI)."""
    first = {run["variant"]: out / run["folder"] / "examples" for run in document["runs"] if run["seed"] == 0}

    def picture(folder: Path, number: int, side: str) -> str | None:
        path = folder / f"{number}-{side}.png"
        return picture_uri(read_image(path).pixels) if path.is_file() else None

    pairs = []
    for number in range(EXAMPLES):
        outputs = [(name, picture(folder, number, "translated")) for name, folder in first.items()]
        known = next((first[name] for name, uri in outputs if uri), None)
        if known is not None:
            named = [("input", picture(known, number, "source")), *outputs, ("truth", picture(known, number, "truth"))]
            pairs.append([(name, uri) for name, uri in named if uri])
    return pairs


def _variants(document: Mapping[str, Any], shown: Sequence[str]) -> Table:
    """Return a table with a row for the base and every change: means over seeds, differences, and costs."""
    effects = {(row["variant"], row["metric"]): row for row in document["effects"]}
    body = []
    for variant in document["variants"]:
        changes = [f"{key}={_setting(value)}" for key, value in variant["settings"].items()]
        changes += [f"{variant['share']:g} of the budget"] if variant["share"] != 1 else []
        wrong = [f"{len(variant[word])} {said}" for word, said in (("diverged", "diverged"), ("warned", "unhealthy"))
                 if variant[word]] + (["refused"] if variant["refused"] else [])  # fmt: skip
        below = f"adds to {variant['adds_to']}" if variant["adds_to"] else ""
        cells: Row = [
            Cell(variant["name"], variant["name"], "strong", below=below),
            Cell(", ".join(changes), kind="note", below=variant["source"] or ""),
        ]
        for key in shown:
            row, value = effects.get((variant["name"], key)), variant["means"][key]
            kind = row["verdict"] if row and row["verdict"] in _COLOURS else ""
            cells.append(Cell(METRICS[key].said(value), value, kind, below=difference_of(row) if row else ""))
        count = sum((variant["parameters"] or {}).values())
        cells += [
            _cell(variant["seconds_per_image"], lambda seconds: f"{1000 * seconds:.3g} ms"),
            _cell(variant["memory"], lambda memory: f"{memory / 2**30:.2f} GiB"),
            _cell(count or None, lambda count: f"{count / 1e6:.3g} M"),
            Cell(f"{variant['done']} of {document['seeds']}", variant["done"], below=", ".join(wrong)),
        ]
        body.append(cells)
    head = ("Variant", "Settings", *(f"{METRICS[key].label} {METRICS[key].arrow}" for key in shown))
    return Table(
        (*head, "Per image", "Memory", "Parameters", "Runs"),
        body,
        "Means over seeds, with the difference from the base. Time per training image is by the clock, and so depends "
        "on what else the machine did. Memory is the most that a run took while it trained: by tensors on the GPU, or "
        "else by the process beyond what it held before.",
        [anchor(variant["name"]) for variant in document["variants"]],
    )


def effect_table(document: Mapping[str, Any]) -> Table:
    """Return a table of every change on every metric, with the figures behind each verdict."""
    means = {variant["name"]: variant["means"] for variant in document["variants"]}
    secondary = {metric["key"] for metric in document["metrics"] if metric["secondary"]}
    body: list[Row] = []
    for row in document["effects"]:
        metric, verdict = METRICS[row["metric"]], row["verdict"]
        p = {key: DASH if row[key] is None else f"{row[key]:.2g}" for key in ("p", "corrected")}
        body.append(
            [
                row["variant"],
                Cell(metric.label, metric.label, below="secondary" if metric.key in secondary else ""),
                *(_cell(means[name][metric.key], metric.said) for name in (BASE, row["variant"])),
                Cell(difference_of(row), row["difference"]),
                Cell(DASH if row["over"] == "nothing" else interval_of(row), row["low"]),
                Cell(row["over"], row["over"], below=f"{row['seeds'][0]} and {row['seeds'][1]} runs"),
                Cell(p["p"], row["p"], below=f"{p['corrected']} corrected"),
                Cell(verdict, verdict, f"{verdict if verdict in _COLOURS else 'soft'} wraps"),
            ]
        )
    head = ["Variant", "Metric", "Base", "Variant", "Difference", "95 % interval", "Over", "p"]
    anchors = [anchor(row["variant"], row["metric"]) for row in document["effects"]]
    return Table([*head, "Verdict"], body, anchors=anchors)


def _runs(document: Mapping[str, Any], shown: Sequence[str]) -> Table:
    body: list[Row] = []
    for run in document["runs"]:
        state = f"{run['state']} after step {run['step']}" if run["state"] == "diverged" else run["state"]
        verdict = f"unhealthy: {run['verdict']}" if run["verdict"] else ""
        name, link = f"{run['variant']}-seed{run['seed']}", f"{run['folder']}/scores/report.html"
        body.append(
            [
                Cell(name, name, "strong", link=link if run["state"] == "done" else ""),
                Cell(state, state, "note", below=" ".join(filter(None, (run["reason"], verdict)))),
                Cell(f"{run['step']:,}", run["step"]),
                *(_cell((run["scores"] or {}).get(key), METRICS[key].said) for key in shown),
                *(_cell(run[key], duration) for key in ("train_seconds", "score_seconds")),
            ]
        )
    head = ("Run", "State", "Steps", *(METRICS[key].label for key in shown), "Trained in", "Scored in")
    repeat = "To repeat a run alone, copy its config.json into an empty folder and terramorph train --resume it."
    return Table(head, body, repeat)


def _cell(value: float | None, write: Callable[[Any], str]) -> Cell:
    """Return a cell with a number as text; a dash for None."""
    return Cell(DASH if value is None else write(value), value)


def _setting(value: Any) -> str:
    """Return a setting as written after --set."""
    return str(value).lower() if isinstance(value, bool) else str(value)
