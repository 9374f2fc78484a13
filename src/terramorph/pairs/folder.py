"""Folders of paired images: A|B side by side in one file, or twins in two folders.

Layouts that are recognised for a split S (train, val or test):

    ROOT/S/x.jpg                    A on the left, B on the right
    ROOT/S/A/x.tif  ROOT/S/B/x.png  twins, matched by name without suffix
    ROOT/A/S/x.tif  ROOT/B/S/x.png
    ROOT/SA/x.png   ROOT/SB/x.png   as in trainA, trainB

Folders within these are read too: x may be FOLDER/x, which then is the pair's id. In ROOT/S, the folders A and B of
twins may stand at any depth.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from terramorph.errors import DatasetError, InputError, RasterError, warn
from terramorph.geo import Grid
from terramorph.geo.crs import crs_name
from terramorph.pairs.manifest import Manifest, load_manifest
from terramorph.raster.image import IMAGE_SUFFIXES, files_below, probe_image, read_image
from terramorph.raster.layout import ReadOptions
from terramorph.raster.raster import Raster
from terramorph.raster.worldfile import WORLD_SUFFIXES

# What changes how the image of the same stem is read: world files, projections, calibrations ...
_PLACES = WORLD_SUFFIXES | {".prj", ".tab", ".map"}
# ... and the image whose whole name they extend: nodata, CRS and band names by GDAL, and masks.
_EXTENSIONS = (".aux.xml", ".msk")
# Files that lie beside images and are no pairs: those, statistics, and what desktops leave behind.
_SIDECARS = _PLACES | {".xml", ".msk", ".aux", ".ovr", ".json", ".txt", ".csv", ".md", ".db", ".ini"}
_SIDES = ("A", "B")
FEW = 50
"""Number of training pairs under which a model mostly memorises them. The smallest set of the pix2pix paper (Isola
et al. 2017) has 91, those of facades and maps 400 and 1,096."""


def warn_if_few(count: int, advice: str) -> None:
    """Warn of a training split that is too small.

    Args:
        count: Its pairs.
        advice: A sentence about what gives more.
    """
    if count < FEW:
        pairs = f"{count} pair{'s' * (count != 1)}"
        warn(f"{pairs} to train on: too few, a model learns them by heart and fails elsewhere. {advice}")


@dataclass(frozen=True)
class Pair:
    """Two sides on one grid.

    Attributes:
        id: The file's path below the split (or the side), without suffix.
        a: The first side (left half, or the file in folder A), pixels (C_a, H, W).
        b: The second side, pixels (C_b, H, W), same H and W.
    """

    id: str
    a: Raster
    b: Raster

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W), True where both sides hold real pixels."""
        return self.a.mask & self.b.mask

    def sides(self, direction: str) -> tuple[Raster, Raster]:
        """Return (source, target) for the direction AtoB or BtoA."""
        return (self.a, self.b) if direction == "AtoB" else (self.b, self.a)


