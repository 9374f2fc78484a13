"""One page about a prepared dataset: where its pairs lie, which to look at, how its measures are spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.pairs.manifest import SPLITS, SideRecord
from terramorph.prepare.page.charts import histogram, scatter
from terramorph.prepare.page.figures import common_shift, figures_of, findings, offsets_in_words
from terramorph.prepare.page.footprints import Footprints, read_footprints
from terramorph.prepare.page.maps import COLOURS, MOST_SHAPES, area_maps
from terramorph.prepare.page.sheets import Images, choose, look_alikes
from terramorph.prepare.page.suspicion import confident_shift, direction, in_words, parts_of
from terramorph.prepare.registration import MIN_CONFIDENCE
from terramorph.report.numbers import counted, distance, number, percent
from terramorph.report.pages import render_page
from terramorph.report.tables import Cell, Row, Table

PAGE = "inspect.html"
BEST, WORST = 8, 12
"""Pairs on the two sheets."""
_LEAKS, _PICTURED = 12, 4
"""Groups of look-alikes over several splits that are listed, and of those that are shown."""
_NAMES = 50

# column, name, what it says, whether it is a share of 1
_MEASURES: tuple[tuple[str, str, str, bool], ...] = (
    ("shift", "Shift, px", "how far the target lies off the source, where it can be told", False),
    ("confidence", "Confidence of the shift", f"a shift under {MIN_CONFIDENCE} is a guess", False),
    ("labels", "Labels", "share of the target under text and icons", True),
    ("source_blank", "Source blank", "share of the commonest colour", True),
    ("target_blank", "Target blank", "share of the commonest colour", True),
    ("haze", "Haze", "share of the source that is bright throughout", True),
    ("source_detail", "Detail of the source", "mean gradient, levels per pixel", False),
    ("target_detail", "Detail of the target", "mean gradient, levels per pixel", False),
    ("nodata", "No data", "share of pixels that one side lacks", True),
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
    opened = [(name, next((c for c in sheets[key] if c["pictures"]), None)) for key, name in
              (("best", "Surest"), ("worst", "Most suspicious"))]  # fmt: skip
    text = render_page(
        "terramorph.prepare.page",
        "inspect.html.j2",
        name=found.root.resolve().name,
        version=__version__,
        manifest=found.manifest,
        figures=figures,
        cards=_cards(figures),
        opened=[(f"{name}: {card['id']}", card["pictures"]) for name, card in opened if card is not None],
        colours=COLOURS,
        splits=SPLITS,
        settings=_flat(found.manifest.settings),
        findings=findings(found, figures, unreadable),
        sides=_sides(found),
        maps=area_maps(found, _tips(found), marks),
        sheets=sheets,
        painted=len(found) > MOST_SHAPES,
        charts=_charts(found),
        scatter=_scatter(found),
        offsets=offsets_in_words(found),
        leaks=_leaks(found, images),
        notes=_notes(found),
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


def _cards(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The main figures: name, value, what it is."""
    total, shift, metres = sum(figures["pairs"].values()), figures["median_shift"], figures["median_shift_m"]
    splits = ", ".join(f"{split} {count:,}" for split, count in figures["pairs"].items())
    told = "no pair tells a shift" if shift is None else f"over 1.5 px, of {percent(figures['confident'])} that tell"
    return [
        ("Pairs", f"{total:,}", splits),
        ("Median shift", "–" if shift is None else f"{shift:.1f} px", "" if metres is None else distance(metres)),
        ("Misregistered", percent(figures["misregistered"]), told),
        ("Labelled", percent(figures["labelled"]), "text on over 2 % of the target"),
        ("Doubtful", percent(figures["suspicious"] / total) if total else "–", counted(figures["suspicious"], "pair")),
    ]  # fmt: skip


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


def _sides(found: Footprints) -> Table:
    """A row a side of an area; one where both came from the same place."""

    def row(area: str, name: str, side: SideRecord) -> Row:
        limits = "" if side.range is None else f", {side.range[0]:.4g} to {side.range[1]:.4g}"
        bands = ", ".join(side.bands) if len(side.bands) <= 6 else f"{len(side.bands)} bands"
        path, mark = (Cell(text, text, "note") for text in (side.path, side.fingerprint))
        terms = side.licence or Cell("not known", "", "soft")
        return [area, name, path, f"{bands}; {side.dtype}{limits}", terms, mark]

    rows = []
    for area in found.manifest.areas:
        if area.source.path == area.target.path and area.source.bands == area.target.bands:
            rows.append(row(area.name, "pairs", area.source))
        else:
            rows += [row(area.name, "source", area.source), row(area.name, "target", area.target)]
    return Table(["Area", "Side", "From", "Pixels", "Terms", "Fingerprint (blake2b)"], rows)


