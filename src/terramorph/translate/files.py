"""Translation of image files to image files; reading, computing and writing run in parallel."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from terramorph.atomic import make_folder
from terramorph.errors import ConfigError, InputError
from terramorph.geo import Grid
from terramorph.raster import IMAGE_SUFFIXES, Raster, Source, write_image
from terramorph.raster.array_source import RasterSource
from terramorph.raster.image import files_below
from terramorph.raster.save import check_format
from terramorph.translate.engine import identity
from terramorph.translate.outputs import Cog, Picture, Request, Written, brought_back, refuse_present, warn_of_no_data
from terramorph.translate.paired import pairs_among, source_half, without_targets
from terramorph.translate.parts import Parts, is_begun
from terramorph.translate.plan import WHOLE_PIXELS, opened, plan
from terramorph.translate.tiled import Tiled

if TYPE_CHECKING:
    from terramorph.translate.model import Model

WRITABLE = (*Picture.suffixes, *Cog.suffixes)
# fmt: off
IMAGE_LIKE = IMAGE_SUFFIXES | {
    ".apng", ".asc", ".avif", ".bil", ".bip", ".bsq", ".cog", ".dds", ".dib", ".ecw", ".eps", ".exr", ".geotiff",
    ".gif", ".grd", ".gtiff", ".hdr", ".heic", ".heif", ".ico", ".img", ".j2k", ".jfif", ".jp2", ".jpe", ".jpx",
    ".jxl", ".kea", ".mbtiles", ".nc", ".pbm", ".pcx", ".pdf", ".pgm", ".pmtiles", ".pnm", ".ppm", ".psd", ".sid",
    ".svg", ".tga", ".vrt",
}
# fmt: on
"""Suffixes, in lower case, of names that mean an image, not a folder."""


class _Image(NamedTuple):
    """An image that has been read."""

    path: Path
    raster: Raster
    tiled: Tiled
    own: Grid


def translate_images(
    model: Model, source: str | Path | Sequence[str | Path], output: Path, request: Request
) -> Written:
    """Translate a list of images, or every image of a folder, into a folder.

    Every input is read and checked before the first output is written. Consecutive images of the same size share
    passes in raster mode. Images are read a few ahead and written while others are computed. Finished images are
    noted beside the output until all are finished, so that an interrupted translation resumes.
    """
    if request.stac:
        raise ConfigError(f"{output} is a folder of images, and a STAC item is of one GeoTIFF; leave `stac` out.")
    if request.area is not None or request.uncertainty is not None:
        raise ConfigError(
            f"{output} is a folder of images, each translated whole: an area and an uncertainty are of one GeoTIFF or "
            "archive of tiles; name the output .tif, .mbtiles or .pmtiles, or leave them out."
        )
    jobs = _plan(model, source, output, request)
    name = source if isinstance(source, str | Path) else "The list"
    halved = pairs_among(list(jobs), name, model.header, request.pairs)
    beside, written = output.resolve(), Written()
    begun = is_begun(beside) and not request.restart
    if not begun and not request.overwrite:
        refuse_present([name for names in jobs.values() for name in names])
    with ThreadPoolExecutor(2, "terramorph-images") as pool:
        images = _Images(model, request, jobs, halved, pool)
        good = images.checked(written.skipped if request.skip_bad else None)
        if not good:
            raise InputError(f"No image of {source} can be translated: {written.skipped[0]}")
        for folder in {jobs[path][0].parent for path in good}:
            make_folder(folder)
        parts = Parts(beside, images.identity(good), request.restart)
        with parts.locked():
            images.translate(good, parts)
        parts.remove()
    written.files.extend(place for path in good for place in jobs[path])
    return written


@dataclass(frozen=True)
class _Images:
    """The images of a translation and their outputs.

    Attributes:
        jobs: Outputs by input.
        halved: Inputs that are A|B pairs.
        pool: Threads that read and write.
    """

    model: Model
    request: Request
    jobs: dict[Path, list[Path]]
    halved: frozenset[Path]
    pool: ThreadPoolExecutor

    def identity(self, good: Mapping[Path, str]) -> dict[str, Any]:
        """Return the identity of the translation, plain data; parts of another identity are not resumed."""
        names = "\n".join(f"{path.absolute()} {places} {good.get(path)}" for path, places in self.jobs.items())
        images = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
        return {
            **identity(self.model, images, self.model.backend.name),
            "resolution": [self.request.resolution, self.request.match_source],
            "pairs": sum(path in self.halved for path in self.jobs),
            "window": self.request.window,
            "overlap": self.request.overlap,
        }

    def checked(self, skipped: list[str] | None) -> dict[Path, str]:
        """Return the inputs that can be read, fit and can be written, each with a digest of what is translated of it;
        others raise, or are added to `skipped`."""
        good = {}
        for path, found in zip(self.jobs, self.pool.map(self._digest, self.jobs), strict=True):
            if isinstance(found, str):
                good[path] = found
            elif skipped is None:
                raise found
            else:
                skipped.append(str(found))
        return good

    def _digest(self, path: Path) -> str | InputError:
        """Return a digest of an image as it is read and where it lies, or what is wrong with it."""
        target, place = self.model.header.target, self.jobs[path][0]
        try:
            image = self._read(path)
            mask = image.raster.mask
            masked = not bool(mask.all())
            check_format(place, bands=target.count, dtype=target.dtype, masked=masked, side=max(mask.shape))
        except InputError as error:
            told = any(str(one) in str(error) for one in (path, place))
            return error if told else InputError(f"{path}: {error}")
        return f"{RasterSource(image.raster).fingerprint()} {image.own}"

    def translate(self, good: Collection[Path], parts: Parts) -> None:
        """Translate the images that `parts` does not note as finished; a few are written meanwhile."""
        numbers, finished = {path: number for number, path in enumerate(self.jobs)}, parts.done()
        left = [path for path in good if numbers[path] not in finished]
        pending: deque[Future[None]] = deque()
        done, request = len(good) - len(left), self.request

        def keep(path: Path, rasters: Sequence[Raster]) -> None:
            for raster, place in zip(rasters, self.jobs[path], strict=True):
                write_image(raster, place)
            parts.save(numbers[path], None)

        request.tell("translating", done, len(good))
        try:
            for images in self._batches(left):
                draws = [self._translated(images, sample) for sample in range(request.samples)]
                for image, rasters in zip(images, zip(*draws, strict=True), strict=True):
                    pending.append(self.pool.submit(keep, image.path, rasters))
                while len(pending) > 2 * self.model.batch_size:
                    pending.popleft().result()
                done += len(images)
                request.tell("translating", done, len(good))
            while pending:
                pending.popleft().result()
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)
            raise

    def _translated(self, images: Sequence[_Image], sample: int) -> list[Raster]:
        """Return the translations of images of one size in one pass, or of a single image in windows."""
        if len(images) == 1:
            made = [replace(images[0].tiled, sample=sample).whole(RasterSource(images[0].raster))]
        else:
            units = self.model.predict([image.raster for image in images], sample)
            made = [image.tiled.of_one(unit, image.raster.mask) for image, unit in zip(images, units, strict=True)]
        if not self.request.match_source:
            return made
        return [
            raster if raster.grid == image.own else brought_back(image.tiled, raster, image.own)
            for raster, image in zip(made, images, strict=True)
        ]

    def _read(self, path: Path) -> _Image:
        request = self.request
        with opened(self.model, path, None, request.opening) as image:
            if image.grid is None:
                raise InputError(f"{path} has no pixels of its own; translate it by itself, at a resolution.")
            held: Source = image
            if path in self.halved:
                held = RasterSource(source_half(image.read(image.grid), path, self.model.header))
                held.name = str(path)
            assert held.grid is not None
            tiled = plan(
                self.model, held, resolution=request.resolution, window=request.window, overlap=request.overlap
            )
            read = held.read(tiled.grid)
            if not read.mask.any():
                warn_of_no_data(path, self.jobs[path][0])
            return _Image(path, read, tiled, held.grid)

    def _ahead(self, paths: Iterable[Path]) -> Iterator[_Image]:
        """Read images in other threads, a batch and two ahead; large ones only one ahead."""
        reading: deque[Future[_Image]] = deque()
        count = self.model.batch_size + 2
        for path in paths:
            reading.append(self.pool.submit(self._read, path))
            if len(reading) > count:
                image = reading.popleft().result()
                count = 1 if image.raster.mask.size > WHOLE_PIXELS else count
                yield image
        while reading:
            yield reading.popleft().result()

    def _batches(self, paths: Iterable[Path]) -> Iterator[list[_Image]]:
        """Yield consecutive images of one size for one pass, at most a batch of them; others one by one."""

        def shared(image: _Image) -> object:
            return image.raster.mask.shape if len(image.tiled.cover) == 1 else image.path

        for _, alike in groupby(self._ahead(paths), key=shared):
            while batch := list(islice(alike, self.model.batch_size)):
                yield batch


def _plan(
    model: Model, source: str | Path | Sequence[str | Path], output: Path, request: Request
) -> dict[Path, list[Path]]:
    """Return the outputs by input."""
    suffix = request.suffix
    if suffix is not None and suffix.lower() not in WRITABLE:
        raise InputError(f"Images are not written as {suffix!r}; use .png, .jpg or .tif.")
    inputs, single = _inputs(source, output)
    above = Path(source) if isinstance(source, str | Path) and not single else None
    if above is not None and request.pairs is not False:
        inputs = without_targets(inputs, above, model.header)
    to_file = output.suffix.lower() in IMAGE_LIKE and not output.is_dir()
    if to_file and not single:
        raise InputError(f"{output} is the name of one image, and there are several to write; give a folder.")
    if to_file and output.suffix.lower() not in WRITABLE:
        raise InputError(f"{output}: images are not written as {output.suffix}; use .png, .jpg or .tif.")
    named = single and isinstance(source, str | Path)
    if named and not to_file and output.suffix and not output.exists():
        raise InputError(
            f"{output} does not tell what to make of {source}: nothing is written as {output.suffix}; name it .tif, "
            ".png, .jpg, .gpkg, .mbtiles or .pmtiles, or give a folder that is there."
        )
    if not to_file and output.is_file():
        raise InputError(f"{output} is a file, and the output of several images is a folder; choose another name.")
    jobs: dict[Path, list[Path]] = {}
    owner: dict[Path, Path] = {}
    target = model.header.target
    for path in inputs:
        into = output if above is None else output / path.parent.relative_to(above)
        first = output if to_file else into / f"{path.stem}{suffix or _default_suffix(model, path)}"
        check_format(first, bands=target.count, dtype=target.dtype)
        names = [first]
        if request.samples > 1:
            names = [first.with_name(f"{first.stem}_{n}{first.suffix}") for n in range(1, request.samples + 1)]
        for name in names:
            if name in owner:
                raise InputError(f"{owner[name]} and {path} would both become {name}; rename one of them.")
            owner[name] = path
        jobs[path] = names
    given = {path.resolve() for path in jobs}
    for name in owner:
        if name.resolve() in given:
            raise InputError(f"{name} is an input and would be replaced; choose another output.")
    return jobs


def _inputs(source: str | Path | Sequence[str | Path], output: Path) -> tuple[list[Path], bool]:
    """Return the images, and whether `source` names a single one."""
    if not isinstance(source, str | Path):
        for one in source:
            if not isinstance(one, str | Path):
                raise InputError(
                    f"The list of images holds a {type(one).__name__}; give paths, or translate each alone."
                )
        paths = list(dict.fromkeys(Path(path) for path in source))
        if not paths:
            raise InputError("There is no image to translate; give at least one.")
        return paths, len(paths) == 1
    path = Path(source)
    if not path.is_dir():
        return [path], True
    made = output.resolve()
    try:
        found = [
            file
            for file in files_below(path)
            if file.suffix.lower() in IMAGE_SUFFIXES and (made == path.resolve() or made not in file.resolve().parents)
        ]
    except OSError as error:
        raise InputError(f"The folder {error.filename or path} cannot be listed ({error.strerror}).") from error
    if not found:
        raise InputError(f"The folder {path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); give one that does.")
    return found, False


def _default_suffix(model: Model, path: Path) -> str:
    target = model.header.target
    png = (target.dtype == "uint8" and target.count in (1, 3)) or (target.dtype == "uint16" and target.count == 1)
    return ".tif" if not png or path.suffix.lower() in (".tif", ".tiff") else ".png"
