"""Images on disk to images on disk: reading, translating and writing at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from terramorph.bundle import Bundle, Mode
from terramorph.errors import InputError, StorageError
from terramorph.raster import IMAGE_SUFFIXES, Raster, ReadOptions, read_image, write_image
from terramorph.raster.image import files_below
from terramorph.raster.save import check_format
from terramorph.translate.model import WHOLE_PIXELS, Model, load
from terramorph.translate.outputs import refuse_present
from terramorph.translate.paired import pairs_among, source_half, without_targets

Progress = Callable[[int, int], None]
WRITABLE = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# fmt: off
IMAGE_LIKE = IMAGE_SUFFIXES | {
    ".apng", ".asc", ".avif", ".bil", ".bip", ".bsq", ".cog", ".dds", ".dib", ".ecw", ".eps", ".exr", ".geotiff",
    ".gif", ".grd", ".gtiff", ".hdr", ".heic", ".heif", ".ico", ".img", ".j2k", ".jfif", ".jp2", ".jpe", ".jpx",
    ".jxl", ".kea", ".mbtiles", ".nc", ".pbm", ".pcx", ".pdf", ".pgm", ".pmtiles", ".pnm", ".ppm", ".psd", ".sid",
    ".svg", ".tga", ".vrt",
}
# fmt: on
"""Suffixes, in lower case, with which a name means an image, not a folder."""


@dataclass(frozen=True)
class Translated:
    """What `translate_files` did.

    Attributes:
        written: the images, in order; its length is also that of this object.
        skipped: one sentence for each input that was left out.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.written)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.written)