def _notes(found: Footprints) -> Table:
    """Why tiles could not be read."""
    noted = [(i, n) for i, n in zip(found.table["id"], found.table["note"], strict=True) if n]
    return Table(["Tile", "Why it could not be read"], [[i, Cell(n, n, "note")] for i, n in noted[:_NAMES]])


def _tips(found: Footprints) -> list[str]:
    """What every tile says under the pointer; nothing where they are painted."""
    table, shift = found.table, confident_shift(found.table)
    tips = []
    for i in range(len(found) if len(found) <= MOST_SHAPES else 0):
        said = [f"{table['id'][i]}: {table['split'][i] or 'left out, ' + (table['dropped'][i] or 'no reason given')}"]
        if np.isfinite(shift[i]):
            said.append(f"shift {direction(float(table['dx'][i]), float(table['dy'][i]))}")
        shares = [(name.lower(), key) for key, name, _, share in _MEASURES if share]
        said += [f"{name} {percent(table[key][i])}" for name, key in shares if np.isfinite(table[key][i])]
        tips.append("\n".join(said))
    return tips or [""] * len(found)


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
        for place, i in enumerate(members, start=1):
            split, pair = str(table["split"][i]), str(table["id"][i])
            pictures = images.pictures(split, pair)
            if isinstance(pictures, str):
                problems.append(pictures)
            alike = look_alikes(table, groups.get(int(table["duplicates"][i]), []), i)
            sheets[name].append(
                {
                    "number": place,
                    "index": i,
                    "id": pair,
                    "split": split,
                    "reasons": in_words(table, parts, i, alike, cleaned),
                    "figures": f"{_values(table, i)} · suspicion {suspicion[i]:.2f}",
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
    return f"{shift} · one colour {percent(blank)} · labels {percent(float(table['labels'][i]))}"


def _charts(found: Footprints) -> list[tuple[str, Any]]:
    """A histogram a measure, or a sentence in its place where there is nothing to draw."""
    columns, charts = {**found.table, "shift": confident_shift(found.table)}, []
    for key, name, note, share in _MEASURES:
        values, write = columns[key], percent if share else number
        known = values[np.isfinite(values)]
        instead = f"{write(float(known[0]))} everywhere" if len(known) else "not measured"
        missing = f"; not known for {len(values) - len(known):,}" if 0 < len(known) < len(values) else ""
        charts.append((f"{name}: {note}{missing}", histogram(values, found.table["kept"], write) or instead))
    return charts


def _scatter(found: Footprints) -> dict[str, Any] | None:
    """The shifts of all tiles that tell one; None if there are none."""
    sure = np.isfinite(confident_shift(found.table))
    if not sure.any():
        return None
    common = common_shift(found.table, sure)
    ring = None if common is None else (common.dx, common.dy)
    svg, notes = scatter(found.table["dx"][sure], found.table["dy"][sure], ring, found.manifest.ground_resolution)
    return {"svg": svg, "notes": notes, "count": int(sure.sum()), "ring": ring is not None}


def _leaks(found: Footprints, images: Images) -> list[dict[str, Any]]:
    """Groups of look-alikes over several splits: their members, with a picture a split of the first groups."""
    table = found.table
    groups = [members for members in found.groups().values() if table["leak"][members[0]]]
    leaks: list[dict[str, Any]] = []
    for members in groups[:_LEAKS]:
        by_split = {split: [str(table["id"][i]) for i in members if table["split"][i] == split] for split in SPLITS}
        by_split = {split: names for split, names in by_split.items() if names}
        shown = {} if len(leaks) >= _PICTURED else {s: images.pictures(s, names[0]) for s, names in by_split.items()}
        pictures = [(f"{by_split[s][0]} ({s})", p[0][1]) for s, p in shown.items() if not isinstance(p, str)]
        leaks.append({"members": by_split, "pictures": pictures})
    return leaks
