"""The functions of the public API that join several packages: `translate`, `train`, `prepare` and `serve`.

They are `terramorph.translate` and so on, beside `load`, `evaluate`, `compare`, `tune`, `open_source` and `show` of
other packages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from numpy.typing import NDArray

from terramorph.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import nn

    from terramorph.pairs import GivenPairs, Manifest
    from terramorph.prepare import Options
    from terramorph.raster import Raster, Source
    from terramorph.training import Reporter, Term, TrainConfig
    from terramorph.translate import Model
    from terramorph.translate.outputs import Written


@overload
def translate(model: Model | str | Path, source: NDArray[Any], out: None = None, **how: Any) -> NDArray[Any]: ...
@overload
def translate(
    model: Model | str | Path, source: str | Path | Raster | Source, out: None = None, **how: Any
) -> Raster: ...
@overload
def translate(model: Model | str | Path, source: Any, out: str | Path, **how: Any) -> Written: ...
@overload
def translate(model: Model | str | Path, source: Any, out: None = None, **how: Any) -> Any: ...
def translate(model: Model | str | Path, source: Any, out: str | Path | None = None, **how: Any) -> Any:
    """Translate an image, an array or a raster of any size.

    Without `out` the result is returned; with `out` it is written in bounded memory, and the same call continues a
    translation that was interrupted. Both give the same pixels.

        >>> import terramorph
        >>> drawn = terramorph.translate("town-sat2map", "aerial.tif")
        >>> drawn.pixels.shape, drawn.pixels.dtype, drawn.grid.crs.to_epsg()
        ((3, 128, 128), dtype('uint8'), 32633)
        >>> terramorph.translate("town-sat2map", "aerial.tif", "map.tif").files[0].name
        'map.tif'

    Args:
        model: From `load`, or what `load` takes: a bundle, a run's folder, a model's name, an .onnx file.
        source: A path or URL (images, tiles, vectors), a `Raster`, an xarray `DataArray` with a CRS, or an array
            ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)`` in the model's source dtype. With `out` also a folder of images
            or a list of paths.
        out: A .tif (Cloud Optimized GeoTIFF), .png, .jpg, .mbtiles, .pmtiles, .gpkg, .fgb or .geojson, or a folder;
            ``None`` returns the result.
        how: Further arguments of `Model.translate`, or of `Model.translate_to` if there is an `out`: `resolution`
            (metres per pixel), `area`, `match_source`, `window`, `overlap` ...

    Returns:
        Without `out`: an array of an array, a `DataArray` of a `DataArray`, else a `Raster`, in the model's target
        dtype. With `out`: `Written`, which lists the files.

    Raises:
        BundleError: The model cannot be read.
        InputError: The source does not fit the model or cannot be read, or `out` exists.
        StorageError: `out` cannot be written; what is done stays.
    """
    from terramorph.translate import Model, load

    opened = model if isinstance(model, Model) else load(model)
    return opened.translate(source, **how) if out is None else opened.translate_to(source, out, **how)


def train(
    data: str | Path | GivenPairs,
    out: str | Path,
    config: TrainConfig | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    validation: GivenPairs | None = None,
    start: str | Path | None = None,
    generator: type[nn.Module] | None = None,
    terms: Sequence[Term] = (),
    skip_bad: bool = False,
    cache: str | Path | None = None,
    reporter: Reporter | None = None,
    allowed: Collection[str] = (),
) -> Model:
    """Train a model on pairs of images.

        >>> import numpy, terramorph
        >>> pairs = [(numpy.full((64, 64, 3), 40 * i, "uint8"), numpy.full((64, 64), 9 * i, "uint8")) for i in range(4)]
        >>> small = {"generator.network": "unet64", "generator.width": 4, "discriminator.width": 4, "max_steps": 2}
        >>> size = {"data.load_size": 64, "data.crop_size": 64}
        >>> model = terramorph.train(pairs, "run", settings={**small, **size})
        >>> model.path.as_posix(), model.translate(pairs[0][0]).shape
        ('run/model.safetensors', (64, 64, 1))

    Args:
        data: A folder of pairs (see `terramorph.pairs`), with a train split and a val or test split; or a sequence of
            pairs ``(A, B)``, such as a list or a torch ``Dataset``. A and B are paths, `Raster`s, PIL images, or arrays
            or tensors ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)`` of equal height and width, in stored values (uint8
            0..255 for images). A sequence is read once and kept in ``out/pairs``, so that the run can be resumed.
        out: The run's folder; it must not hold a run already.
        config: A preset (`terramorph.training.PRESETS`), a .toml file, a run's config.json, or a `TrainConfig`;
            ``None``: the preset pix2pix, or the configuration of `start`.
        settings: Dotted keys and values that win over `config`, such as ``{"direction": "BtoA", "max_steps": 1000}``.
        validation: Held-out pairs beside a sequence, for scores and sample sheets.
        start: A bundle, run or model name to fine-tune.
        generator: An own generator class, see `terramorph.networks.generator`.
        terms: Further terms of the generator's loss.
        skip_bad: Leave out pairs that cannot be read and list them, instead of stopping.
        cache: The folder of decoded pairs.
        reporter: Told how the run goes; ``None`` shows it in a notebook, and says nothing elsewhere.
        allowed: Modules whose code may run where a setting names it as ``package.module:name``.

    Returns:
        The trained model. ``model.path`` is the bundle ``out/model.safetensors``; beside it lie ``run.html``,
        ``config.json``, the checkpoint and the logs. `terramorph.training.resume` continues an interrupted run.

    Raises:
        ConfigError: A setting is unknown or impossible, or `out` holds a run.
        DatasetError: The pairs cannot be used.
        TrainingDivergedError: A loss is no longer finite; the last good checkpoint stays.
        StorageError: Something cannot be written; the last checkpoint stays.
    """
    from terramorph import training
    from terramorph.data import DEFAULT_CACHE
    from terramorph.pairs import write_pairs
    from terramorph.translate import load

    resolved = _config(config, settings or {}, start)
    folder = Path(out)
    training.require_new_run(folder)
    if isinstance(data, str | Path):
        if validation is not None:
            raise ConfigError("validation belongs to a sequence of pairs; a folder has a val split of its own.")
        dataset = Path(data)
    else:
        dataset = write_pairs({"train": data, "val": validation or ()}, folder / "pairs")
    result = training.train(
        dataset,
        folder,
        resolved,
        reporter=reporter,
        skip_bad=skip_bad,
        cache=cache or DEFAULT_CACHE,
        generator=generator,
        terms=terms,
        allowed=allowed,
    )
    assert result.model is not None  # nothing asked the run to stop
    return load(result.model, allowed=[*allowed, *([generator.__module__] if generator else [])])


def _config(
    config: TrainConfig | str | Path | None, settings: Mapping[str, Any], start: str | Path | None
) -> TrainConfig:
    from terramorph.training import TrainConfig, config_of, load_config

    if start is not None and config is None:
        return config_of(start, settings)
    changed = {**settings, "start.model": str(start)} if start is not None else settings
    if isinstance(config, TrainConfig):
        return load_config(config.model_dump(mode="json"), changed) if changed else config
    return load_config(config or "pix2pix", changed)


def prepare(
    out: str | Path,
    source: str | Path,
    target: str | Path | None = None,
    *,
    resolution: float | None = None,
    zoom: int | None = None,
    name: str | None = None,
    options: Options | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Cut imagery and a map of the same ground into pairs, split by place.

    The same call continues a preparation that was interrupted; another `source` and `target` add an area.

        >>> import terramorph
        >>> from terramorph.prepare import Options
        >>> options = Options(tile=16)
        >>> manifest = terramorph.prepare("pairs", "aerial.tif", "drawn.tif", options=options)
        >>> manifest.counts["train"], manifest.counts["val"]
        (36, 6)

    Args:
        out: The dataset's folder: train, val and test, ``manifest.json``, ``footprints.parquet``.
        source: Imagery: a file, a folder of tiles, an archive, or a URL template.
        target: The map: the same, or vectors, which are drawn; ``None`` if `source` is a folder of pairs.
        resolution: Metres on the ground per pixel; ``None``: the pixels of `source`.
        zoom: Web-mercator zoom in place of `resolution`.
        name: Prefix of the pairs' ids; ``None``: the stem of `source`.
        options: Tile size, splits, filters, and how sides are opened.
        progress: Called with (step, done, total).

    Returns:
        The manifest, which is also written.

    Raises:
        InputError: A side cannot be used, or the dataset was begun with other options.
        StorageError: Something cannot be written; what is there stays.
    """
    from terramorph.prepare import Inputs, Options, Scale
    from terramorph.prepare.build import prepare

    given: tuple[Any, ...] = (source, target)
    for side in given:
        if side is not None and not isinstance(side, str | Path):
            raise InputError(
                f"A side of pairs is a file, a folder or a URL, got a {type(side).__name__}; save it first."
            )
    options = options or Options()
    if resolution is not None or zoom is not None:
        options = replace(options, scale=Scale(resolution=resolution, zoom=zoom))
    sides = Inputs(str(source), None if target is None else str(target), name)
    return prepare(out, [sides], options, progress)


def serve(
    model: Model | str | Path,
    source: str | Path,
    *,
    truth: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    ready: Callable[[str], None] | None = None,
    **settings: Any,
) -> None:
    """Serve a translation as map layers, computed where somebody looks, until the process is told to end.

        terramorph.serve("sat2map", "ortho.tif", ready=print)

    `terramorph.show` does the same in a notebook and returns at once.

    Args:
        model: From `load`, or what `load` takes.
        source: Path or URL of the raster, tiles or vectors that are translated.
        truth: What the output should look like.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        ready: Called with the page's address once the server listens.
        settings: Other fields of `terramorph.serve.Settings`, such as `public_url` or `window`.

    Raises:
        ConfigError: A setting is unknown or impossible.
        TerramorphError: The model or the source cannot be opened, or they do not fit.
        StorageError: The port is taken.
    """
    from terramorph.serve.server import one_layer

    server = one_layer(model, source, truth=truth, host=host, port=port, **settings)
    server.serve_until_told(ready or (lambda address: None))
