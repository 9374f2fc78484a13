"""Splits of a tuning study: pairs for its trials, and held-out pairs for the confirmation.

The scores by which the best trial was chosen are biased in its favour, so it is confirmed on other pairs.

    the dataset has          trials train on      are scored on        the confirmation is scored on
    train, val and test      train                val                  test
    train and val            a part of train      the rest of train    val
    train and test           a part of train      the rest of train    test

The pairs of tuning are links in STUDY/tuning.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from terramorph.errors import DatasetError, StorageError, raised_as
from terramorph.pairs import PairFolder, has_split, load_manifest, open_pairs
from terramorph.pairs.folder import find_sidecars

SHARE = 0.15
"""Share of the training pairs that are held out for tuning where no val split is left for it."""
MOST = 200
"""Most pairs that a trial is scored on; scoring more would take longer than a small rung."""


@dataclass(frozen=True)
class Splits:
    """Ids of the pairs that trials train on and are scored on (of `tuning_split`), and the split of confirmation."""

    train: tuple[str, ...]
    tuning: tuple[str, ...]
    tuning_split: str
    confirmation: str


def choose_splits(dataset: Path, seed: int) -> Splits:
    """Choose splits by the table above; in a prepared dataset one piece of ground is held out in each area."""
    train = open_pairs(dataset, "train")
    has_val, has_test = (has_split(dataset, name) for name in ("val", "test"))
    if not has_val and not has_test:
        raise DatasetError(
            f"Tuning needs a split besides train for the confirmation, and {dataset} has none; add val or test."
        )
    if has_val and has_test:
        return Splits(train.ids, _drawn(open_pairs(dataset, "val").ids, MOST, seed), "val", "test")
    if len(train) < 4:
        raise DatasetError(
            f"The train split of {dataset} has {len(train)} pairs, too few to hold some out for tuning; add pairs, or "
            "both a val and a test split."
        )
    count = min(max(2, round(SHARE * len(train))), MOST)
    kept, held_out = _by_place(train, count) or _by_chance(train, count, seed)
    return Splits(kept, held_out, "train", "val" if has_val else "test")


def link_pairs(dataset: Path, splits: Splits, folder: Path, *, anew: bool = False) -> None:
    """Link the pairs of tuning into `folder`/train and `folder`/val."""
    if folder.is_dir() and not anew:
        return
    part, failed = folder.with_name(f".{folder.name}.part"), f"The pairs of tuning cannot be linked into {folder}"
    with raised_as(StorageError, failed, "choose another `out`", OSError):
        shutil.rmtree(part, ignore_errors=True)
        manifest = load_manifest(dataset)
        places: dict[str, dict[str, tuple[int, int, int]]] = {}
        for name, split, ids in (("train", "train", splits.train), ("val", splits.tuning_split, splits.tuning)):
            _link(open_pairs(dataset, split), set(ids), part / name)
            known = manifest.pairs.get(split, {}) if manifest else {}
            places[name] = {pair: known[pair] for pair in ids if pair in known}
        if manifest is not None:
            manifest.model_copy(update={"pairs": places}).save(part)
        if folder.is_dir():
            shutil.rmtree(folder)
        part.rename(folder)


def _drawn(ids: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Return a random selection of at most `count` ids, in their order."""
    if len(ids) <= count:
        return tuple(ids)
    places = np.random.default_rng(seed).choice(len(ids), count, replace=False)
    return tuple(ids[place] for place in sorted(places))


def _by_chance(train: PairFolder, count: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    held_out = _drawn(train.ids, count, seed)
    return tuple(pair for pair in train.ids if pair not in set(held_out)), held_out


def _by_place(train: PairFolder, count: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Hold out the southern end of each area, and leave out pairs that overlap it; None where places are unknown."""
    manifest = train.manifest
    if manifest is None or manifest.tile is None:
        return None
    places = manifest.pairs.get("train", {})
    if not places.keys() >= set(train.ids):
        return None
    areas: dict[int, list[tuple[int, str]]] = {}
    for pair in train.ids:
        area, y, _ = places[pair]
        areas.setdefault(area, []).append((y, pair))
    kept, held_out = set[str](), set[str]()
    for rows in areas.values():
        wanted = max(1, round(count * len(rows) / len(train)))
        border = sorted((y for y, _ in rows), reverse=True)[min(wanted, len(rows)) - 1]
        held_out |= {pair for y, pair in rows if y >= border}
        kept |= {pair for y, pair in rows if y + manifest.tile <= border}
    if len(kept) < len(train) // 2 or len(held_out) < 2:
        return None  # one row of tiles has no southern end
    tuning = _drawn([pair for pair in train.ids if pair in held_out], MOST, 0)
    return tuple(pair for pair in train.ids if pair in kept), tuning


def _link(pairs: PairFolder, ids: set[str], folder: Path) -> None:
    """Link the files of pairs and their sidecars: world files, masks."""
    chosen = [(pair, files) for pair, files in zip(pairs.ids, pairs.files, strict=True) if pair in ids]
    beside = {at: find_sidecars(at) for at in {file.parent for _, files in chosen for file in files}}
    for pair, files in chosen:
        for file, side in zip(files, ("A", "B") if len(files) == 2 else ("",), strict=True):
            into, names = folder / side / Path(pair).parent, beside[file.parent]
            into.mkdir(parents=True, exist_ok=True)
            for one in {file, *names[file.name], *names[file.stem]}:
                _link_file(into / one.name, one.resolve())


def _link_file(link: Path, file: Path) -> None:
    """Link a file, or copy it where links need a privilege, as on Windows."""
    try:
        link.symlink_to(file)
    except OSError:
        if sys.platform != "win32":
            raise
        shutil.copyfile(file, link)