@dataclass(frozen=True)
class PairFolder:
    """The pairs of one split; a pair is read when it is asked for.

    Attributes:
        root: The dataset's folder.
        split: train, val or test.
        ids: One a pair, sorted: the path of its file below the split (or the side), without suffix.
        files: Files of each pair: one that holds both halves, or the two twins.
        skipped: Sentences about what was left out, when bad files are skipped.
        manifest: Manifest of a prepared dataset, which knows where its pairs lie; None for others.
        nodata: Stored value of pixels without data, beside what files declare.
    """

    root: Path
    split: str
    ids: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    skipped: tuple[str, ...] = ()
    manifest: Manifest | None = None
    nodata: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Pair]:
        return (self.read(index) for index in range(len(self)))

    def __getitem__(self, index: int) -> Pair:
        return self.read(index)

    def read(self, index: int) -> Pair:
        """Read one pair.

        Raises:
            DatasetError: If a file cannot be read, its width is odd, or twins differ in size or ground.
        """
        files = self.files[index]
        try:
            rasters = [read_image(file, ReadOptions(nodata=self.nodata)) for file in files]
        except InputError as error:
            raise DatasetError(f"The pair {self.ids[index]} of {self.split} cannot be read: {error}") from error
        if len(rasters) == 1:
            a, b = halves(rasters[0], files[0])
        else:
            a, b = rasters
            if (a.height, a.width) != (b.height, b.width):
                raise DatasetError(
                    f"The twins {files[0]} and {files[1]} differ in size ({a.width}x{a.height} and "
                    f"{b.width}x{b.height} px); resample one to the other."
                )
            grid = _one_grid(a.grid, b.grid, files)
            a, b = replace(a, grid=grid), replace(b, grid=grid)
        known = self.manifest.grid_of(self.split, self.ids[index]) if self.manifest else None
        if known is not None and known.shape == a.grid.shape and not a.grid.is_georeferenced:
            a, b = replace(a, grid=known), replace(b, grid=known)
        return Pair(self.ids[index], a, b)

    def fingerprint(self) -> str:
        """Return a hex digest of every file's name and content: it changes with any pixel, name, place or mask.

        World files, .prj, .aux.xml and .msk beside an image count as part of it. A file that cannot be read counts as
        unreadable, and `read` reports it.
        """
        digest = hashlib.blake2b(digest_size=16)
        beside = {folder: find_sidecars(folder) for folder in {file.parent for files in self.files for file in files}}
        for pair, files in zip(self.ids, self.files, strict=True):
            if "/" in pair:
                digest.update(pair.encode(errors="surrogateescape"))
            for file in files:
                names = beside[file.parent]
                for part in (file, *sorted({*names[file.name], *names[file.stem]})):
                    digest.update(part.name.encode(errors="surrogateescape"))
                    digest.update(_content(part))
        if self.manifest:
            digest.update(self.manifest.model_dump_json().encode())
        return digest.hexdigest()

    def only(self, indices: Sequence[int], skipped: Sequence[str]) -> PairFolder:
        """Return the split with only the pairs at ``indices``."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            files=tuple(self.files[i] for i in indices),
            skipped=self.skipped + tuple(skipped),
        )


def open_pairs(root: str | Path, split: str, *, skip_bad: bool = False, nodata: float | None = None) -> PairFolder:
    """Find the pairs of a split without decoding them.

    Args:
        root: The dataset's folder, in one of the layouts at the head of this module.
        split: train, val or test.
        skip_bad: Leave out files that are no images or have no twin, and list them in `skipped`.
        nodata: See `PairFolder`.

    Raises:
        DatasetError: If there is no such split, it is empty, a file is not an image, or a twin is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"There is no dataset folder {root}; give the folder that holds train and val.")
    if split != Path(split).name or not split.strip("."):  # else all splits at once would be one
        raise DatasetError(f"The dataset {root} has no split {split!r}; give the name of a folder in it, such as val.")
    skipped: list[str] = []

    def leave_out(problem: str, remedy: str = "remove") -> None:
        if not skip_bad:
            raise DatasetError(f"{problem}; {remedy} it, or skip such files (`skip_bad`).")
        skipped.append(f"{problem}.")

    twins = next(
        (
            (a, b)
            for a, b in ((root / "A" / split, root / "B" / split), (root / f"{split}A", root / f"{split}B"))
            if a.is_dir() or b.is_dir()
        ),
        None,
    )
    if twins is not None and not any((root / split / side).is_dir() for side in _SIDES):
        sides = [_named(_images(side, leave_out), side, leave_out) for side in twins]
        pairs = _match(sides[0], sides[1], twins, leave_out)
    elif (root / split).is_dir():
        pairs = _in_split(root / split, leave_out)
    else:
        present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        raise DatasetError(
            f"The dataset {root} has no split {split!r}; it holds {', '.join(present) if present else 'no folders'}."
        )
    if not pairs:
        raise DatasetError(
            f"The split {split!r} of {root} holds no pairs; put A|B images there, or choose another split."
        )
    ids = tuple(sorted(pairs, key=_natural))
    return PairFolder(root, split, ids, tuple(pairs[i] for i in ids), tuple(skipped), load_manifest(root), nodata)