def translate_files(
    model: Model | Bundle | str | Path,
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    mode: Mode | None = None,
    samples: int = 1,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    batch_size: int | None = None,
    suffix: str | None = None,
    skip_bad: bool = False,
    any_resolution: bool = False,
    options: ReadOptions | None = None,
    overwrite: bool = False,
    pairs: bool | None = None,
    progress: Progress | None = None,
) -> Translated:
    """Translates an image, a list of images, or every image of a folder.

    Every input is read and checked before the first output is written. Outputs appear whole or not at all;
    georeference, world files and masks are carried over. Neighbours in the list that have the same size share passes in
    raster mode. Reading and writing run beside the computation, a few images ahead.

    Args:
        model: a translator, a bundle, or where one is.
        source: an image, a folder (its images and those of folders in it, in the order of their names), or a list.
        output: an image path for one image, otherwise a folder, made if missing. The name of each image is kept, and
            below a folder its path. A name that ends like an image's is never a folder's, unless there is that folder.
        mode, device, precision, seed, batch_size, any_resolution: see `Model`; ignored if one is given.
        samples: outputs of each image in paper mode; for more than one they are called NAME_1, NAME_2 ...
        suffix: of the outputs in a folder: .png, .jpg or .tif. Default: .tif for inputs that are TIFF and
            for targets that PNG cannot hold, otherwise .png.
        skip_bad: leave out inputs that cannot be read or do not fit the bundle, instead of stopping.
        options: which bands of the images are read, in the model's order, and what their values mean.
        overwrite: replace outputs that are there already.
        pairs: True: the inputs are A|B pairs, of which the side is translated that the model takes; False: they are
            not, and are translated whole; None: pairs are recognised (`paired`).
        progress: called with (images done, images in all).

    Returns:
        The paths written and the inputs skipped.

    Raises:
        InputError: if there is no image, an input does not fit the bundle, two outputs would have one name, or one is
            there already and may not be replaced.
        RasterError: if an input cannot be read, or an output's format cannot hold its translation.
        BundleError: if the bundle cannot be read.
        ConfigError: if more than one sample is asked for in raster mode.
        StorageError: if an output cannot be written.
    """
    if isinstance(model, Model):
        translator = model
    else:
        make = partial(Model, model) if isinstance(model, Bundle) else partial(load, model)
        translator = make(
            mode=mode,
            device=device,
            precision=precision,
            seed=seed,
            batch_size=batch_size,
            any_resolution=any_resolution,
        )
    translator.check_samples(samples)
    if options and options.bands:
        options = replace(options, names=translator.header.source.names)
    jobs = _plan(translator, source, Path(output), samples, suffix, pairs)
    halved = pairs_among(list(jobs), source if isinstance(source, str | Path) else "The list", translator.header, pairs)

    def read(path: Path) -> Raster:
        raster = read_image(path, options)
        return source_half(raster, path, translator.header) if path in halved else raster

    if not overwrite:
        refuse_present([name for names in jobs.values() for name in names])
    result = Translated()
    with ThreadPoolExecutor(2, "terramorph-images") as pool:
        good = _checked(translator, jobs, pool, read, result.skipped if skip_bad else None)
        if not good:
            raise InputError(f"No image of {source} can be translated: {result.skipped[0]}")
        for folder in {jobs[path][0].parent for path in good}:
            _make_folder(folder)
        done = 0
        pending: deque[Future[Path]] = deque()
        try:
            for paths, rasters in _batches(translator, _ahead(pool, read, good, translator.batch_size + 2)):
                for sample in range(samples):
                    for path, raster in zip(paths, translator.translate_rasters(rasters, sample=sample), strict=True):
                        pending.append(pool.submit(_write, raster, jobs[path][sample]))
                        while len(pending) > 2 * translator.batch_size:
                            result.written.append(pending.popleft().result())
                done += len(paths)
                if progress is not None:
                    progress(done, len(good))
            while pending:
                result.written.append(pending.popleft().result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


def _plan(
    translator: Model,
    source: str | Path | Sequence[str | Path],
    output: Path,
    samples: int,
    suffix: str | None,
    pairs: bool | None,
) -> dict[Path, list[Path]]:
    """Every input, and the outputs it gives.

    Raises:
        InputError: if there is none, names collide, or a format cannot hold the bundle's target.
    """
    if suffix is not None and suffix.lower() not in WRITABLE:
        raise InputError(f"Images are not written as {suffix!r}; use .png, .jpg or .tif.")
    inputs, single = _inputs(source, output)
    above = Path(source) if isinstance(source, str | Path) and not single else None
    if above is not None and pairs is not False:
        inputs = without_targets(inputs, above, translator.header)
    to_file = output.suffix.lower() in IMAGE_LIKE and not output.is_dir()
    if to_file and not single:
        raise InputError(f"{output} is the name of one image, and there are several to write; give a folder.")
    if to_file and output.suffix.lower() not in WRITABLE:
        raise InputError(f"{output}: images are not written as {output.suffix}; use .png, .jpg or .tif.")
    if not to_file and output.is_file():
        raise InputError(f"{output} is a file, and the output of several images is a folder; choose another name.")
    jobs: dict[Path, list[Path]] = {}
    owner: dict[Path, Path] = {}
    target = translator.header.target
    for path in inputs:
        into = output if above is None else output / path.parent.relative_to(above)
        first = output if to_file else into / f"{path.stem}{suffix or _default_suffix(translator, path)}"
        check_format(first, bands=target.count, dtype=target.dtype)
        names = [first]
        if samples > 1:
            names = [first.with_name(f"{first.stem}_{n}{first.suffix}") for n in range(1, samples + 1)]
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
    """The images meant, and whether it is a single one that was named."""
    if not isinstance(source, str | Path):
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


def _default_suffix(translator: Model, path: Path) -> str:
    target = translator.header.target
    png = (target.dtype == "uint8" and target.count in (1, 3)) or (target.dtype == "uint16" and target.count == 1)
    return ".tif" if not png or path.suffix.lower() in (".tif", ".tiff") else ".png"


def _checked(
    translator: Model,
    jobs: dict[Path, list[Path]],
    pool: ThreadPoolExecutor,
    read: Callable[[Path], Raster],
    skipped: list[str] | None,
) -> list[Path]:
    """The inputs that can be read, fit, and can be written as named; the others raise, or are listed in `skipped`."""
    target = translator.header.target

    def check(path: Path) -> InputError | None:
        try:
            raster = read(path)
            _check(translator, path, raster)
            check_format(
                jobs[path][0],
                bands=target.count,
                dtype=target.dtype,
                masked=not bool(raster.mask.all()),
                side=max(raster.mask.shape),
            )
        except InputError as error:
            return error
        return None

    good = []
    for path, error in zip(jobs, pool.map(check, jobs), strict=True):
        if error is None:
            good.append(path)
        elif skipped is None:
            raise error
        else:
            skipped.append(str(error))
    return good


def _check(translator: Model, path: Path, raster: Raster) -> None:
    try:
        translator.check(raster)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Path], Raster], paths: Iterable[Path], count: int
) -> Iterator[tuple[Path, Raster]]:
    """Reads images in other threads, so many ahead; large ones only one ahead."""
    reading: deque[tuple[Path, Future[Raster]]] = deque()
    for path in paths:
        reading.append((path, pool.submit(read, path)))
        if len(reading) > count:
            first, future = reading.popleft()
            raster = future.result()
            count = 1 if raster.mask.size > WHOLE_PIXELS else count
            yield first, raster
    while reading:
        first, future = reading.popleft()
        yield first, future.result()


def _batches(translator: Model, images: Iterable[tuple[Path, Raster]]) -> Iterator[tuple[list[Path], list[Raster]]]:
    """Neighbours of one size, at most a batch of them."""
    paths: list[Path] = []
    rasters: list[Raster] = []
    for path, raster in images:
        alike = not rasters or rasters[0].mask.shape == raster.mask.shape
        if rasters and (not alike or len(rasters) >= translator.batch_size):
            yield paths, rasters
            paths, rasters = [], []
        paths.append(path)
        rasters.append(raster)
    if rasters:
        yield paths, rasters


def _write(raster: Raster, path: Path) -> Path:
    write_image(raster, path)
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be made ({error.strerror or error}); choose another."
        ) from error
