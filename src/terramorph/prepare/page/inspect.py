"""Page about a prepared dataset: maps of its pairs, pairs to look at, distributions of measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.atomic import write_text
from terramorph.documents import flat
from terramorph.pairs.manifest import SPLITS, SideRecord
from terramorph.prepare.page.figures import Footprints, figures_of, findings, offsets_in_words, read_footprints
from terramorph.prepare.page.maps import COLOURS, MOST_SHAPES, area_maps
from terramorph.prepare.page.sheets import Images, choose, direction, in_words, parts_of, suspicion_of
from terramorph.prepare.registration import MIN_CONFIDENCE
from terramorph.report.charts import ACCENT, INK, SOFT, chart, chart_svg, style
from terramorph.report.numbers import counted, distance, listed, number, percent
from terramorph.report.pages import Cell, Row, Table, render_page

PAGE = "inspect.html"
BEST, WORST = 8, 12
"""Number of pairs on the two sheets."""
_LEAKS = 12
"""Most groups of look-alikes over several splits that are listed."""
_NAMES = 50
_BINS = 36

# column, name, explanation, whether it is a share of 1
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
    """Write a self-contained page about a prepared dataset.

    It shows the pairs of highest and of lowest suspicion (`sheets.py` defines it). Only these pairs are read.

    Args:
        dataset: Folder of a prepared dataset.
        out: Path of the page; None: `inspect.html` in the dataset.

    Returns:
        Path of the page.

    Raises:
        DatasetError: If the folder is no prepared dataset, or its manifest or table cannot be read.
        StorageError: If the page cannot be written.
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
        settings=[(name, _text(value)) for name, value in flat(found.manifest.settings).items()],
        findings=findings(found, figures, unreadable),
        sides=_sides(found),
        maps=area_maps(found, _tips(found), marks),
        sheets=sheets,
        painted=len(found.table) > MOST_SHAPES,
        charts=_charts(found),
        offsets=offsets_in_words(found),
        leaks=_leaks(found),
        notes=_notes(found),
        missing=[(split, names[:_NAMES], len(names)) for split, names in images.missing.items() if names],
    )
    page = found.root / PAGE if out is None else Path(out)
    write_text(page, text)
    return page


def summary(dataset: str | Path) -> dict[str, Any]:
    """Return statistics of a prepared dataset.

    Args:
        dataset: Folder of a prepared dataset.

    Returns:
        Plain data: `tiles` in all; `pairs`, count by split; `left_out`, count by reason; `missing`, pairs without an
        image, and `strangers`, images that the manifest does not name. Over the kept pairs: `confident` (share with a
        confident shift), `misregistered` (share of these), `labelled`, `blank`, `hazy`, `nodata`, `unmatched` (shares
        0 to 1; None where nothing was measured), `median_shift` (pixels) and `median_shift_m` (metres), `offset`
        (common shift (dx, dy) in pixels, or None) and `offset_agreement`, `duplicates` and `leaks` (groups of
        look-alikes, and those over several splits), `suspicious` (pairs with a suspicion over 0).

    Raises:
        DatasetError: As for `inspect`.
    """
    found = read_footprints(dataset)
    return figures_of(found, Images(found.root, found.manifest), parts_of(found.table))


