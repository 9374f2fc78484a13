"""The page of an evaluation: one HTML file with everything inside, readable in light and dark, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.evaluation.pictures import ERROR_TOP, data_uri, error_gradient, error_map, viewable
from terramorph.metrics import METRICS, Metric
from terramorph.report.pages import render_page

GROUPS = ("best", "median", "worst")


@dataclass(frozen=True)
class Example:
    """One pair to show.

    Attributes:
        group: best, median or worst.
        by: Score key that ordered the pairs.
        id: The pair's name.
        source: uint8 ``(C, S, S)``.
        prediction: uint8 ``(D, S, S)``.
        truth: uint8 ``(D, S, S)``.
        mask: bool ``(S, S)``, True where valid.
        values: Score key -> value of this pair.
    """

    group: str
    by: str
    id: str
    source: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    values: Mapping[str, float]


def pick_examples(errors: Sequence[float], each: int = 3) -> list[tuple[str, int]]:
    """Choose pairs by an error that is better when lower.

    Args:
        errors: One per pair.
        each: Pairs per group; fewer when there are not enough for three groups without repeats.

    Returns:
        (group, index) for best (best first), median (around the middle) and worst (worst first); no index
        twice.
    """
    order = sorted(range(len(errors)), key=lambda i: (errors[i], i))
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    picks = {
        "best": order[:each],
        "worst": order[::-1][:each],
        "median": order[middle : middle + each],
    }
    seen: set[int] = set()
    unique: dict[str, list[int]] = {}
    for group, indices in picks.items():
        unique[group] = [i for i in indices if i not in seen]
        seen.update(indices)
    return [(group, index) for group in GROUPS for index in unique[group]]


def render_report(
    document: Mapping[str, Any], examples: Sequence[Example], metrics: Mapping[str, Metric] = METRICS
) -> str:
    """The page as one string of HTML, without any reference to the network.

    Args:
        document: What ``metrics.json`` holds; see `terramorph.evaluation.evaluate`.
        examples: Pairs to show, in order.
        metrics: That were scored, by key.
    """
    rows = _rows(document, metrics)
    return render_page(
        "terramorph.evaluation",
        "report.html.j2",
        document=document,
        headline=[row for row in rows if row["metric"].main and row["value"] is not None],
        rows=rows,
        facts=_facts(document),
        groups=_groups(examples, metrics),
        ordered_by=metrics[examples[0].by].name if examples else "",
        classes=_classes(document),
        reasons=_reasons(document["reasons"], metrics),
        gradient=error_gradient(),
        error_top=ERROR_TOP,
        floor_rgb=_css(document["floor_colour"]["value"]),
    )


def _rows(document: Mapping[str, Any], metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    rows = []
    for key, metric in metrics.items():
        spread = document["spread"].get(key)
        rows.append(
            {
                "metric": metric,
                "value": document[key],
                "floor": document["floor"][key],
                "verdict": document["against_floor"].get(key, {}).get("verdict", ""),
                "spread": "" if spread is None else f"{metric.said(spread[0])} – {metric.said(spread[2])}",
            }
        )
    return rows


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    bundle, dataset, protocol = document["bundle"], document["dataset"], document["protocol"]
    resolution = bundle["ground_resolution"]
    mode = (
        "paper: batch statistics of one image, dropout on"
        if bundle["mode"] == "paper"
        else "raster: fixed statistics, no dropout"
    )
    return [
        ("Bundle", bundle["path"] or "in memory"),
        *([("Note", bundle["note"])] if bundle["note"] else []),
        ("Network", f"{bundle['network']}, {bundle['direction']}"),
        ("Source", bundle["source"]),
        ("Target", bundle["target"]),
        ("Mode", f"{mode}{', recalibrated' if bundle['recalibrated'] else ''}; {protocol['precision']}"),
        ("Ground resolution", "not known" if resolution is None else f"{resolution:.3g} m/px"),
        ("Pairs", f"{document['n']} of {dataset['pairs']} in {dataset['split']} of {dataset['path']}"),
        ("Protocol", f"{protocol['name']}: {protocol['resize']}, compared as {protocol['compared_as']}"),
        ("Floor", f"{document['floor_colour']['value']}, {document['floor_colour']['why']}"),
        ("Took", f"{document['seconds']:.0f} s, terramorph {bundle['evaluated_by']}"),
    ]


def _groups(examples: Sequence[Example], metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        have = [key for key in example.values if metrics[key].main or key == example.by]
        groups.setdefault(example.group, []).append(
            {
                "id": example.id,
                "values": [(metrics[key].label, metrics[key].said(example.values[key])) for key in have],
                "pictures": [
                    ("input", data_uri(viewable(example.source))),
                    ("output", data_uri(viewable(example.prediction))),
                    ("truth", data_uri(viewable(example.truth))),
                    ("error", data_uri(error_map(example.prediction, example.truth, example.mask))),
                ],
            }
        )
    return [{"name": name, "examples": groups[name]} for name in GROUPS if name in groups]


def _classes(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """One row per class: swatch, share of the truth, IoU, and where its pixels went."""
    if document["confusion"] is None:
        return None
    kinds = document["palette"]["classes"]
    counts = np.array(document["confusion"]["rows_are_truth"], np.float64)
    rows = []
    for kind, line in zip(kinds, counts, strict=True):
        whole = line.sum()
        rows.append(
            {
                "name": kind["name"],
                "css": _css(kind["rgb"]),
                "share": METRICS["class_accuracy"].said(whole / counts.sum()),
                "iou": METRICS["miou"].said(document["class_iou"][kind["name"]]),
                "cells": [
                    {
                        "text": f"{100 * cell / whole:.0f}" if whole else "",
                        "shade": round(float(cell / whole), 3) if whole else 0.0,
                        "title": f"{kind['name']} drawn as {other['name']}: {int(cell):,} pixels",
                    }
                    for other, cell in zip(kinds, line, strict=True)
                ],
            }
        )
    return rows


def _reasons(reasons: Mapping[str, str], metrics: Mapping[str, Metric]) -> list[tuple[str, str]]:
    """Sentences, each once, with the names of what it explains."""
    merged: dict[str, list[str]] = {}
    for key, sentence in reasons.items():
        merged.setdefault(sentence, []).append(metrics[key].name)
    return [(", ".join(names), sentence) for sentence, names in merged.items()]


def _css(colour: Sequence[int]) -> str:
    bands = (list(colour) if len(colour) >= 3 else [colour[0]] * 3)[:3]
    return f"rgb({bands[0]}, {bands[1]}, {bands[2]})"
