"""Model: a bundle ready to translate; `load` opens one from a file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.bundle import Bands, Bundle, Mode, load_bundle
from terramorph.errors import ConfigError
from terramorph.networks import ClassProbabilities, has_palette
from terramorph.pixels import unit_to_image
from terramorph.raster import Raster
from terramorph.translate.backends import BackendName, open_exported
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.predictor import Predictor

if TYPE_CHECKING:
    from odc.geo.geom import Geometry

    from terramorph.raster import Source
    from terramorph.translate.engine import Engine, Stages
    from terramorph.translate.lazy import Keep, LazySource
    from terramorph.translate.outputs import Kind, Progress, Written


class Model(Predictor):
    """A bundle ready to translate images, arrays and rasters of any size: `translate`, `translate_to` and `lazy`.

    Attributes and arguments are those of `Predictor`, and:
        classes: Style of the map classes whose probabilities are the output; None: the output is images.
        scores_classes: Whether `probabilities` is possible.
    """

    classes: str | Path | None = None
    scores_classes: bool = False
    _reopened: Callable[..., Model] | None = None

    def probabilities(self, style: str | Path = "classic") -> Model:
        """Return this model with probabilities of map classes as output: one float32 band per class, which sum to 1.

        Args:
            style: Style of the map classes and their colours.

        Raises:
            ConfigError: If the generator has no class scores, or the model was made in memory.
        """
        if self._reopened is None:
            raise ConfigError("Probabilities of classes need a bundle on disk; save the model's and load that.")
        return self._reopened(classes=style)

    @overload
    def translate(self, x: NDArray[Any], **how: Any) -> NDArray[Any]: ...
    @overload
    def translate(self, x: str | Path | Raster | Source, **how: Any) -> Raster: ...
    @overload
    def translate(self, x: Any, **how: Any) -> Any: ...  # a DataArray, which mypy does not know
    def translate(
        self,
        x: Any,
        *,
        sample: int = 0,
        resolution: float | None = None,
        match_source: bool = False,
        area: Geometry | str | Path | None = None,
        window: int | None = None,
        overlap: int | None = None,
        **opening: Any,
    ) -> Any:
        """Translate one image, in memory: the pixels that `translate_to` would write.

            drawn = model.translate("aerial.tif")                                # a Raster
            drawn = model.translate(rioxarray.open_rasterio("ortho.tif", chunks=2048))   # nothing is computed yet
            drawn.odc.write_cog("map.tif")

        Args:
            x: Path or URL that `terramorph.open_source` opens, vectors included; a `Source`; a Raster; an xarray
                DataArray with a CRS, lazy if it is a dask array; or an array (C, H, W), (H, W, C) or (H, W) of the
                bundle's stored dtype and range (uint8 0..255 for most), (C, H, W) where both are possible. What a numpy
                masked array masks has no data.
            sample: Number of the sample, in paper mode; each has its own noise.
            resolution: Ground resolution to which x is resampled, metres per pixel; None: that of the training. Without
                a georeference x is not resampled.
            match_source: Resample the result to the grid of x.
            area: Ground to translate: polygons with a CRS, or a file of them; not with a DataArray.
            window, overlap: See `plan.plan_cover`.
            opening: Options for opening a path; see `open_source`.

        Returns:
            An array for an array, with bands on the same axis; a masked one for a masked one; a DataArray for a
            DataArray; else a Raster. The dtype is the bundle's target dtype. Pixels without data stay so and hold the
            lowest value.

        Raises:
            ConfigError: If `sample`, `window` or `overlap` is impossible, or an area is given of a DataArray.
            InputError: If bands, dtype or ground resolution do not fit the bundle.
            RasterError: If a path cannot be read.
            MissingPackageError: If x is a DataArray and dask is not installed.
        """
        from terramorph.raster.array_source import ArraySource
        from terramorph.translate.lazy import translate_array
        from terramorph.translate.outputs import brought_back
        from terramorph.translate.plan import opened, own_grid, plan

        last = isinstance(x, np.ndarray) and x.ndim == 3 and x.shape[0] != self.header.source.count
        if area is not None and hasattr(x, "coords"):  # a DataArray, which may be lazy
            raise ConfigError(
                "An area is not cut from a DataArray; give x.odc.crop(area, apply_mask=False) without area."
            )
        with opened(self, x, area, opening) as source:
            tiled = plan(self, source, resolution=resolution, sample=sample, window=window, overlap=overlap)
            if isinstance(source, ArraySource) and not isinstance(x, ArraySource):
                return translate_array(tiled, source, x, match_source)
            raster = tiled.whole(source)
            back = own_grid(source, self) if match_source else None
        if back is not None and back != tiled.grid:
            raster = brought_back(tiled, raster, back)
        if isinstance(x, np.ndarray):
            pixels = raster.pixels
            if isinstance(x, np.ma.MaskedArray):
                pixels = np.ma.masked_array(pixels, np.broadcast_to(~raster.mask, pixels.shape))
            return pixels.transpose(1, 2, 0) if last else pixels
        return raster

    def translate_to(
        self,
        source: Any,
        output: str | Path,
        *,
        resolution: float | None = None,
        match_source: bool = False,
        area: Geometry | str | Path | None = None,
        samples: int = 1,
        uncertainty: str | Path | None = None,
        kind: Kind | None = None,
        suffix: str | None = None,
        skip_bad: bool = False,
        pairs: bool | None = None,
        overwrite: bool = False,
        restart: bool = False,
        stac: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        engine: Engine | None = None,
        progress: Progress | None = None,
        stages: Stages | None = None,
        **opening: Any,
    ) -> Written:
        """Translate a raster of any size to a file in bounded memory (a Cloud Optimized GeoTIFF, web-map tiles or a
        picture), or a folder of images to a folder.

            model.translate_to("ortho.vrt", "map.tif")
            model.translate_to("city.mbtiles", "map.pmtiles", resolution=1)
            model.translate_to("photographs", "drawings")

        Outputs appear whole or not at all. Unfinished work lies beside the output in `.NAME.parts`; the same call
        resumes it and ends with the same pixels.

        Args:
            source: As x of `translate`; or a folder of images, or a list of paths.
            output: .tif, .mbtiles, .pmtiles, .png or .jpg, or a folder; the first three may be s3:// URLs. For
                polygons of map classes: .gpkg, .fgb or .geojson.
            resolution, match_source, area, window, overlap: See `translate`.
            samples: Number of samples in paper mode; without `uncertainty` each is written, as NAME_1, NAME_2 ...
            uncertainty: GeoTIFF for the standard deviation of the samples; the first sample is then the output.
            kind: Kind of output: cog, xyz, mbtiles or pmtiles; of a map also classes (a GeoTIFF with a legend),
                probability (a band per class), entropy (0..1) or polygons. Default: by the name; cog for .tif, and a
                folder of images for a folder.
            suffix: Suffix of the outputs of a folder of images: .png, .jpg or .tif. Default: .png where it can hold
                them and the input is not a TIFF.
            skip_bad: Skip images of a folder that cannot be read or do not fit, instead of stopping.
            pairs: Whether images are A|B pairs, whose source side is translated; None: they are recognised.
            overwrite: Replace existing outputs.
            restart: Discard the parts of another, unfinished translation to the same output.
            stac: Write a STAC item beside a GeoTIFF (NAME.json), and one of the model (NAME.model.json).
            engine: Engine that schedules the windows of a raster, such as `cluster.DaskEngine`; None: this process.
            progress: Called with (step, done, total).
            stages: Receives the seconds of each step.
            opening: Options for opening a path; see `open_source`. Its `style` is also that of a map output whose
                classes are wanted.

        Raises:
            ConfigError: If the kind of output does not support an option.
            InputError: If the source does not fit the bundle or cannot be read, the output exists, or parts of another
                translation lie beside it.
            StorageError: If something cannot be written; the same call resumes.
            RunError: If a cluster fails; the same call resumes.
        """
        from terramorph.translate.engine import Stages
        from terramorph.translate.outputs import Request
        from terramorph.translate.writing import translate_to

        request = Request(
            resolution=resolution,
            match_source=match_source,
            area=area,
            samples=samples,
            uncertainty=uncertainty,
            kind=kind,
            suffix=suffix,
            skip_bad=skip_bad,
            pairs=pairs,
            overwrite=overwrite,
            restart=restart,
            stac=stac,
            window=window,
            overlap=overlap,
            engine=engine,
            progress=progress,
            stages=stages or Stages(),
            opening=opening,
        )
        return translate_to(self, source, output, request)

    def lazy(
        self,
        source: Any,
        *,
        resolution: float | None = None,
        area: Geometry | str | Path | None = None,
        window: int | None = None,
        overlap: int | None = None,
        memory: int = 2**28,
        kept: Keep | None = None,
        **opening: Any,
    ) -> LazySource:
        """Return the raster that `translate_to` would write as a `Source`, whose windows are predicted when read.

            with model.lazy("ortho.vrt") as drawn:
                piece = drawn.read(drawn.grid.crop(0, 0, 512, 512))

        Args:
            source: As x of `translate`; one that is opened here is closed with the result.
            resolution, area, window, overlap, opening: See `translate`.
            memory: Bytes of predicted windows to keep; by default about 45 Mpx of a map in colours.
            kept: Called with the number of a window that is not in memory and a function that predicts it; default:
                windows are predicted.

        Raises:
            InputError: If bands, dtype or ground resolution do not fit the bundle.
        """
        from terramorph.translate.lazy import LazySource
        from terramorph.translate.plan import opened, plan

        with ExitStack() as stack:
            seen = stack.enter_context(opened(self, source, area, opening))
            tiled = plan(self, seen, resolution=resolution, window=window, overlap=overlap)
            return LazySource(tiled, seen, memory, stack.pop_all(), kept)

    def show(self, source: str | Path, **how: Any) -> Any:
        """Show the translation of a raster in a notebook, computed as one looks at it: see `terramorph.show`."""
        # The viewer is an extra, on a floor above, which nothing here imports before somebody asks.
        return import_module("terramorph").show(self, source, **how)


def load(
    path: str | Path,
    *,
    mode: Mode | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    seed: int = 0,
    batch_size: int | None = None,
    dropout: bool = True,
    any_resolution: bool = False,
    backend: BackendName | None = None,
    accept_quality_loss: bool = False,
    allowed: Collection[str] = (),
    ensemble: bool = False,
    classes: str | Path | None = None,
) -> Model:
    """Read a bundle, or a network exported to ONNX, ready to translate.

        >>> import terramorph
        >>> model = terramorph.load("town-sat2map")
        >>> model.header.direction, model.header.size, model.header.source.count
        ('AtoB', 128, 3)

    Args:
        path: .safetensors bundle, folder of a run, name of a model, or exported .onnx file (which runs on the CPU, in
            the mode of its export).
        mode, device, precision, seed, batch_size, dropout, any_resolution, ensemble: See `Model`.
        backend: `torch` runs bundles; `onnxruntime` (the default for them) and `openvino` run exported files.
        accept_quality_loss: Accept an 8-bit file whose quality was refused at export.
        allowed: Modules from outside whose code may run, for a bundle with a generator of theirs.
        classes: Style of the map classes whose probabilities are the output, in place of colours; see
            `Model.probabilities`.

    Raises:
        BundleError: If the file is missing, damaged, too new or not a bundle, or its quality was refused.
        ConfigError: If a mode, device, precision or backend is unknown, unavailable, or not for such a file; or if
            `classes` is given for a generator without class scores.
        MissingPackageError: If the backend is not installed.
    """
    own: dict[str, Any] = {"seed": seed, "any_resolution": any_resolution, "ensemble": ensemble}
    how: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size}
    if Path(path).suffix == ".onnx":
        if classes is not None:
            raise ConfigError(f"Probabilities need class scores, and {path} was exported without; use its bundle.")
        exported = open_exported(path, backend, accept_quality_loss=accept_quality_loss, **how)
        if mode is not None and mode != exported.header.mode:
            raise ConfigError(
                f"mode must be {exported.header.mode}, in which {path} was exported, got {mode}; export it again."
            )
        model = Model(exported.header, backend=exported, **own)
        model.path = Path(path)
        how |= {"backend": backend, "accept_quality_loss": accept_quality_loss}
    elif backend not in (None, "torch"):
        raise ConfigError(
            f"The backend of a bundle must be torch, got {backend}; for {backend}, export the bundle: "
            f"terramorph export {path} model.onnx"
        )
    else:
        how |= {"dropout": dropout}
        bundle = load_bundle(path, allowed)
        model = Model(bundle if classes is None else _probabilities(bundle, classes), mode=mode, **own, **how)
        model.classes, model.scores_classes = classes, _scores_classes(bundle)
        how |= {"classes": classes}
        # By now the bundle's float32 weights are freed, and most of what the prepared ones were made from.
        release_freed_memory()
    if model.path is not None:
        model._reopened = partial(load, model.path.absolute(), mode=mode, allowed=allowed, **own, **how)
    return model


def _probabilities(bundle: Bundle, style: str | Path) -> Bundle:
    """Return a bundle whose output is the probability of each map class of a style."""
    from terramorph.cartography import load_style, palette_of

    palette = palette_of(load_style(style))
    if not _scores_classes(bundle):
        raise ConfigError(
            f"Probabilities need class scores, and {bundle.path} has none; use a model with a palette, such as sat2map."
        )
    colours = unit_to_image(bundle.network.get_buffer("palette").T[:, None], bundle.header.target.scaling)
    index = torch.from_numpy(palette.classify(colours)[0]).long()
    target = Bands(names=palette.names, dtype="float32", low=0.0, high=1.0)
    header = bundle.header.model_copy(update={"target": target})
    return Bundle(ClassProbabilities(bundle.network, index, len(palette.names)), header, bundle.path)


def _scores_classes(bundle: Bundle) -> bool:
    return has_palette(bundle.network) and bundle.header.target.count == 3