def _cards(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
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


def _text(setting: Any) -> str:
    if isinstance(setting, list):
        return ", ".join(str(v) for v in setting)
    return "–" if setting is None else ("no", "yes")[setting] if isinstance(setting, bool) else str(setting)


def _sides(found: Footprints) -> Table:
    """Return a row per side of an area; one row where both are from the same files."""

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
    noted = found.table.loc[found.table["note"] != "", ["id", "note"]][:_NAMES].to_numpy().tolist()
    return Table(["Tile", "Why it could not be read"], [[i, Cell(n, n, "note")] for i, n in noted])


def _tips(found: Footprints) -> list[str]:
    """Return the tooltip of every tile; none where tiles are painted as a picture."""
    if len(found.table) > MOST_SHAPES:
        return [""] * len(found.table)
    tips = []
    for tile in found.table.to_dict("records"):
        said = [f"{tile['id']}: {tile['split'] or 'left out, ' + (tile['dropped'] or 'no reason given')}"]
        if np.isfinite(tile["shift"]):
            said.append(f"shift {direction(tile['dx'], tile['dy'])}")
        shares = [(name.lower(), tile[key]) for key, name, _, share in _MEASURES if share]
        tips.append("\n".join([*said, *(f"{name} {percent(value)}" for name, value in shares if np.isfinite(value))]))
    return tips


def _sheets(found: Footprints, images: Images, parts: Any) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the cards of both sheets, and the reasons why some have no pictures."""
    table, suspicion, problems = found.table, suspicion_of(parts), []
    cleaned = bool(found.manifest.settings.get("clean_labels"))
    sheets: dict[str, list[dict[str, Any]]] = {}
    for name, members in zip(("best", "worst"), choose(table, parts, BEST, WORST), strict=True):
        sheets[name] = []
        for place, i in enumerate(members, start=1):
            one = table.loc[i]
            pictures = images.pictures(one["split"], one["id"])
            problem = pictures if isinstance(pictures, str) else ""
            problems += [problem] if problem else []
            shift = f"shift {one['shift']:.1f} px" if np.isfinite(one["shift"]) else "shift not told"
            blank = percent(float(np.fmax(one["source_blank"], one["target_blank"])))
            told = f"{shift} · one colour {blank} · labels {percent(one['labels'])} · suspicion {suspicion[i]:.2f}"
            sheets[name].append(
                {
                    "number": place,
                    "index": i,
                    "id": one["id"],
                    "split": one["split"],
                    "reasons": in_words(table, parts, i, cleaned),
                    "figures": told,
                    "pictures": [] if problem else pictures,
                    "problem": problem,
                }
            )
    return sheets, problems


def _charts(found: Footprints) -> list[tuple[str, Any]]:
    """Return a histogram per measure, or a sentence where there is nothing to draw."""
    charts, kept = [], found.table["kept"].to_numpy()
    for key, name, note, share in _MEASURES:
        values, write = found.table[key].to_numpy(), percent if share else number
        known = values[np.isfinite(values)]
        instead = f"{write(float(known[0]))} everywhere" if len(known) else "not measured"
        missing = f"; not known for {len(values) - len(known):,}" if 0 < len(known) < len(values) else ""
        charts.append((f"{name}: {note}{missing}", histogram(values, kept, write) or instead))
    return charts


def histogram(values: NDArray[np.float64], kept: NDArray[np.bool_], write: Callable[[float], str]) -> Markup | None:
    """Draw the histogram of a measure: kept tiles, tiles that were left out on top, and the median of kept ones.

    Heights are square roots of counts, so that a few odd tiles show beside thousands of good ones.

    Args:
        values: float64 (N,), 0 or more, NaN where unknown.
        kept: bool (N,).
        write: Format of a value.

    Returns:
        An SVG element, or None if nothing is known or all values are equal.
    """
    known = np.isfinite(values)
    if not known.any() or np.ptp(values[known]) == 0:
        return None
    figure, axes = chart(336, 150)
    edges = np.linspace(0, float(values[known].max()), _BINS + 1)
    good, rest = (np.histogram(values[known & chosen], edges)[0] for chosen in (kept, ~kept))
    for count, below, colour in ((good, np.zeros_like(good), ACCENT), (rest, good, SOFT)):
        some = count > 0
        axes.bar(edges[:-1][some], count[some], 0.9 * edges[1], below[some], align="edge", color=colour)
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    most = int((good + rest).max())
    axes.set_yticks(sorted({max(1, round(most / 4)), most}))
    axes.set_ylim(0, most)
    axes.xaxis.set_major_formatter(lambda value, _: write(value))
    axes.locator_params(axis="x", nbins=5)
    if (known & kept).any():
        median = float(np.median(values[known & kept]))
        with style():
            axes.axvline(median, color=INK, linestyle=":")
            axes.set_title(f"median {write(median)}", fontsize=10.5, color=INK)
    return chart_svg(figure, "Tiles by this measure")


def _leaks(found: Footprints) -> Table:
    """Return groups of look-alikes over several splits."""
    groups = [members for _, members in found.table[found.table["leak"]].groupby("duplicates")]
    body: list[Row] = []
    for members in groups[:_LEAKS]:
        names = [members.loc[members["split"] == split, "id"].tolist() for split in SPLITS]
        body.append([Cell(listed(mine, 8), None, "note") if mine else None for mine in names])
    caption = (
        f"Their sources differ in at most 3 of 64 bits of a difference hash; {counted(len(groups), 'group')}, of which "
        f"at most {_LEAKS} are listed."
    )
    return Table(SPLITS, body, caption)
