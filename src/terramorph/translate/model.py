"""Model: a bundle that takes images and gives images; `load` makes one of a file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
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
    """A bundle that takes images, arrays and rasters of any size: `translate`, `translate_to` and `lazy`.

    Attributes and arguments: see `Predictor`; and
        classes: the style of the map classes whose probabilities it gives; None: it gives images.
        scores_classes: whether `probabilities` can be asked of it.
    """

    classes: str | Path | None = None
    scores_classes: bool = False
    _reopened: Callable[..., Model] | None = None

    def probabilities(self, style: str | Path = "classic") -> Model:
        """The same model with probabilities of map classes as its output: one float32 band a class, which sum to 1.

        Args:
            style: says which colours are which class.

        Raises:
            ConfigError: if its generator has no class scores, or it was made in memory.
        """
        if self._reopened is None:
            raise ConfigError("Probabilities of classes are read from a bundle; save the model's and load that.")
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
        """Translates one image, in memory: the pixels that `translate_to` would write.

            drawn = model.translate("aerial.tif")                                # a Raster
            drawn = model.translate(rioxarray.open_rasterio("ortho.tif", chunks=2048))   # nothing is computed yet
            drawn.odc.write_cog("map.tif")

        Args:
            x: a path or URL of anything that `terramorph.open_source` opens, vectors included; a `Source`; a Raster; an
                xarray DataArray with a CRS, lazy where dask holds it; or an array (C, H, W), (H, W, C) or (H, W) of the
                bundle's stored dtype and range (uint8 0..255 for most), which is taken as (C, H, W) if it could be read
                both ways.
            sample: number of the draw, in paper mode: each has noise of its own.
            resolution: metres per pixel at which the network sees the ground, to which x is brought; None: what it was
                trained at. Where x has no place, its pixels are taken as they are.
            match_source: bring the result back to the grid of x.
            area: only this ground is translated: polygons with a CRS, or a file of them; not of a DataArray.
            window, overlap: see `plan.plan_cover`.
            opening: how a path is opened: see `open_source`.

        Returns:
            Of an array an array, its bands where those of x are; of a DataArray a DataArray; otherwise a Raster. In the
            bundle's target dtype. Pixels without data stay without, and hold the lowest value.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit the bundle.
            RasterError: if a path cannot be read.
            MissingPackageError: if x is a DataArray and dask is not installed.
        """
        from terramorph.raster.array_source import ArraySource, RasterSource
        from terramorph.translate.arrays import translate_array
        from terramorph.translate.plan import opened, own_grid, plan

        last = isinstance(x, np.ndarray) and x.ndim == 3 and x.shape[0] != self.header.source.count
        with opened(self, x, area, opening) as source:
            tiled = plan(self, source, resolution=resolution, sample=sample, window=window, overlap=overlap)
            if isinstance(source, ArraySource) and not isinstance(x, ArraySource):
                return translate_array(tiled, source, x, match_source)
            raster = tiled.whole(source)
            back = own_grid(source, self) if match_source else None
        if back is not None and back != tiled.grid:
            raster = RasterSource(raster).read(back)
        if isinstance(x, np.ndarray):
            return raster.pixels.transpose(1, 2, 0) if last else raster.pixels
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
        offset: tuple[int, int] = (0, 0),
        engine: Engine | None = None,
        progress: Progress | None = None,
        stages: Stages | None = None,
        **opening: Any,
    ) -> Written:
        """Translates anything of any size to a file, in bounded memory: a Cloud Optimized GeoTIFF, web-map tiles or a
        picture; or a folder of images to a folder.

            model.translate_to("ortho.vrt", "map.tif")
            model.translate_to("city.mbtiles", "map.pmtiles", resolution=1)
            model.translate_to("photographs", "drawings")

        Outputs appear whole or not at all. Unfinished work lies beside the output in `.NAME.parts`, and the same call
        goes on from it and ends with the same pixels.

        Args:
            source: what `translate` takes; or a folder of images, or a list of paths.
            output: .tif, .mbtiles, .pmtiles, .png or .jpg, or a folder; the former three may be s3:// URLs. Of a map
                the areas of its classes too: .gpkg, .fgb or .geojson.
            resolution, match_source, area, window, overlap: see `translate`.
            samples: draws in paper mode; without `uncertainty` each is written, as NAME_1, NAME_2 ...
            uncertainty: GeoTIFF for the standard deviation of the draws, of which the first is then the output.
            kind: of the output: cog, xyz, mbtiles or pmtiles; of a map also classes (a GeoTIFF of its classes, with a
                legend), probability (a band a class), entropy (of these, 0 where the model is sure to 1) or polygons;
                default: by its name, which does not tell the first five of a map from each other, or a folder of tiles.
            suffix: of the outputs in a folder of images: .png, .jpg or .tif; default: .png where it can hold them and
                the input is no TIFF.
            skip_bad: leave out images of a folder that cannot be read or do not fit, instead of stopping.
            pairs: whether images are A|B pairs, of which the model's side is translated; None: they are recognised.
            overwrite: replace outputs that are there already.
            restart: throw away what an unfinished translation to the same output has made, if it was another one.
            stac: write a STAC item of a GeoTIFF beside it (NAME.json), and one of the model (NAME.model.json).
            offset: see `plan.plan_cover`.
            engine: what schedules the windows of a raster, such as `cluster.DaskEngine`; None: this process.
            progress: told (step, done, total).
            stages: filled with the seconds of each step.
            opening: how a path is opened: see `open_source`. Its `style` is that of the map side: of vectors as input,
                and of a made map whose classes are wanted.

        Raises:
            ConfigError: if the kind of output does not do what is asked of it.
            InputError: if the source does not fit the bundle or cannot be read, or the output would replace what is
                there, or the parts of another translation lie beside it.
            StorageError: if something cannot be written; what is done stays, and the same call goes on from it.
            RunError: if a cluster fails for good; likewise.
        """
        from terramorph.translate.engine import Stages
        from terramorph.translate.outputs import Request
        from terramorph.translate.writing import translate_to

        request = Request(
            *(resolution, match_source, area, samples, uncertainty, kind, suffix, skip_bad, pairs, overwrite, restart),
            *(stac, window, overlap, offset, engine, progress, stages or Stages(), opening),
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
        """The raster that `translate_to` would write, as a `Source`: a window is predicted when it is first read.

            with model.lazy("ortho.vrt") as drawn:
                piece = drawn.read(drawn.grid.crop(0, 0, 512, 512))

        Args:
            source: what `translate` takes; it is closed with the result if it was opened here.
            resolution, area, window, overlap, opening: see `translate`.
            memory: bytes of predicted windows that are kept.
            kept: asked for those that are not there, by number, with what predicts one; default: they are predicted.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit the bundle.
        """
        from terramorph.translate.lazy import LazySource
        from terramorph.translate.plan import opened, plan

        with ExitStack() as stack:
            seen = stack.enter_context(opened(self, source, area, opening))
            tiled = plan(self, seen, resolution=resolution, window=window, overlap=overlap)
            return LazySource(tiled, seen, memory, stack.pop_all(), kept)


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
    """Reads a bundle, or a network exported to ONNX, ready to translate.

        >>> import terramorph
        >>> model = terramorph.load("town-sat2map")
        >>> model.header.direction, model.header.size, model.header.source.count
        ('AtoB', 128, 3)

    Args:
        path: a .safetensors bundle, a run's folder, a model's name, or an exported .onnx file
            (which runs on the CPU, in the mode it was exported in).
        mode, device, precision, seed, batch_size, dropout, any_resolution, ensemble: see `Model`.
        backend: `torch` runs bundles; `onnxruntime` (the default for them) and `openvino` run exported files.
        accept_quality_loss: take an 8-bit file whose quality was refused when it was made.
        allowed: modules from outside whose code may run, where the bundle's generator is one of theirs.
        classes: the style of the map classes whose probabilities are the output, in place of colours; see
            `Model.probabilities`.

    Raises:
        BundleError: if the file is missing, damaged, too new, or not a bundle, or its quality was refused.
        ConfigError: if a mode, device, precision or backend is unknown, not there, or does not run such a file; or if
            probabilities are wanted of what has no class scores.
        MissingPackageError: if the backend is not installed.
    """
    own: dict[str, Any] = {"seed": seed, "any_resolution": any_resolution, "ensemble": ensemble}
    how: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size}
    if Path(path).suffix == ".onnx":
        if classes is not None:
            raise ConfigError(f"{path} was exported without class scores; take the bundle it was made of.")
        exported = open_exported(path, backend, accept_quality_loss=accept_quality_loss, **how)
        if mode is not None and mode != exported.header.mode:
            raise ConfigError(
                f"{path} was exported in mode {exported.header.mode} and has no other; export it again in mode {mode}."
            )
        model = Model(exported.header, backend=exported, **own)
        model.path = Path(path)
        how |= {"backend": backend, "accept_quality_loss": accept_quality_loss}
    elif backend not in (None, "torch"):
        raise ConfigError(
            f"The backend {backend} does not run bundles; use torch, or onnxruntime and openvino on a file that "
            f"`terramorph export {path} model.onnx` makes."
        )
    else:
        how |= {"dropout": dropout}
        bundle = load_bundle(path, allowed)
        model = Model(bundle if classes is None else _probabilities(bundle, classes), mode=mode, **own, **how)
        model.classes, model.scores_classes = classes, _scores_classes(bundle)
        how |= {"classes": classes}
        # The bundle's float32 weights are gone by now, and much of what the prepared ones were made from.
        release_freed_memory()
    if model.path is not None:
        model._reopened = partial(load, model.path.absolute(), mode=mode, allowed=allowed, **own, **how)
    return model


def _probabilities(bundle: Bundle, style: str | Path) -> Bundle:
    """A bundle whose output is the probability of each class of a style's map."""
    from terramorph.cartography import load_style, palette_of

    palette = palette_of(load_style(style))
    if not _scores_classes(bundle):
        raise ConfigError(
            f"{bundle.path} makes colours without class scores, so classes have no probabilities; use a model with a "
            "palette, such as sat2map."
        )
    colours = unit_to_image(bundle.network.get_buffer("palette").T[:, None], bundle.header.target.scaling)
    index = torch.from_numpy(palette.classify(colours)[0]).long()
    target = Bands(names=palette.names, dtype="float32", low=0.0, high=1.0)
    header = bundle.header.model_copy(update={"target": target})
    return Bundle(ClassProbabilities(bundle.network, index, len(palette.names)), header, bundle.path)


def _scores_classes(bundle: Bundle) -> bool:
    return has_palette(bundle.network) and bundle.header.target.count == 3
