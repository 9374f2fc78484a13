"""Table of a prepared dataset, `footprints.parquet`, with statistics of it and findings in sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np

from terramorph.errors import DatasetError, raised_as
from terramorph.pairs.manifest import FOOTPRINTS, SPLITS, Manifest, load_manifest
from terramorph.prepare.measure import MEASURE_NAMES
from terramorph.prepare.page.sheets import Images, direction
from terramorph.prepare.registration import MIN_CONFIDENCE, Shift, consistent_shift
from terramorph.report.numbers import distance, percent

_TEXTS = ["id", "area", "split", "dropped", "note"]
_NUMBERS = [*(name for name in MEASURE_NAMES if name != "hash"), "block_dx", "block_dy", "block_confidence"]


@dataclass(frozen=True, eq=False)
class Footprints:
    """Manifest of a dataset, and a table of its tiles, kept or not.

    Attributes:
        table: GeoDataFrame with the columns of `footprints.parquet`; texts are '' for none, measures float64 (NaN for
            none), `duplicates` int64 (0 for none). Further columns: `shift`, its length in pixels, NaN where it is
            unknown; bool `kept`; bool `leak`, kept with a look-alike kept in another split; bool `twin`, kept with
            look-alikes in its own split only.
    """

    root: Path
    manifest: Manifest
    table: Any


def read_footprints(root: str | Path) -> Footprints:
    """Read manifest and table of a prepared dataset."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"There is no dataset folder {root}; give a prepared dataset.")
    manifest = load_manifest(root)
    if manifest is None:
        raise DatasetError(f"{root} holds no manifest.json, so it is not a prepared dataset; prepare one.")
    path = root / FOOTPRINTS
    again = "run the same preparation again, which writes it anew"
    # Of any class: those of pyarrow, pyproj and pandas share no base.
    with raised_as(DatasetError, f"{path} cannot be read", again):
        if not path.exists():
            raise DatasetError(f"{path} is missing; {again}.")
        table = geopandas.read_parquet(path).reset_index(drop=True)
        texts = table[_TEXTS].astype(object)
        table[_TEXTS] = texts.where(texts.notna(), "")
        table[_NUMBERS] = table[_NUMBERS].astype(np.float64)
        table["duplicates"] = table["duplicates"].fillna(0).astype(np.int64)
    table["shift"] = np.hypot(table["dx"], table["dy"]).where(table["confidence"] >= MIN_CONFIDENCE)
    table["kept"] = table["split"].isin(SPLITS)
    splits = table[table["kept"] & (table["duplicates"] > 0)].groupby("duplicates")["split"]
    for name, enough in (("leak", splits.transform("nunique") > 1), ("twin", splits.transform("size") > 1)):
        table[name] = enough.reindex(table.index, fill_value=False).astype(np.bool_)
    table["twin"] &= ~table["leak"]
    return Footprints(root, manifest, table)


def figures_of(found: Footprints, images: Images, parts: Any) -> dict[str, Any]:
    """Return the statistics of `terramorph.prepare.page.inspect.summary`."""
    table = found.table
    kept, doubts = table[table["kept"]], parts[table["kept"]]
    grounds = ("misregistered", "labelled", "blank", "hazy", "nodata", "unmatched")
    metres, common = found.manifest.ground_resolution, common_shift(kept)
    median = _known(kept["shift"].median())
    reasons = table.loc[~table["kept"], "dropped"].replace("", "no reason given")
    return {
        "tiles": len(table),
        "pairs": {split: int((table["split"] == split).sum()) for split in SPLITS},
        "left_out": dict(Counter(reasons).most_common()),
        "missing": sum(len(names) for names in images.missing.values()),
        "strangers": sum(len(names) for names in images.strangers.values()),
        "confident": _known(kept.loc[kept["dx"].notna(), "shift"].notna().mean()),
        **{name: _known((doubts[name].dropna() > 0).mean()) for name in grounds},
        "median_shift": median,
        "median_shift_m": None if median is None or metres is None else median * metres,
        "offset": None if common is None else (round(common.dx, 2), round(common.dy, 2)),
        "offset_agreement": None if common is None else common.confidence,
        "duplicates": table.loc[table["leak"] | table["twin"], "duplicates"].nunique(),
        "leaks": table.loc[table["leak"], "duplicates"].nunique(),
        "suspicious": int((doubts > 0).any(axis=1).sum()),
    }


