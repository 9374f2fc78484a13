"""The journal of a preparation, a folder `.prepare` in the dataset, from which an interrupted one resumes.

.prepare/settings.json   options
.prepare/areas.json      areas in the order in which they were first named
.prepare/NAME.jsonl      one line per finished tile of an area: place, split and measures
.prepare/lock            held by the process that prepares
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from terramorph.atomic import atomic, locked, make_folder, write_text
from terramorph.documents import flat, parse_json_object
from terramorph.errors import DatasetError, StorageError, raised_as, reason_of
from terramorph.geo import Grid
from terramorph.pairs.manifest import AreaRecord
from terramorph.prepare.measure import Measures
from terramorph.prepare.options import Options

FOLDER = ".prepare"
MOST_APART = 1.1
"""Largest ratio of the areas' ground resolutions; that of web mercator changes with latitude."""
MOST_TURNED = 5.0
"""Largest angle between the rows of two areas, degrees."""
_CONTENT = "split.content"
"""Setting that holds a digest of the file of the split."""
_T = TypeVar("_T")
_Pixels = Annotated[int, Field(ge=0, lt=2**31)]


def _inside(name: str) -> str:
    """Validate that the id of a pair names files inside the dataset."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.name:
        raise ValueError("it is not a name of a pair")
    return name


class Place(BaseModel):
    """A tile to be cut.

    Attributes:
        id: Id of the pair.
        split: `train`, `val` or `test`; None for a tile that is measured and not written.
        dropped: Reason why it is not written: `buffer`, `unlisted`, `outside`; in a `Row` also later ones.
        row, col: Position in the lattice of tiles.
        y, x: First pixel on the area's grid.
    """

    id: Annotated[str, AfterValidator(_inside)]
    area: str
    split: Literal["train", "val", "test"] | None
    dropped: str | None
    row: _Pixels
    col: _Pixels
    y: _Pixels
    x: _Pixels

    def files(self, out: Path, twins: bool) -> tuple[Path, ...]:
        """Return the paths of the pair's images."""
        if self.split is None:
            return ()
        folder = out / self.split
        if twins:
            return folder / "A" / f"{self.id}.tif", folder / "B" / f"{self.id}.tif"
        return (folder / f"{self.id}.png",)


