"""One page about a prepared dataset: where its pairs lie, which to look at, how its measures are spread."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.pairs.manifest import SPLITS, SideRecord
from terramorph.prepare.page.charts import histogram, scatter
from terramorph.prepare.page.figures import common_shift, figures_of, findings, offsets_in_words
from terramorph.prepare.page.footprints import Footprints, read_footprints
from terramorph.prepare.page.mapview import COLOURS, MOST_SHAPES, area_maps
from terramorph.prepare.page.sheets import Images, choose, look_alikes
from terramorph.prepare.page.suspicion import confident_shift, direction, in_words, length, parts_of, percent
from terramorph.prepare.registration import MIN_CONFIDENCE
from terramorph.report.pages import page_environment

PAGE = "inspect.html"
BEST, WORST = 8, 12
"""Pairs on the two sheets."""
_LEAKS, _PICTURED = 12, 4
"""Groups of look-alikes over several splits that are listed, and of those that are shown."""
_NAMES = 50

# column, name, what it says, largest value, share of 1
_MEASURES: tuple[tuple[str, str, str, float | None, bool], ...] = (
    ("shift", "Shift", "how far the target lies off the source, where it can be told", None, False),
    ("confidence", "Confidence of the shift", f"a shift under {MIN_CONFIDENCE} is a guess", 1.0, False),
    ("labels", "Labels", "share of the target under text and icons", 1.0, True),
    ("source_blank", "Source blank", "share of the commonest colour", 1.0, True),
    ("target_blank", "Target blank", "share of the commonest colour", 1.0, True),
    ("haze", "Haze", "share of the source that is bright throughout", 1.0, True),
    ("source_detail", "Detail of the source", "mean gradient, levels per pixel", None, False),
    ("target_detail", "Detail of the target", "mean gradient, levels per pixel", None, False),
    ("nodata", "No data", "share of pixels that one side lacks", 1.0, True),
)


def inspect(dataset: str | Path, out: Path | None = None) -> Path:
    """Writes a page about a prepared dataset, complete in one file.

    Pairs are shown by their suspicion, the highest and the lowest; `suspicion.py` says what that is.
    Only the pairs on the page are read.

    Args:
        dataset: folder made by `prepare`.
        out: the page; None: `inspect.html` in the dataset.

    Returns:
        Where the page is.

    Raises:
        DatasetError: if the folder is no prepared dataset, or its manifest or table cannot be read.
        StorageError: if the page cannot be written.
    """
    found = read_footprints(dataset)
    images = Images(found.root, found.manifest)
    parts = parts_of(found.table)
    figures = figures_of(found, images, parts)
    sheets, unreadable = _sheets(found, images, parts)
    marks = {card["index"]: str(card["number"]) for card in sheets["worst"]}
    environment = page_environment("terramorph.prepare.page")
    environment.filters |= {"percent": percent, "length": length}
    text = environment.get_template("inspect.html.j2").render(
        name=found.root.resolve().name,
        version=__version__,
        manifest=found.manifest,
        figures=figures,
        colours=COLOURS,
        splits=SPLITS,
        settings=_flat(found.manifest.settings),
        findings=findings(found, figures, unreadable),
        sides=_sides(found),
        maps=area_maps(found, _titles(found) if len(found) <= MOST_SHAPES else None, marks),
        sheets=sheets,
        painted=len(found) > MOST_SHAPES,
        charts=_charts(found),
        scatter=_scatter(found),
        offsets=offsets_in_words(found),
        leaks=_leaks(found, images),
        notes=[(i, n) for i, n in zip(found.table["id"], found.table["note"], strict=True) if n][:_NAMES],
        missing=[(split, names[:_NAMES], len(names)) for split, names in images.missing.items() if names],
    )
    page = found.root / PAGE if out is None else Path(out)
    with atomic(page) as part:
        part.write_text(text, encoding="utf-8")
    return page


def summary(dataset: str | Path) -> dict[str, Any]:
    """The figures of a prepared dataset in brief.

    Args:
        dataset: folder made by `prepare`.

    Returns:
        Plain data: `tiles` in all; `pairs`, split -> count; `left_out`, reason -> count; `missing`, pairs without an
        image, and `strangers`, images that the manifest does not name; then over the kept pairs `misregistered` (share
        of those whose shift can be told), `confident` (share of those), `labelled`, `blank`, `hazy`, `nodata`,
        `unmatched` (shares 0 to 1; None where nothing was measured), `median_shift` (pixels) and `median_shift_m`,
        `offset` ((dx, dy) in pixels that most agree on, or None) and `offset_agreement`, `duplicates` and `leaks`
        (groups of look-alikes, and those over several splits), `suspicious` (pairs with any ground for doubt).

    Raises:
        DatasetError: as `inspect`.
    """
    found = read_footprints(dataset)
    return figures_of(found, Images(found.root, found.manifest), parts_of(found.table))


def _flat(settings: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, text)."""
    flat: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            flat.append((before + name, ", ".join(str(v) for v in value)))
        else:
            plain = "–" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)
            flat.append((before + name, plain))
    return flat