def _known(value: float) -> float | None:
    """Return a value; None for NaN, which is that of no tiles."""
    return None if np.isnan(value) else float(value)


def common_shift(table: Any) -> Shift | None:
    """Return the shift on which most tiles agree."""
    sure = table.loc[table["shift"].notna(), ["dx", "dy", "confidence"]]
    return consistent_shift([Shift(*values) for values in sure.to_numpy().tolist()])


def offsets_in_words(found: Footprints) -> list[str]:
    """Return a sentence per area on the shift of its target."""
    sentences = []
    for area in found.manifest.areas:
        mine = found.table[found.table["area"] == area.name]
        sure, common = int(mine["shift"].notna().sum()), common_shift(mine)
        metres = None if area.grid is None else area.grid.ground_resolution
        if common is None:
            why = "too few tiles tell a shift" if sure < 3 else "the tiles that tell a shift do not agree on one"
            text = f"{area.name}: no consistent offset; {why} ({sure:,} of {len(mine):,} tell one)."
        else:
            off = float(np.hypot(common.dx, common.dy))
            ground = "" if metres is None else f" ({distance(off * metres)})"
            way = direction(common.dx, common.dy, metres)
            where = "in place" if off < 0.05 else f"{off:.1f} px{ground} off the source, {way}"
            text = (
                f"{area.name}: the target lies {where}; "
                f"{percent(common.confidence)} of the {sure:,} tiles that tell a shift agree to within 1 px."
            )
        if area.shift is not None:
            text += f" It was moved back before, having lain {direction(*area.shift, metres)}; this is what remains."
        sentences.append(text)
    return sentences


def findings(found: Footprints, figures: dict[str, Any], unreadable: list[str]) -> list[tuple[str, str]]:
    """Return findings, the bad ones first.

    Returns:
        (kind, sentence): ``bad`` for findings that spoil the dataset, else ``calm``.
    """
    manifest, offset = found.manifest, figures["offset"]
    named = {name for pairs in manifest.pairs.values() for name in pairs}
    shifted = offset is not None and np.hypot(*offset) >= 1
    astray = f"Misregistered: {percent(figures['misregistered'])} of pairs that tell a shift, in no common direction."
    if shifted:
        astray = (
            f"Targets off their sources: {direction(offset[0], offset[1], manifest.ground_resolution)}, in "
            f"{percent(figures['offset_agreement'])} of the tiles that tell a shift; prepare with --register."
        )
    empty = ", ".join(split for split, count in figures["pairs"].items() if not count)
    unsettled = any(side.licence is None for area in manifest.areas for side in (area.source, area.target))
    said: list[tuple[str, Any, str]] = [
        ("bad", figures["leaks"], "Look-alikes in several splits: {}; what is scored may have been trained on: prepare "
         "with --drop-duplicates."),
        ("bad", figures["missing"], "Pairs of the manifest without an image: {}; put back what was removed."),
        ("bad", len(unreadable), f"Pairs that cannot be shown here: {{}}. {''.join(unreadable[:1])}"),
        ("bad", named != set(found.table.loc[found.table["kept"], "id"]), "manifest.json and footprints.parquet name "
         "different pairs; run the same prepare command again."),
        ("bad", shifted or _over(figures, "misregistered", 0.05), astray),
        ("calm", _over(figures, "labelled", 0.1) and not manifest.settings.get("clean_labels"),
         f"Text or icons on over 2 % of the ground: {percent(figures['labelled'])} of the targets; --clean-labels "
         "paints them over."),
        ("calm", _over(figures, "blank", 0.1), f"A side over 90 % one colour: {percent(figures['blank'])} of pairs; "
         "--drop-blank leaves them out."),
        ("calm", _over(figures, "hazy", 0.05), f"Haze or cloud on over a tenth: {percent(figures['hazy'])} of the "
         "sources."),
        ("calm", figures["left_out"].get("unreadable"), "Tiles that could not be read and were left out: {}."),
        ("calm", figures["strangers"], "Images that the manifest does not name, and that are trained on: {}."),
        ("calm", empty, "Splits without pairs: {}."),
        ("calm", unsettled, "Terms of use that are not known; settle them before the dataset or a model is passed on."),
    ]  # fmt: skip
    return [(tone, text.format(what) if "{}" in text else text) for tone, what, text in said if what]


def _over(figures: dict[str, Any], name: str, limit: float) -> bool:
    return figures[name] is not None and figures[name] > limit