class Row(Measures, Place):
    """A finished tile: its place, its measures (NaN for none), and later findings.

    Attributes:
        block_dx, block_dy, block_confidence: Common `Shift` of the tiles of its block.
        note: Reason why it could not be read.
        duplicates: Number of its group of look-alikes, from 1; None without one; not in the journal.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    block_dx: float = math.nan
    block_dy: float = math.nan
    block_confidence: float = 0.0
    note: str | None = None
    duplicates: int | None = Field(default=None, exclude=True)


class Journal:
    """The journal of a dataset's preparation; for use in one thread."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.folder = out / FOLDER
        self._refuse_foreign(out)
        make_folder(self.folder)
        begun = self._read("settings.json", parse_json_object)
        if begun is None:
            self._save("settings.json", settings)
        else:
            # Settings that did not exist yet had their defaults.
            now, was = flat(settings), flat(Options().plain()) | flat(begun)
            file = now.get("split.file")
            if was.get("split.file") == file and was.get(_CONTENT) != now.get(_CONTENT):
                raise DatasetError(
                    f"{out} was begun with another content of {file}; restore it or choose another folder."
                )
            for name in sorted({*was, *now} - {_CONTENT, "skip_bad"}):  # what could be cut stays as it is
                if was.get(name) != now.get(name):
                    raise DatasetError(
                        f"{out} was begun with other settings ({name}: {was.get(name)!r}, now {now.get(name)!r}); give "
                        "the same ones to resume, or choose another folder."
                    )
        self.areas = self._read("areas.json", TypeAdapter(list[AreaRecord]).validate_json) or []

    def forget_unused(self) -> None:
        """Forget the settings of a dataset without an area: they may be what kept it from beginning."""
        if not self.areas:
            (self.folder / "settings.json").unlink(missing_ok=True)

    def add_area(self, area: AreaRecord, ids: Iterable[str]) -> None:
        """Record an area, before any of its tiles.

        Raises:
            DatasetError: If its files have changed, another area holds one of its ids, or the areas do not go together.
        """
        for known in self.areas:
            short, long = sorted((known.name, area.name), key=len)
            if long.startswith(f"{short}_") and (shared := {r.id for r in self.rows(known.name)}.intersection(ids)):
                raise DatasetError(
                    f"The areas {known.name} and {area.name} would both have a pair {min(shared)}; give one of them "
                    "another `name`."
                )
        for known in self.areas:
            if known.name == area.name:
                if known != area:
                    raise DatasetError(
                        f"The files of area {area.name} are no longer those it was begun with ({known.source.path}, "
                        f"{known.target.path}); restore them, or choose another folder or `name`."
                    )
                return
        if self.areas:
            _refuse_other_kind(self.areas[0], area)
        self.areas.append(area)
        self._save("areas.json", [known.model_dump(mode="json") for known in self.areas])

    def rows(self, area: str) -> list[Row]:
        """Read the finished tiles of an area, each once, in the order in which they were finished.

        Lines that a crash cut short, or that are not of a tile of the area, are left out: such tiles are cut again.
        """
        try:
            text = (self.folder / f"{area}.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._damaged(f"{area}.jsonl", error.strerror) from error
        found: dict[str, Row] = {}
        for line in text.split(b"\n")[:-1]:
            with suppress(ValidationError):
                row = Row.model_validate_json(line)
                if row.area == area:
                    found[row.id] = row
        return list(found.values())

    def replace_rows(self, area: str, rows: Sequence[Row]) -> None:
        """Rewrite the finished tiles of an area, if the file differs."""
        path, text = self.folder / f"{area}.jsonl", _lines(rows)
        if path.exists() and path.read_bytes() != text:
            with atomic(path) as part:
                part.write_bytes(text)

    def add_rows(self, area: str, rows: Iterable[Row]) -> None:
        """Append finished tiles; they are on disk when it returns."""
        path = self.folder / f"{area}.jsonl"
        advice = "free some space and run the same again, which resumes from here"
        with raised_as(StorageError, f"{path} cannot be written", advice, OSError), path.open("ab") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, name: str, parse: Callable[[bytes], _T]) -> _T | None:
        try:
            return parse((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._damaged(name, reason_of(error)) from error

    def _damaged(self, name: str, why: object) -> DatasetError:
        return DatasetError(f"{self.folder / name} is damaged ({why}); remove {self.folder.parent} and start again.")

    def _save(self, name: str, value: Any) -> None:
        write_text(self.folder / name, json.dumps(value, indent=1))

    def _refuse_foreign(self, out: Path) -> None:
        """Refuse a folder that holds other files."""
        try:
            strangers = [] if self.folder.is_dir() else [p.name for p in out.iterdir() if not p.name.startswith(".")]
        except FileNotFoundError:
            return
        except OSError as error:
            raise DatasetError(f"{out} is not a folder that can be used ({error.strerror}); choose another.") from error
        if strangers:
            raise DatasetError(
                f"{out} already holds {strangers[0]} and was not begun by prepare; choose an empty or new folder."
            )


def held(out: Path) -> AbstractContextManager[None]:
    """Lock the dataset for this process."""
    busy = DatasetError(f"Another process is preparing {out}; wait for it or choose another folder.")
    return locked(out / FOLDER / "lock", busy)


def _refuse_other_kind(first: AreaRecord, area: AreaRecord) -> None:
    """Refuse an area whose bands, dtypes, rows or ground resolution differ from those of the first one."""
    for which, a, b in (("source", first.source, area.source), ("target", first.target, area.target)):
        if (len(a.bands), a.dtype) != (len(b.bands), b.dtype):
            raise DatasetError(
                f"The {which} of {area.name} ({b.path}) has {len(b.bands)} bands of {b.dtype} and that of {first.name} "
                f"{len(a.bands)} of {a.dtype}; all pairs of a dataset must be alike, make a dataset of each."
            )
    if first.grid is not None and area.grid is not None:
        apart = _turned_apart(first.grid, area.grid)
        if apart is None or apart > MOST_TURNED:
            how = "is mirrored" if apart is None else f"is turned by {apart:.0f} degrees"
            raise DatasetError(
                f"The pixel grid of {area.name} {how} against that of {first.name}; give one `resolution` for all, "
                "which lays north up, or make a dataset of each."
            )
    have, other = (None if r.grid is None else r.grid.ground_resolution for r in (first, area))
    if have and other and max(have / other, other / have) > MOST_APART:
        raise DatasetError(
            f"A pixel of {area.name} is {other:.3g} m and one of {first.name} {have:.3g} m; give one `resolution` "
            "for all, or make a dataset of each."
        )


def _turned_apart(a: Grid, b: Grid) -> float | None:
    """Return the angle between the rows of two grids in degrees; None where one is mirrored, 0 without a CRS."""
    if a.crs is None or b.crs is None:
        return 0.0
    if (a.affine.determinant < 0) != (b.affine.determinant < 0):
        return None
    turned = math.degrees(math.atan2(a.affine.d, a.affine.a) - math.atan2(b.affine.d, b.affine.a))
    return abs((turned + 180) % 360 - 180)


def _lines(rows: Iterable[Row]) -> bytes:
    return "".join(row.model_dump_json() + "\n" for row in rows).encode()