def find_sidecars(folder: Path) -> defaultdict[str, list[Path]]:
    """Map names and stems of images to their sidecars in a folder, from one listing."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    try:
        files = list(folder.iterdir())
    except OSError:
        return found
    for file in files:
        if file.suffix.lower() in _PLACES:
            found[file.stem].append(file)
        extension = next((known for known in _EXTENSIONS if file.name.lower().endswith(known)), None)
        if extension:
            found[file.name[: -len(extension)]].append(file)
    return found


def _content(file: Path) -> bytes:
    """Digest a file's bytes; a file that cannot be read gets a mark instead."""
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
    except OSError:
        return b"cannot be read"


def has_split(root: str | Path, split: str) -> bool:
    """Return whether the dataset has a folder for the split, in any layout."""
    root = Path(root)
    return any((root / name).is_dir() for name in (split, f"A/{split}", f"{split}A"))


def _in_split(folder: Path, leave_out: Callable[..., None]) -> dict[str, tuple[Path, ...]]:
    """Find the pairs of ROOT/S: A|B images at any depth, and twins in folders A and B at any depth."""
    whole: list[Path] = []
    twins: dict[tuple[Path, Path], tuple[list[Path], list[Path]]] = {}
    for file in _images(folder, leave_out):
        at = next((p for p in reversed(file.parents) if p.name in _SIDES and folder in p.parents), None)
        if at is None:
            whole.append(file)
        else:
            both = at.with_name("A"), at.with_name("B")
            twins.setdefault(both, ([], []))[_SIDES.index(at.name)].append(file)
    _refuse_unnamed_twins(whole)
    with suppress(RasterError):
        if whole and _is_narrow(whole[0]):
            height, width, _, _ = probe_image(whole[0])
            warn(
                f"Images of {folder} are read as A|B pairs: {whole[0].name} of {width} x {height} px has halves of "
                f"{width // 2} x {height} px. If they show one side alone, put the sides into folders A and B."
            )
    pairs: dict[str, tuple[Path, ...]] = {name: (file,) for name, file in _named(whole, folder, leave_out).items()}
    for both, found in twins.items():
        sides = [_named(files, side, leave_out) for files, side in zip(found, both, strict=True)]
        above = both[0].parent.relative_to(folder)
        for name, files in _match(sides[0], sides[1], both, leave_out).items():
            full = (above / name).as_posix()
            if full not in pairs:
                pairs[full] = files
            else:
                leave_out(f"{files[0]} has the same name as {pairs[full][0]}")
    return pairs


def _refuse_unnamed_twins(files: Sequence[Path]) -> None:
    """Refuse two folders with the same names of narrow images: they are twins, not A|B images."""
    folders: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for file in files:
        folders[file.parent][file.stem] = file
    alike: defaultdict[frozenset[str], list[Path]] = defaultdict(list)
    for folder, images in folders.items():
        alike[frozenset(images)].append(folder)
    for names, several in alike.items():
        with suppress(RasterError):  # what cannot be read is said when its turn comes
            if len(several) > 1 and all(_is_narrow(folders[folder][min(names)]) for folder in several):
                raise DatasetError(
                    f"The folders {several[0]} and {several[1]} hold images of the same names, as twins do; call them "
                    "A and B."
                )


def _is_narrow(file: Path) -> bool:
    """Return whether the halves of an A|B image would be less than three quarters as wide as high."""
    height, width, _, _ = probe_image(file)
    return width < 1.5 * height


