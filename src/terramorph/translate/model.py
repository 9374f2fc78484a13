"""Model: a bundle that takes images and gives images; `load` makes one of a file."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph.bands import Units, band_order
from terramorph.bundle import Bundle, Header, Mode, load_bundle
from terramorph.errors import ConfigError, InputError, warn
from terramorph.geo import Grid
from terramorph.pixels import image_to_unit
from terramorph.raster import Raster
from terramorph.raster.values import Suspects, settle, tell_suspects
from terramorph.translate.backends import Backend, BackendName, Ensemble, TorchBackend, open_exported
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.noise import ground_noise

if TYPE_CHECKING:
    from odc.geo.geom import Geometry

    from terramorph.raster import Source
    from terramorph.translate.engine import Engine, Stages
    from terramorph.translate.lazy import LazySource
    from terramorph.translate.outputs import Kind, Progress, Written


class Model:
    """A bundle at work.

    Two modes (see docs/design.md). `raster`: fixed statistics, no dropout; the same pixels whatever the
    batch. `paper`: the statistics of each image alone and live dropout. Its noise comes from the seed, the
    number of the sample and the image's own values: a result can be repeated, alone or in any company, and
    two images do not share their noise.

    Attributes:
        header: what the bundle says of itself.
        path: the file it was loaded from, None if it was not.
        mode: `raster` or `paper`.
        device: where it computes.
        batch_size: images of the training size per pass.
        digest: blake2b of the weights and the header, hexadecimal.
        turn: held to compute; one thread computes at a time.
        overlap: pixels that windows share at least, where the receptive field is not bounded.

    Args:
        bundle: from `load_bundle`, `import_checkpoint` or a training run.
        mode: default: the bundle's own.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`; see `TorchBackend`.
        seed: of the noise in paper mode.
        batch_size: default: what the device is fastest with. Always 1 in paper mode.
        dropout: False turns the noise of paper mode off; the statistics stay those of each image.
        any_resolution: True takes images whose ground resolution is far from the bundle's.
        backend: what runs the network, instead of PyTorch; device, precision and batch size are then its own.
        ensemble: give the mean over the eight flips and turns of each image, at eight times the time.

    Raises:
        ConfigError: if a mode, device or precision is unknown or not there.
    """

    def __init__(
        self,
        bundle: Bundle | Header,
        *,
        mode: Mode | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        seed: int = 0,
        batch_size: int | None = None,
        dropout: bool = True,
        any_resolution: bool = False,
        backend: Backend | None = None,
        ensemble: bool = False,
    ) -> None:
        self.header = bundle.header if isinstance(bundle, Bundle) else bundle
        self.path = bundle.path if isinstance(bundle, Bundle) else None
        self.mode: Mode = mode or self.header.mode
        self.seed = seed
        self.any_resolution = any_resolution
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(_digest, bundle)
            if backend is None:
                if not isinstance(bundle, Bundle):
                    raise ConfigError("A header alone holds no network; give a bundle, or a backend that has one.")
                backend = TorchBackend(
                    bundle.network,
                    mode=self.mode,
                    device=device,
                    precision=precision,
                    batch_size=batch_size,
                    dropout=dropout,
                )
            self.ensemble = ensemble
            self.backend = Ensemble(backend, self.header.stride) if ensemble else backend
            self.digest = digest.result()
        self.turn = threading.RLock()
        self.device = backend.device
        self.batch_size = backend.batch_size
        network = bundle.network if isinstance(bundle, Bundle) else None
        self.overlap = int(getattr(network, "overlap", None) or self.header.size)

    def translate_batch(self, source: Tensor, *, sample: int = 0, grids: Sequence[Grid] | None = None) -> Tensor:
        """Translates images of one size.

        Args:
            source: float32 (N, C, H, W) in [-1, 1], any H and W, on any device.
            sample: which draw of the noise, in paper mode.
            grids: places of the N images, on which the noise image of a generator that has one depends in raster mode;
                None: they have none.

        Returns:
            float32 (N, D, H, W) in [-1, 1], on the source's device.

        Raises:
            InputError: if the shape is not that or the bands are not the bundle's.
        """
        bands = self.header.source.count
        if source.ndim != 4 or source.shape[1] != bands or 0 in source.shape:
            raise InputError(
                f"A batch of shape {tuple(source.shape)} does not fit; the model takes (N, {bands}, height, width)."
            )
        at_once = self._images_at_once(source)
        with self.turn:
            if self.mode == "raster":
                places = grids or [Grid.pixels(*source.shape[2:])] * len(source)
                groups = [slice(first, first + at_once) for first in range(0, len(source), at_once)]
                parts = [self.backend.run(source[group], noise=self._noise(places[group])) for group in groups]
            else:
                parts = [self.backend.run(image, self._seed(image, sample)) for image in torch.split(source, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

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

        Up to about 2 million pixels go through in one pass. Larger ones go through in windows; where the network's
        receptive field is bounded the joints are exact, otherwise windows overlap and are blended linearly.

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
            Of an array an array, its bands where those of x are; of a DataArray a DataArray (see
            `arrays.translate_array`); otherwise a Raster. In the bundle's target dtype. Pixels without data stay
            without, and hold the lowest value.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit the bundle.
            RasterError: if a path cannot be read.
            MissingPackageError: if x is a DataArray and dask is not installed.
        """
        from terramorph.raster.array_source import ArraySource, RasterSource
        from terramorph.translate.arrays import translate_array
        from terramorph.translate.plan import opened, own_grid, plan

        last = isinstance(x, np.ndarray) and x.ndim == 3 and x.shape[0] != self.header.source.count
        with opened(self, self.as_raster(x) if isinstance(x, np.ndarray) else x, area, opening) as source:
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
            samples: draws of each pixel in paper mode; without `uncertainty` each is written, as NAME_1, NAME_2 ...
            uncertainty: GeoTIFF for the standard deviation of the draws, of which the first is then the output.
            kind: of the output: cog, classes (a GeoTIFF of a map's classes, with a legend), polygons, xyz, mbtiles or
                pmtiles; default: by its name. Classes and a folder of tiles need it.
            suffix: of the outputs in a folder of images: .png, .jpg or .tif. Default: .tif for inputs that are TIFF and
                for targets that PNG cannot hold, otherwise .png.
            skip_bad: leave out images of a folder that cannot be read or do not fit, instead of stopping.
            pairs: True: images are A|B pairs, of which the side is translated that the model takes; False: they are
                not; None: pairs are recognised (`paired`).
            overwrite: replace outputs that are there already.
            restart: throw away what an unfinished translation to the same output has made, if it was another one.
            offset: see `plan.plan_cover`.
            engine: what schedules the windows of a raster, such as `cluster.DaskEngine`; None: this process.
            progress: told (step, done, total).
            stages: filled with the seconds of each step.
            opening: how a path is opened: see `open_source`. Its `style` is that of the map side: of vectors as input,
                and of a made map whose classes are wanted.

        Raises:
            ConfigError: if the kind of output does not do what is asked of it.
            InputError: if bands, dtype or ground resolution do not fit the bundle, an output would replace the source
                or what is there or cannot be of its kind, the parts of another translation lie there, or a part of the
                source cannot be read.
            StorageError: if something cannot be written; what is done stays, and the same call goes on from it.
            RunError: if a cluster fails for good; likewise.
        """
        from terramorph.translate.outputs import Request
        from terramorph.translate.writing import translate_to

        request = Request(
            resolution=resolution,
            match_source=match_source,
            area=area,
            samples=samples,
            uncertainty=uncertainty,
            pairs=pairs,
            overwrite=overwrite,
            restart=restart,
            window=window,
            overlap=overlap,
            offset=offset,
            style=opening.get("style", "classic"),
        )
        how: dict[str, Any] = {"kind": kind, "suffix": suffix, "skip_bad": skip_bad, "engine": engine}
        if isinstance(source, np.ndarray):
            source = self.as_raster(source)
        return translate_to(self, source, output, request, opening, progress=progress, stages=stages, **how)

    def lazy(
        self,
        source: Any,
        *,
        resolution: float | None = None,
        area: Geometry | str | Path | None = None,
        window: int | None = None,
        overlap: int | None = None,
        memory: int = 2**28,
        **opening: Any,
    ) -> LazySource:
        """The raster that `translate_to` would write, as a `Source`: a window is predicted when it is first read.

            with model.lazy("ortho.vrt") as drawn:
                piece = drawn.read(drawn.grid.crop(0, 0, 512, 512))

        Args:
            source: what `translate` takes; it is closed with the result if it was opened here.
            resolution, area, window, overlap: see `translate`.
            memory: bytes of predicted windows that are kept.
            opening: how a path is opened: see `open_source`.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit the bundle.
        """
        from terramorph.translate.lazy import LazySource
        from terramorph.translate.plan import opened, plan

        if isinstance(source, np.ndarray):
            source = self.as_raster(source)
        with ExitStack() as stack:
            seen = stack.enter_context(opened(self, source, area, opening))
            tiled = plan(self, seen, resolution=resolution, window=window, overlap=overlap)
            return LazySource(tiled, seen, memory, stack.pop_all())

    def predict(self, rasters: Sequence[Raster], sample: int = 0) -> NDArray[np.float32]:
        """Pieces of one size through the network, as they are; they share passes in raster mode.

        Args:
            rasters: (C, H, W) each, that `check_kind` lets pass, small enough for one pass.
            sample: number of the draw, in paper mode.

        Returns:
            float32 (N, D, H, W) in [-1, 1].
        """
        units = torch.cat([self._unit(raster) for raster in rasters])
        predicted: NDArray[np.float32] = (
            self.translate_batch(units, sample=sample, grids=[raster.grid for raster in rasters]).contiguous().numpy()
        )
        return predicted

    def as_raster(self, pixels: NDArray[Any]) -> Raster:
        """An array that `translate` takes, as a Raster without a place.

        Raises:
            InputError: if it has no axis of the bundle's bands.
        """
        bands = self.header.source.count
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise InputError(
                f"An array of shape {pixels.shape} is no image; give ({bands}, height, width) or (height, "
                f"width, {bands})."
            )
        if pixels.shape[0] != bands and pixels.shape[2] == bands:
            pixels = pixels.transpose(2, 0, 1)
        elif pixels.shape[0] != bands and pixels.shape[2] < min(8, *pixels.shape[:2]):
            raise InputError(
                f"An array of shape {pixels.shape} holds {pixels.shape[2]} bands along its last axis and the model "
                f"takes {bands} ({', '.join(self.header.source.names)}); pick them, such as array[..., :{bands}]."
            )
        if pixels.dtype.kind != "f":
            return Raster.from_pixels(pixels)
        pixels, mask = settle(pixels, np.isfinite(pixels))
        return Raster.from_pixels(pixels, mask=mask)

    def check_kind(self, bands: Sequence[str], dtype: str, units: Units | None = None) -> None:
        """Refuses images of other bands or another dtype than the bundle's, and warns where one's units only are known.

        Args:
            bands: names. Those that the bundle takes are picked and ordered by them.
            dtype: of the stored values.
            units: what these mean.

        Raises:
            InputError: if they do not fit; the sentence says what to do.
        """
        source = self.header.source
        if band_order(bands, source.names) is None:
            have = f"the bands {', '.join(bands)}" if len(bands) == source.count else _bands(len(bands))
            raise InputError(
                f"The image has {have} and the model takes {_bands(source.count)} "
                f"({', '.join(source.names)}); pick those that the model takes, in its order (bands=1,2,3 as it is "
                "opened)."
            )
        if dtype != source.dtype:
            raise InputError(
                f"The pixels are {dtype} and the model takes {source.dtype} from {source.low:g} to {source.high:g}; "
                "convert the image first."
            )
        if units and not source.units:
            warn(
                f"The image says that its values have {units}, and the model does not know those of what it was "
                "trained on: stored values are used as they are."
            )
        elif source.units and not units:
            warn(
                f"The image does not say scale and offset of its values, which are taken to be those of what the model "
                f"was trained on: {source.units}."
            )

    def check_samples(self, samples: int) -> None:
        """Refuses a number of samples that makes no sense.

        Raises:
            ConfigError: if it is under 1, or over 1 where every sample would be the same.
        """
        if samples < 1:
            raise ConfigError(f"{samples} samples cannot be drawn; ask for 1 or more.")
        if samples > 1 and self.mode == "raster":
            raise ConfigError(
                f"Mode raster has no noise, so {samples} samples would be equal; ask for 1, or use mode paper."
            )
        if samples > 1 and not self.backend.noisy:
            raise ConfigError(
                f"This model has no dropout and no noise image, so {samples} samples would be equal; ask for 1."
            )

    def _unit(self, raster: Raster) -> Tensor:
        """A raster as float32 (1, C, H, W) in [-1, 1]; pixels without data are 0, the middle of the range."""
        source, mask = self.header.source, raster.mask
        if source.dtype != "uint8":
            suspects = Suspects()
            suspects.add(raster.pixels[:, mask])
            tell_suspects(suspects.found(), "the image")
        fitted = source.fit(raster)
        assert fitted is not None  # `check_kind` has refused it
        unit = image_to_unit(fitted.pixels, source.scaling)
        return unit if mask.all() else unit.masked_fill(torch.from_numpy(~mask), 0.0)

    def _noise(self, grids: Sequence[Grid]) -> Tensor | None:
        """The noise image of each grid, float32 (N, noise_bands, H, W): the same ground sees the same noise."""
        bands, seed = self.backend.noise_bands, self.seed
        if not bands:
            return None
        return torch.from_numpy(np.stack([ground_noise(grid, bands, seed) for grid in grids]))

    def _images_at_once(self, source: Tensor) -> int:
        """Fewer images at once when they are larger than those of training."""
        tiles = max(1, source.shape[2] * source.shape[3] // max(self.header.size, 1) ** 2)
        return max(1, self.batch_size // tiles)

    def _seed(self, image: Tensor, sample: int) -> int:
        if not self.backend.noisy:
            return 0
        values = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes())
        return zlib.crc32(f"{self.seed} {sample}".encode(), values)


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
) -> Model:
    """Reads a bundle, or a network exported to ONNX, ready to translate.

        model = terramorph.load("model.safetensors")
        map_raster = model.translate("aerial.tif")

    Args:
        path: a .safetensors bundle, a run's folder, a model's name, or an exported .onnx file
            (which runs on the CPU, in the mode it was exported in).
        mode, device, precision, seed, batch_size, dropout, any_resolution, ensemble: see `Model`.
        backend: `torch` runs bundles; `onnxruntime` (the default for them) and `openvino` run exported files.
        accept_quality_loss: take an 8-bit file whose quality was refused when it was made.
        allowed: modules from outside whose code may run, where the bundle's generator is one of theirs.

    Raises:
        BundleError: if the file is missing, damaged, too new, or not a bundle, or its quality was refused.
        ConfigError: if a mode, device, precision or backend is unknown, not there, or does not run such a file.
        MissingPackageError: if the backend is not installed.
    """
    if Path(path).suffix == ".onnx":
        exported = open_exported(path, backend, device, precision, batch_size, accept_quality_loss)
        if mode is not None and mode != exported.header.mode:
            raise ConfigError(
                f"{path} was exported in mode {exported.header.mode} and has no other; export it again with "
                f"--mode {mode}."
            )
        model = Model(exported.header, seed=seed, any_resolution=any_resolution, backend=exported, ensemble=ensemble)
        model.path = Path(path)
        return model
    if backend not in (None, "torch"):
        raise ConfigError(
            f"The backend {backend} does not run bundles; use torch, or onnxruntime and openvino on a file that "
            f"`terramorph export {path} model.onnx` makes."
        )
    model = Model(
        load_bundle(path, allowed),
        mode=mode,
        device=device,
        precision=precision,
        seed=seed,
        batch_size=batch_size,
        dropout=dropout,
        any_resolution=any_resolution,
        ensemble=ensemble,
    )
    # The bundle's float32 weights are gone by now, and much of what the prepared ones were made from.
    release_freed_memory()
    return model


def _digest(bundle: Bundle | Header) -> str:
    """Of what a bundle says of itself, and of its weights."""
    header = bundle.header if isinstance(bundle, Bundle) else bundle
    digest = hashlib.sha256(header.model_dump_json().encode())  # processors have instructions for it
    if isinstance(bundle, Bundle):
        for name, value in sorted(bundle.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _bands(count: int) -> str:
    return f"{count} band{'s' * (count != 1)}"
