"""The figures of a prepared dataset, and what stands out among them in sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.pairs.manifest import SPLITS
from terramorph.prepare.footprints import Footprints
from terramorph.prepare.registration import MIN_CONFIDENCE, Shift, consistent_shift
from terramorph.prepare.sheets import Images
from terramorph.prepare.suspicion import confident_shift, direction, length, percent


def figures_of(found: Footprints, images: Images, parts: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The figures that `terramorph.prepare.inspect.summary` gives.

    Args:
        found: the dataset.
        images: its images.
        parts: of the suspicion of its tiles.
    """
    table, kept = found.table, found.table["kept"]
    shift = confident_shift(table)[kept]
    told = np.isfinite(shift)
    measured = {
        "labelled": table["labels"],
        "blank": np.fmax(table["source_blank"], table["target_blank"]),
        "hazy": table["haze"],
        "nodata": table["nodata"],
        "unmatched": table["dx"],
    }
    shares = {name: _share(parts[name][kept] > 0, np.isfinite(values[kept])) for name, values in measured.items()}
    common = common_shift(table, kept)
    median = float(np.median(shift[told])) if told.any() else None
    metres = found.manifest.ground_resolution
    groups = found.groups().values()
    return {
        "tiles": len(found),
        "pairs": {split: int((table["split"] == split).sum()) for split in SPLITS},
        "left_out": dict(Counter(why or "no reason given" for why in table["dropped"][~kept].tolist()).most_common()),
        "missing": sum(len(names) for names in images.missing.values()),
        "strangers": sum(len(names) for names in images.strangers.values()),
        "confident": _share(told, np.isfinite(table["dx"][kept])),
        "misregistered": _share(parts["misregistered"][kept] > 0, told),
        **shares,
        "median_shift": median,
        "median_shift_m": None if median is None or metres is None else median * metres,
        "offset": None if common is None else (round(common.dx, 2), round(common.dy, 2)),
        "offset_agreement": None if common is None else common.confidence,
        "duplicates": len(groups),
        "leaks": sum(bool(table["leak"][members[0]]) for members in groups),
        "suspicious": int((sum(parts.values())[kept] > 0).sum()),
    }


def _share(chosen: NDArray[np.bool_], known: NDArray[np.bool_]) -> float | None:
    """The share of the chosen among the known; None if there are none."""
    return float(chosen[known].mean()) if known.any() else None


def common_shift(table: dict[str, NDArray[Any]], where: NDArray[np.bool_]) -> Shift | None:
    """The shift that most of some tiles agree on."""
    sure = np.flatnonzero(where & np.isfinite(table["dx"]) & (table["confidence"] >= MIN_CONFIDENCE))
    columns = (table[name][sure].tolist() for name in ("dx", "dy", "confidence"))
    return consistent_shift([Shift(*values) for values in zip(*columns, strict=True)])


def offsets_in_words(found: Footprints) -> list[str]:
    """A sentence an area about how its target lies."""
    sentences = []
    for area in found.manifest.areas:
        mine = found.table["area"] == area.name
        sure = int((mine & np.isfinite(confident_shift(found.table))).sum())
        common = common_shift(found.table, mine)
        grid = None if area.grid is None else area.grid.grid()
        metres = None if grid is None else grid.ground_resolution
        was = (
            ""
            if area.shift is None
            else f" It was moved back by {direction(*area.shift, metres)} before; this is the rest."
        )
        if common is None:
            why = "too few tiles tell a shift" if sure < 3 else "tiles do not agree on one"
            sentences.append(
                f"{area.name}: no consistent offset, {why} ({sure:,} of {int(mine.sum()):,} are sure).{was}"
            )
            continue
        off = np.hypot(common.dx, common.dy)
        where = (
            "lies in place"
            if off < 0.5
            else f"lies {off:.1f} px{'' if metres is None else f' ({length(off * metres)})'} off the source"
        )
        sentences.append(
            f"{area.name}: the target {where}, {direction(common.dx, common.dy, metres)}: {percent(common.confidence)} "
            f"of the {sure:,} tiles that tell a shift agree to within 1 px.{was}"
        )
    return sentences


def findings(found: Footprints, figures: dict[str, Any], unreadable: list[str]) -> list[tuple[bool, str]]:
    """What stands out, the bad first: (whether it is bad, sentence)."""
    settings, said = found.manifest.settings, []

    def over(name: str, limit: float) -> bool:
        return figures[name] is not None and figures[name] > limit

    if figures["leaks"]:
        said.append((True, f"{figures['leaks']:,} groups of look-alikes reach over several splits, so that what is scored "
                     "may have been trained on; prepare with --drop-duplicates."))  # fmt: skip
    if figures["missing"]:
        said.append((True, f"{figures['missing']:,} pairs have no image; run the same prepare command again."))
    if unreadable:
        said.append((True, f"{len(unreadable)} of the pairs on this page cannot be read: {unreadable[0]}"))
    known = {name for pairs in found.manifest.pairs.values() for name in pairs}
    if known != set(found.table["id"][found.table["kept"]]):
        said.append(
            (True, "manifest.json and footprints.parquet name different pairs; run the same prepare command again.")
        )
    if figures["offset"] is not None and np.hypot(*figures["offset"]) >= 1:
        dx, dy = figures["offset"]
        said.append((True, f"The targets lie {direction(dx, dy, found.manifest.ground_resolution)} of their sources in "
                     f"{percent(figures['offset_agreement'])} of the tiles that tell a shift; prepare with --register."))  # fmt: skip
    elif over("misregistered", 0.05):
        said.append((True, f"{percent(figures['misregistered'])} of the pairs that tell a shift are misregistered, without a "
                     "direction that most agree on; see the shift field."))  # fmt: skip
    if over("labelled", 0.1) and not settings.get("clean_labels"):
        said.append((False, f"{percent(figures['labelled'])} of the targets show text or icons on more than 2 % of their "
                     "ground; --clean-labels paints them over."))  # fmt: skip
    if over("blank", 0.1):
        said.append((False, f"{percent(figures['blank'])} of the pairs are over 90 % of one colour on a side; --drop-blank "
                     "leaves such out."))  # fmt: skip
    if over("hazy", 0.05):
        said.append((False, f"{percent(figures['hazy'])} of the sources have haze or cloud on more than a tenth."))
    if count := figures["left_out"].get("unreadable"):
        said.append((False, f"{count:,} tiles could not be read and were left out; they are listed below."))
    if figures["strangers"]:
        said.append(
            (False, f"{figures['strangers']:,} images are not in the manifest, and are used in training all the same.")
        )
    if empty := [split for split, count in figures["pairs"].items() if not count]:
        said.append((False, f"There are no pairs in {' and '.join(empty)}."))
    if any(side.licence is None for area in found.manifest.areas for side in (area.source, area.target)):
        said.append(
            (False, "The terms of some sources are not known; settle them before the dataset or a model is passed on.")
        )
    return said
