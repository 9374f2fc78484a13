"""The page of an evaluation, report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from terramorph.evaluation.discuss import leading
from terramorph.evaluation.pictures import ERROR_TOP, Look, Pictures, rgb
from terramorph.metrics import METRICS, Metric
from terramorph.metrics.catalog import FROZEN
from terramorph.report.charts import gradient
from terramorph.report.numbers import counted, percent
from terramorph.report.pages import Cell, Table, render_page

GROUPS = ("best", "median", "worst")


def pick_examples(errors: Sequence[float], each: int = 3) -> list[tuple[str, int]]:
    """Choose the pairs with the best, median and worst error.

    Args:
        errors: Error of each pair, lower is better.
        each: Pairs per group; fewer where there are not enough for three groups.

    Returns:
        (group, index) for best (best first), median (around the middle) and worst (worst first); no index twice.
    """
    order = sorted(range(len(errors)), key=lambda i: (errors[i], i))
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    best, worst = order[:each], [i for i in order[::-1][:each] if i not in order[:each]]
    median = [i for i in order[middle : middle + each] if i not in best + worst]
    return [(group, i) for group, picks in zip(GROUPS, (best, median, worst), strict=True) for i in picks]


def render_report(
    document: Mapping[str, Any], columns: Mapping[str, Sequence[float]], look: Look, metrics: Mapping[str, Metric]
) -> str:
    """Render the page as HTML without external resources."""
    by = leading(columns)
    groups: dict[str, list[tuple[str, Pictures]]] = {}
    for group, row in pick_examples([-value for value in columns[by.key]] if by.higher_is_better else columns[by.key]):
        view, told = look(row), []
        for key, column in columns.items():
            if (metrics[key].main or key == by.key) and not math.isnan(column[row]):
                told.append(metrics[key].told(column[row]))
        groups.setdefault(group, []).append((" · ".join([view.id, *told]), view.pictures()))
    typical = "median" if "median" in groups else "best"
    title, pictures = groups[typical][0]
    return render_page(
        "terramorph.evaluation",
        "report.html.j2",
        document=document,
        sentence=_sentence(document),
        opened=[(f"The {typical} pair, {title.partition(' · ')[0]}", pictures)],
        cards=_cards(document, metrics),
        scores=_scores(document, metrics),
        facts=_facts(document),
        floor=("colour of the floor", rgb(document["floor_colour"]["value"])),
        groups=[(name, groups[name]) for name in GROUPS if name in groups],
        ordered_by=by.name,
        classes=_classes(document),
        reasons=_reasons(document["reasons"], metrics),
        errors=(f"absolute error, mean over bands: none to {ERROR_TOP} grey levels or more", gradient()),
    )


def _sentence(document: Mapping[str, Any]) -> str:
    """Return the result in one sentence."""
    verdicts = [one["verdict"] for one in document["against_floor"].values()]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    if not better + worse:
        return f"{counted(document['n'], 'pair')} cannot tell the model from one constant colour in any score."
    text = f"Better than one constant colour in {better} of {counted(len(verdicts), 'score')}"
    return f"{text}, worse in {worse}." if worse else f"{text}."


def _pairs(metric: Metric, document: Mapping[str, Any]) -> str:
    """Return the number of pairs of a distance between sets, which depends on it; "" for other scores."""
    return counted(document["n"], "pair") if metric.needs in FROZEN and not metric.per_image else ""


def _verdict(document: Mapping[str, Any], key: str) -> str:
    verdict: str = document["against_floor"].get(key, {}).get("verdict", "")
    return verdict


def _cards(document: Mapping[str, Any], metrics: Mapping[str, Metric]) -> list[tuple[str, str, str, str]]:
    """Return the main scores: name, value, floor and verdict, CSS class."""
    cards = []
    for key, metric in metrics.items():
        if metric.main and document[key] is not None:
            verdict, floor = _verdict(document, key), metric.said(document["floor"][key])
            beside = f"{verdict} than the floor, {floor}" if verdict in ("better", "worse") else f"floor {floor}"
            pairs = _pairs(metric, document)
            note = f"{beside}, {pairs}" if pairs else beside
            cards.append((f"{metric.label} {metric.arrow}", metric.said(document[key]), note, verdict))
    return cards


def _scores(document: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Table:
    rows = []
    for key, metric in metrics.items():
        value, floor, spread = document[key], document["floor"][key], document["spread"].get(key)
        ends = "" if spread is None else f"{metric.said(spread[0])} – {metric.said(spread[2])}"
        verdict = _verdict(document, key)
        rows.append(
            [
                Cell(f"{metric.label} {metric.arrow}", metric.label, below=_pairs(metric, document)),
                Cell(metric.said(value), value, "strong"),
                Cell(metric.said(floor), floor),
                Cell(verdict, verdict, verdict),
                Cell(ends, ends),
                Cell(metric.note, metric.note, "note"),
            ]
        )
    head = ["Score", "Result", "Floor", "Against the floor", "10 – 90 % of images", "What it is"]
    caption = (
        "Floor: what one constant colour scores for every image; a figure that is not better than it says nothing. "
        "↑ higher is better, ↓ lower is better. The table begins with what tells most; PSNR, SSIM and pixels within 5 "
        "levels reward blandness."
    )
    return Table(head, rows, caption)


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    bundle, dataset, protocol = document["bundle"], document["dataset"], document["protocol"]
    resolution = bundle["ground_resolution"]
    mode = (
        "paper: batch statistics of one image, dropout on"
        if bundle["mode"] == "paper"
        else "raster: fixed statistics, no dropout"
    )
    ensemble = ", mean over eight flips and turns" if protocol["ensemble"] else ""
    return [
        ("Bundle", bundle["path"] or "in memory"),
        *([("Note", bundle["note"])] if bundle["note"] else []),
        ("Network", f"{bundle['network']}, {bundle['direction']}"),
        ("Source", bundle["source"]),
        ("Target", bundle["target"]),
        ("Mode", f"{mode}{', recalibrated' if bundle['recalibrated'] else ''}; {protocol['precision']}{ensemble}"),
        ("Ground resolution", "not known" if resolution is None else f"{resolution:.3g} m/px"),
        ("Pairs", f"{document['n']} of {dataset['pairs']} in {dataset['split']} of {dataset['path']}"),
        ("Protocol", f"{protocol['name']}: {protocol['resize']}, compared as {protocol['compared_as']}"),
        ("Floor", f"{document['floor_colour']['value']}, {document['floor_colour']['why']}"),
        ("Took", f"{document['seconds']:.0f} s, terramorph {bundle['evaluated_by']}"),
    ]


def _classes(document: Mapping[str, Any]) -> Table | None:
    """Return share of the truth, IoU and confusions of each class."""
    if document["confusion"] is None:
        return None
    kinds = document["palette"]["classes"]
    counts = np.array(document["confusion"]["rows_are_truth"], np.float64)
    rows = []
    for place, (kind, line) in enumerate(zip(kinds, counts, strict=True)):
        whole, iou = line.sum(), document["class_iou"][kind["name"]]
        cells = [
            Cell(f"{100 * cell / whole:.0f}" if whole else "", cell, "own" if place == other else "",
                 shade=float(cell / whole) if whole else 0.0,
                 title=f"{kind['name']} drawn as {kinds[other]['name']}: {int(cell):,} pixels")
            for other, cell in enumerate(line.tolist())
        ]  # fmt: skip
        share = float(whole / counts.sum())
        first = [Cell(kind["name"], kind["name"], "strong", rgb(kind["rgb"])), Cell(percent(share), share)]
        rows.append([*first, Cell(METRICS["miou"].said(iou), iou, "strong"), *cells])
    caption = (
        "Rows are the truth, columns what was drawn, in percent of the row. A class is the nearest palette colour."
    )
    return Table(["Truth", "Of truth", "IoU", *(kind["name"] for kind in kinds)], rows, caption)


def _reasons(reasons: Mapping[str, str], metrics: Mapping[str, Metric]) -> list[tuple[str, str]]:
    """Return the sentences, each once, with the names of the metrics they are about."""
    merged: dict[str, list[str]] = {}
    for key, sentence in reasons.items():
        merged.setdefault(sentence, []).append(metrics[key].name)
    return [(", ".join(names), sentence) for sentence, names in merged.items()]
