"""Reading of the table of a prepared dataset, `footprints.parquet`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np

from terramorph.errors import DatasetError, raised_as
from terramorph.pairs.manifest import FOOTPRINTS, SPLITS, Manifest, load_manifest
from terramorph.prepare.measure import MEASURE_NAMES
from terramorph.prepare.registration import MIN_CONFIDENCE

_TEXTS = ["id", "area", "split", "dropped", "note"]
_NUMBERS = [*(name for name in MEASURE_NAMES if name != "hash"), "block_dx", "block_dy", "block_confidence"]


@dataclass(frozen=True, eq=False)
class Footprints:
    """Manifest of a dataset, and a table of its tiles, kept or not.

    Attributes:
        root: Folder of the dataset.
        manifest: Manifest of the dataset.
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
