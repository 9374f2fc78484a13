"""The table of a prepared dataset, `footprints.parquet`, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from pyarrow import ArrowException
from pyproj.exceptions import CRSError

from terramorph.errors import DatasetError
from terramorph.pairs.manifest import FOOTPRINTS, SPLITS, Manifest, load_manifest
from terramorph.prepare.measure import MEASURE_NAMES
from terramorph.prepare.registration import MIN_CONFIDENCE

_TEXTS = ["id", "area", "split", "dropped", "note"]
_NUMBERS = [*(name for name in MEASURE_NAMES if name != "hash"), "block_dx", "block_dy", "block_confidence"]


@dataclass(frozen=True, eq=False)
class Footprints:
    """A dataset's manifest and one row a tile, kept or not.

    Attributes:
        root: the dataset.
        manifest: its manifest.
        table: GeoDataFrame of the columns of `footprints.parquet`, where texts are '' for none, measures float64 (NaN
            for none) and `duplicates` int64 (0 for none). And of these: `shift`, its length in pixels, NaN where it
            cannot be told; bool `kept`; bool `leak`, kept with a look-alike kept in another split; bool `twin`, kept
            with look-alikes in its own split alone.
    """

    root: Path
    manifest: Manifest
    table: Any


def read_footprints(root: str | Path) -> Footprints:
    """Reads the manifest and the table of a prepared dataset."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"There is no dataset folder {root}; give a folder that prepare has made.")
    manifest = load_manifest(root)
    if manifest is None:
        raise DatasetError(f"{root} holds no manifest.json, so it is no prepared dataset; make one with prepare.")
    path = root / FOOTPRINTS
    try:
        table = geopandas.read_parquet(path).reset_index(drop=True)
        texts = table[_TEXTS].astype(object)
        table[_TEXTS] = texts.where(texts.notna(), "")
        table[_NUMBERS] = table[_NUMBERS].astype(np.float64)
        table["duplicates"] = table["duplicates"].fillna(0).astype(np.int64)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing; run the same prepare command again, which writes it anew.") from None
    except (OSError, ArrowException, CRSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({str(error).strip().splitlines()[0]}); run the same prepare command again, which "
            "writes it anew."
        ) from error
    table["shift"] = np.hypot(table["dx"], table["dy"]).where(table["confidence"] >= MIN_CONFIDENCE)
    table["kept"] = table["split"].isin(SPLITS)
    splits = table[table["kept"] & (table["duplicates"] > 0)].groupby("duplicates")["split"]
    for name, enough in (("leak", splits.transform("nunique") > 1), ("twin", splits.transform("size") > 1)):
        table[name] = enough.reindex(table.index, fill_value=False).astype(np.bool_)
    table["twin"] &= ~table["leak"]
    return Footprints(root, manifest, table)
