"""The table of a prepared dataset, `footprints.parquet`, read back as columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyarrow import ArrowException
from pyproj.exceptions import CRSError

from terramorph.errors import DatasetError
from terramorph.pairs.manifest import FOOTPRINTS, SPLITS, Manifest, load_manifest
from terramorph.prepare.measure import MEASURE_NAMES

_TEXTS = ("id", "area", "split", "dropped", "note")
_NUMBERS = (*(name for name in MEASURE_NAMES if name != "hash"), "block_dx", "block_dy", "block_confidence")


@dataclass(frozen=True, eq=False)
class Footprints:
    """A dataset's manifest and one entry a tile, kept or not.

    Attributes:
        root: the dataset.
        manifest: its manifest.
        table: columns (N,): the texts `id`, `area`, `split`, `dropped`, `note` ('' for none); the measures,
            `block_dx`, `block_dy` and `block_confidence` as float64 (NaN for none); `row`, `col` int64; `duplicates`
            int64, the number of the group of look-alikes (0 for none); bool `kept`; bool `leak`, kept with a
            look-alike kept in another split; bool `twin`, kept with look-alikes in its own split alone.
        polygons: shapely (N,), None where a tile has no place.
        crs: of the polygons; None for none.
    """

    root: Path
    manifest: Manifest
    table: dict[str, NDArray[Any]]
    polygons: NDArray[np.object_]
    crs: CRS | None

    def __len__(self) -> int:
        return len(self.table["id"])

    def groups(self) -> dict[int, list[int]]:
        """Group of look-alikes -> the places in the table of those that were kept, where they are two or more."""
        number = np.where(self.table["kept"], self.table["duplicates"], 0)
        order = np.argsort(number, kind="stable")
        order = order[number[order] > 0]
        pieces = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
        return {int(number[piece[0]]): piece.tolist() for piece in pieces if len(piece) > 1}


def read_footprints(root: str | Path) -> Footprints:
    """Reads the manifest and the table of a prepared dataset.

    Raises:
        DatasetError: if it is none, or one of the two is missing, damaged or of another kind.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"There is no dataset folder {root}; give a folder that prepare has made.")
    manifest = load_manifest(root)
    if manifest is None:
        raise DatasetError(f"{root} holds no manifest.json, so it is no prepared dataset; make one with prepare.")
    path = root / FOOTPRINTS
    try:
        frame = geopandas.read_parquet(path)
        table: dict[str, NDArray[Any]] = {}
        for name in _TEXTS:
            table[name] = frame[name].astype(object).where(frame[name].notna(), "").to_numpy(dtype=object)
        for name in _NUMBERS:
            table[name] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("row", "col", "duplicates"):
            table[name] = frame[name].fillna(0).to_numpy(dtype=np.int64)
        polygons = np.asarray(frame.geometry.values, dtype=object)
        crs = None if frame.crs is None else CRS(frame.crs.to_wkt())
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing; run the same prepare command again, which writes it anew.") from None
    except (OSError, ArrowException, CRSError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error).strip().split("\n")[0]
        raise DatasetError(
            f"{path} cannot be read ({reason}); run the same prepare command again, which writes it anew."
        ) from error
    table["kept"] = np.isin(table["split"], SPLITS)
    table["leak"], table["twin"] = _alike(table)
    return Footprints(root, manifest, table, polygons, crs)


def _alike(table: dict[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Kept tiles (N,) of groups that reach over several splits, and of groups that do not."""
    group = np.where(table["kept"], table["duplicates"], 0)
    count = np.bincount(group)
    splits = sum(np.bincount(group[table["split"] == split], minlength=len(count)) > 0 for split in SPLITS)
    several = np.asarray(splits)[group] > 1
    alike = (group > 0) & (count[group] > 1)
    return alike & several, alike & ~several
