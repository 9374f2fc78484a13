"""Model: a bundle that takes images and gives images; `load` makes one of a file."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph.bands import Units, band_order
from terramorph.bundle import Bundle, Header, Mode, load_bundle
from terramorph.errors import ConfigError, InputError, warn
from terramorph.geo import Grid
from terramorph.geo.cover import Cover, Window
from terramorph.pixels import image_to_unit
from terramorph.raster import Raster, default_bands, read_image
from terramorph.raster.values import Suspects, settle, tell_suspects
from terramorph.translate.backends import Backend, BackendName, TorchBackend, open_exported
from terramorph.translate.memory import release_freed_memory

WHOLE_PIXELS = 2**21
"""Images of up to this many pixels go through in one pass (about 0.5 GB for a U-Net 256 in bfloat16); others
in windows."""

WINDOW_SIDES = 5
"""Side of a window, in training sizes. Measured on a U-Net 256 (docs/results.md): six are 3 % faster and take 230 MB
more, and fewer cost more arithmetic; two tilings of the same ground agree as well with any of them."""

MAX_SCALE_RATIO = 1.5
"""Ground resolutions further apart than this are refused: a network knows things at the size it was shown."""


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
            self.backend = backend
            self.digest = digest.result()
        self.device = backend.device
        self.batch_size = backend.batch_size

    def translate_batch(self, source: Tensor, *, sample: int = 0) -> Tensor:
        """Translates images of one size.

        Args:
            source: float32 (N, C, H, W) in [-1, 1], any H and W, on any device.
            sample: which draw of the noise, in paper mode.

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
        if self.mode == "raster":
            parts = [self.backend.run(part) for part in torch.split(source, self._images_at_once(source))]
        else:
            parts = [self.backend.run(image, self._seed(image, sample)) for image in torch.split(source, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @overload
    def translate(self, image: str | Path | NDArray[Any] | Raster, *, samples: Literal[1] = 1) -> Raster: ...
    @overload
    def translate(self, image: str | Path | NDArray[Any] | Raster, *, samples: int) -> Raster | list[Raster]: ...
    def translate(self, image: str | Path | NDArray[Any] | Raster, *, samples: int = 1) -> Raster | list[Raster]:
        """Translates one image of any size.

        Up to about 2 million pixels go through in one pass. Larger ones go through in windows of five
        training sizes; where the network's receptive field is bounded the joints are exact, otherwise
        windows overlap and are blended linearly.

        Args:
            image: a path, a Raster, or an array (C, H, W), (H, W, C) or (H, W) of the bundle's stored dtype
                and range (uint8 0..255 for most). An array that could be read both ways is taken as (C, H,
                W).
            samples: how many outputs to draw, in paper mode.

        Returns:
            A Raster in the bundle's target dtype with the image's grid and mask; a list of them for more
            than one sample. Pixels without data (mask False) stay without, and hold the lowest value.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit the bundle.
            RasterError: if a path cannot be read.
            ConfigError: if more than one sample is asked for in raster mode, or less than one.
        """
        self.check_samples(samples)
        raster = self.as_raster(image)
        self.check(raster)
        if samples == 1:
            return self._one(raster, 0)
        return [self._one(raster, sample) for sample in range(samples)]

    def translate_rasters(self, rasters: list[Raster], *, sample: int = 0) -> list[Raster]:
        """Translates images of any sizes; those of one size share passes in raster mode.

        Raises:
            InputError: as for `translate`.
        """
        for raster in rasters:
            self.check(raster)
        alike = len({raster.mask.shape for raster in rasters}) == 1
        small = rasters and rasters[0].mask.size <= WHOLE_PIXELS
        if self.mode == "paper" or len(rasters) < 2 or not alike or not small:
            return [self._one(raster, sample) for raster in rasters]
        units = torch.cat([self._unit(raster, slice(None), slice(None)) for raster in rasters])
        targets = self.header.target.scaling.from_unit(self.translate_batch(units)).contiguous().numpy()
        return [self._placed(target, raster) for target, raster in zip(targets, rasters, strict=True)]

    def as_raster(self, image: str | Path | NDArray[Any] | Raster) -> Raster:
        """What `translate` takes, as a Raster.

        Raises:
            InputError: if an array has no axis of the bundle's bands.
            RasterError: if a path cannot be read.
        """
        if isinstance(image, Raster):
            return image
        if isinstance(image, str | Path):
            return read_image(image)
        pixels = np.asarray(image)
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

    def check(self, raster: Raster) -> None:
        """Refuses an image that the bundle was not made for.

        Raises:
            InputError: if bands, dtype or ground resolution do not fit; the sentence says what to do.
        """
        self.check_kind(raster.bands, raster.dtype.name, raster.units)
        have, need = raster.grid.ground_resolution, self.header.ground_resolution
        if have is None or need is None or self.any_resolution:
            return
        if max(have / need, need / have) > MAX_SCALE_RATIO:
            raise InputError(
                f"A pixel of the image is {have:.3g} m and the model was trained at {need:.3g} m; resample "
                f"the image to {need:.3g} m first, or translate it all the same with --any-resolution (in Python "
                "any_resolution=True)."
            )

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
            raise ConfigError(f"This model has no live dropout, so {samples} samples would be equal; ask for 1.")

    def translate_window(self, raster: Raster, sample: int = 0) -> NDArray[Any]:
        """Translates a piece of a raster in one pass, without looking at its scale or filling its gaps.

        Args:
            raster: (C, H, W) that `check_kind` lets pass, small enough for one pass.
            sample: which draw of the noise, in paper mode.

        Returns:
            (D, H, W) in the bundle's target dtype.
        """
        unit = self.translate_batch(self._unit(raster, slice(None), slice(None)), sample=sample)
        return self.header.target.scaling.from_unit(unit)[0].contiguous().numpy()

    def cover(
        self,
        height: int,
        width: int,
        *,
        window: int | None = None,
        overlap: int | None = None,
        offset: tuple[int, int] = (0, 0),
    ) -> Cover:
        """The windows in which this model goes over an image that is too large for one pass.

        Args:
            height, width: of the image in pixels.
            window: at least this side; default five training sizes. It is made large enough for the halo.
            overlap: pixels that windows share at least, where they are blended; default a training size.
            offset: (y, x) that moves the lattice of windows, multiples of the stride.

        Raises:
            ConfigError: if a window leaves no room for a step, or the offset does not fit.
        """
        size, stride = self.header.size, self.header.stride
        # The statistics of each image alone know no halo.
        halo = self.header.halo if self.mode == "raster" else None
        side = max(window or WINDOW_SIDES * size, 4 * (halo or 0))
        # Windows that start at multiples of the stride see every layer in the same phase.
        return Cover(
            height,
            width,
            window=-(-side // stride) * stride,
            halo=halo,
            overlap=size if overlap is None else overlap,
            align=stride,
            offset=offset,
        )

    def _one(self, raster: Raster, sample: int) -> Raster:
        target = self.header.target
        if raster.mask.size <= WHOLE_PIXELS:
            return self._placed(self.translate_window(raster, sample), raster)
        out = np.empty((target.count, raster.height, raster.width), target.dtype)

        def part(window: Window) -> NDArray[np.float32] | None:
            if not raster.mask[window.seen].any():
                return None
            unit = self.translate_batch(self._unit(raster, *window.seen), sample=sample)[0]
            return unit[:, *window.inner].numpy()

        for rows, unit, _ in self.cover(raster.height, raster.width).join(part, target.count):
            out[:, rows] = target.scaling.from_unit(torch.from_numpy(unit)).numpy()
        return self._placed(out, raster)

    def _unit(self, raster: Raster, rows: slice, columns: slice) -> Tensor:
        """A window as float32 (1, C, h, w) in [-1, 1]; pixels without data are 0, the middle of the range."""
        source, mask = self.header.source, raster.mask[rows, columns]
        part = replace(raster, pixels=raster.pixels[:, rows, columns], mask=mask, grid=Grid.pixels(*mask.shape))
        if source.dtype != "uint8":
            suspects = Suspects()
            suspects.add(part.pixels[:, mask])
            tell_suspects(suspects.found(), "the image")
        fitted = source.fit(part)
        assert fitted is not None  # `check_kind` has refused it
        unit = image_to_unit(fitted.pixels, source.scaling)
        return unit if mask.all() else unit.masked_fill(torch.from_numpy(~mask), 0.0)

    def _placed(self, pixels: NDArray[Any], raster: Raster) -> Raster:
        target = self.header.target
        if not raster.mask.all():
            pixels[:, ~raster.mask] = target.low
        names = target.names if len(target.names) == len(pixels) else default_bands(len(pixels))
        return Raster(pixels, raster.mask, raster.grid, names, target.units)

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
) -> Model:
    """Reads a bundle, or a network exported to ONNX, ready to translate.

        model = terramorph.load("model.safetensors")
        map_raster = model.translate("aerial.tif")

    Args:
        path: a .safetensors bundle, a run's folder, a bare name in the folder `models`, or an exported .onnx file
            (which runs on the CPU, in the mode it was exported in).
        mode, device, precision, seed, batch_size, dropout, any_resolution: see `Model`.
        backend: `torch` runs bundles; `onnxruntime` (the default for them) and `openvino` run exported files.
        accept_quality_loss: take an 8-bit file whose quality was refused when it was made.

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
        model = Model(exported.header, seed=seed, any_resolution=any_resolution, backend=exported)
        model.path = Path(path)
        return model
    if backend not in (None, "torch"):
        raise ConfigError(
            f"The backend {backend} does not run bundles; use torch, or onnxruntime and openvino on a file that "
            f"`terramorph export {path} model.onnx` makes."
        )
    model = Model(
        load_bundle(path),
        mode=mode,
        device=device,
        precision=precision,
        seed=seed,
        batch_size=batch_size,
        dropout=dropout,
        any_resolution=any_resolution,
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