def _sides(found: Footprints) -> list[dict[str, Any]]:
    """A row a side of an area; one where both came from the same place."""

    def row(area: str, name: str, side: SideRecord) -> dict[str, Any]:
        limits = "" if side.range is None else f", {side.range[0]:.4g} to {side.range[1]:.4g}"
        bands = ", ".join(side.bands) if len(side.bands) <= 6 else f"{len(side.bands)} bands"
        return {"area": area, "side": name, "path": side.path, "pixels": f"{bands}; {side.dtype}{limits}",
                "licence": side.licence, "hash": side.fingerprint}  # fmt: skip

    rows = []
    for area in found.manifest.areas:
        if area.source.path == area.target.path and area.source.bands == area.target.bands:
            rows.append(row(area.name, "pairs", area.source))
        else:
            rows += [row(area.name, "source", area.source), row(area.name, "target", area.target)]
    return rows


def _titles(found: Footprints) -> list[str]:
    """The tooltip of every tile."""
    table, shift = found.table, confident_shift(found.table)
    titles = []
    for i in range(len(found)):
        said = [f"{table['id'][i]}: {table['split'][i] or 'left out, ' + (table['dropped'][i] or 'no reason given')}"]
        if np.isfinite(shift[i]):
            said.append(f"shift {direction(float(table['dx'][i]), float(table['dy'][i]))}")
        measures = (("labels", "labels"), ("source blank", "source_blank"), ("target blank", "target_blank"),
                    ("haze", "haze"), ("no data", "nodata"))  # fmt: skip
        said += [f"{name} {percent(table[key][i])}" for name, key in measures if np.isfinite(table[key][i])]
        titles.append("\n".join(said))
    return titles


def _sheets(
    found: Footprints, images: Images, parts: dict[str, NDArray[np.float64]]
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The cards of both sheets, and why some have no pictures."""
    table, groups = found.table, found.groups()
    suspicion = np.sum(list(parts.values()), axis=0)
    best, worst = choose(table, parts, BEST, WORST)
    cleaned, problems = bool(found.manifest.settings.get("clean_labels")), []
    sheets: dict[str, list[dict[str, Any]]] = {"worst": [], "best": []}
    for name, members in (("worst", worst), ("best", best)):
        for number, i in enumerate(members, start=1):
            split, pair = str(table["split"][i]), str(table["id"][i])
            pictures = images.pictures(split, pair)
            if isinstance(pictures, str):
                problems.append(pictures)
            alike = look_alikes(table, groups.get(int(table["duplicates"][i]), []), i)
            sheets[name].append(
                {
                    "number": number,
                    "index": i,
                    "id": pair,
                    "split": split,
                    "suspicion": float(suspicion[i]),
                    "reasons": in_words(table, parts, i, alike, cleaned),
                    "values": _values(table, i),
                    "pictures": [] if isinstance(pictures, str) else pictures,
                    "problem": pictures if isinstance(pictures, str) else "",
                }
            )
    return sheets, problems


def _values(table: dict[str, NDArray[Any]], i: int) -> str:
    """The main measures of a pair in a line."""
    told = table["confidence"][i] >= MIN_CONFIDENCE
    shift = f"shift {np.hypot(table['dx'][i], table['dy'][i]):.1f} px" if told else "shift not told"
    blank = float(np.fmax(table["source_blank"][i], table["target_blank"][i]))
    values = [shift, f"confidence {table['confidence'][i]:.2f}", f"one colour {percent(blank)}"]
    if np.isfinite(table["labels"][i]):
        values.append(f"labels {percent(float(table['labels'][i]))}")
    return " · ".join(values)


def _charts(found: Footprints) -> list[dict[str, Any]]:
    """A histogram a measure; a sentence in its place where there is nothing to draw."""
    columns = {**found.table, "shift": confident_shift(found.table)}
    charts = []
    for key, name, note, top, share in _MEASURES:
        values = columns[key]
        write = percent if share else partial(_written, unit=" px" if key == "shift" else "")
        drawn = histogram(values, found.table["kept"], write, top)
        known = values[np.isfinite(values)]
        instead = f"{write(float(known[0]))} everywhere" if len(known) else "not measured"
        missing = len(values) - len(known)
        charts.append(
            {
                "name": name,
                "note": note,
                "svg": None if drawn is None else Markup(drawn),
                "instead": instead,
                "missing": missing,
            }
        )
    return charts


def _written(value: float, unit: str) -> str:
    return f"{value:.3g}{unit}"


def _scatter(found: Footprints) -> dict[str, Any] | None:
    """The shifts of all tiles that tell one; None if there are none."""
    sure = np.isfinite(confident_shift(found.table))
    if not sure.any():
        return None
    common = common_shift(found.table, sure)
    ring = None if common is None else (common.dx, common.dy)
    svg, notes = scatter(found.table["dx"][sure], found.table["dy"][sure], ring, found.manifest.ground_resolution)
    return {"svg": Markup(svg), "notes": notes, "count": int(sure.sum()), "ring": ring is not None}


def _leaks(found: Footprints, images: Images) -> list[dict[str, Any]]:
    """Groups of look-alikes over several splits: their members, with a picture a split of the first groups."""
    table = found.table
    leaks: list[dict[str, Any]] = []
    for members in found.groups().values():
        if not table["leak"][members[0]]:
            continue
        by_split = {split: [str(table["id"][i]) for i in members if table["split"][i] == split] for split in SPLITS}
        by_split = {split: names for split, names in by_split.items() if names}
        pictures = []
        if len(leaks) < _PICTURED:
            for split, names in by_split.items():
                shown = images.pictures(split, names[0])
                if not isinstance(shown, str):
                    pictures.append((f"{names[0]} ({split})", shown[0][1]))
        leaks.append({"members": by_split, "pictures": pictures})
        if len(leaks) == _LEAKS:
            break
    return leaks