def _images(folder: Path, leave_out: Callable[..., None]) -> list[Path]:
    """List the images of a folder and its sub-folders; none of a missing one."""
    try:
        listed = files_below(folder) if folder.is_dir() else []
    except OSError as error:
        raise DatasetError(
            f"The folder {error.filename or folder} cannot be listed ({error.strerror}); check its permissions."
        ) from error
    files = [file for file in listed if file.suffix.lower() not in _SIDECARS]
    images = []
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in str(file)):  # no page or manifest could name it
            leave_out(f"The name of {str(file)!a} is not UTF-8", "rename")
        else:
            images.append(file)
    among = {folder, *(file.parent for file in images)}
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES and file.parent in among:
            leave_out(f"{file} is not an image that can be read")
    return images


def _named(files: Sequence[Path], folder: Path, leave_out: Callable[..., None]) -> dict[str, Path]:
    """Map paths below a folder, without suffix, to images."""
    found: dict[str, Path] = {}
    for file in files:
        # An accent may be a letter of its own, as macOS writes it: to the eye it is the same name.
        name = unicodedata.normalize("NFC", (file.parent.relative_to(folder) / file.stem).as_posix())
        if name in found:
            leave_out(f"{file} has the same name as {found[name].name}")
        else:
            found[name] = file
    return found


def _match(
    a: dict[str, Path], b: dict[str, Path], folders: tuple[Path, Path], leave_out: Callable[..., None]
) -> dict[str, tuple[Path, ...]]:
    for side in folders:
        if not side.is_dir():
            raise DatasetError(f"The folder {side} is missing while its twin exists; every image needs both sides.")
    for name in sorted(a.keys() ^ b.keys()):
        here, missing = (a[name], folders[1]) if name in a else (b[name], folders[0])
        leave_out(f"{here} has no twin in {(missing / name).parent}", "add")
    # In the order of the files: that of a set would differ from one process to the next.
    return {name: (a[name], b[name]) for name in a if name in b}


def _one_grid(a: Grid, b: Grid, files: Sequence[Path]) -> Grid:
    """Return the grid of twins of one size: the known one, or the first where both agree."""
    if a.crs is None or b.crs is None:
        return b if (b.crs is not None, b.is_georeferenced) > (a.crs is not None, a.is_georeferenced) else a
    if a.crs != b.crs and not a.crs.proj.equals(b.crs.proj, ignore_axis_order=True):
        raise DatasetError(
            f"The twins {files[0]} and {files[1]} differ in CRS ({crs_name(a.crs)} and {crs_name(b.crs)}); "
            "reproject one to the other."
        )
    corners = np.array([(0, 0), (a.width, 0), (0, a.height), (a.width, a.height)]).T
    apart = np.abs(np.array(~a.affine @ (b.affine @ corners)) - corners).max()
    if apart > 0.5:
        raise DatasetError(
            f"The twins {files[0]} and {files[1]} do not lie on the same ground, their corners are up to {apart:.4g} "
            "px apart; resample one to the grid of the other."
        )
    return a


def halves(whole: Raster, file: Path) -> tuple[Raster, Raster]:
    """Split an A|B image (C, H, 2 W) into its sides (C, H, W); only the left one may have a place.

    Raises:
        DatasetError: If the width is odd.
    """
    if whole.width % 2:
        raise DatasetError(
            f"{file} is {whole.width} px wide, which is odd and cannot be two halves side by side; "
            "give A|B images of even width, or twin folders A and B."
        )
    half = whole.width // 2
    # Only the left half can lie where the file's georeference says: the right one is the same ground again.
    grid = whole.grid.crop(0, 0, whole.height, half) if whole.grid.is_georeferenced else Grid.pixels(whole.height, half)
    sides = [
        Raster(whole.pixels[:, :, x : x + half], whole.mask[:, x : x + half], grid, whole.bands, whole.units)
        for x in (0, half)
    ]
    return sides[0], sides[1]


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts 2 before 10."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)
