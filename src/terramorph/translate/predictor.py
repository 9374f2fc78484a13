"""Prediction with a bundle's network: on tensors, and on rasters small enough for one pass, in either mode."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph.bundle import Bundle, Header, Mode
from terramorph.errors import ConfigError, InputError
from terramorph.geo import Grid
from terramorph.networks import Core
from terramorph.pixels import image_to_unit
from terramorph.raster import Raster
from terramorph.raster.values import Suspects, tell_suspects
from terramorph.translate.backends import Backend, Ensemble, TorchBackend
from terramorph.translate.noise import ground_noise

Predict = Callable[[Sequence[Raster], int, Core | None], NDArray[np.float32]]
"""Function of rasters of one size, the number of a sample, and the core to return: float32 (N, D, h, w)."""


@dataclass(eq=False)
class _Request:
    raster: Raster
    sample: int
    core: Core | None
    made: Future[NDArray[np.float32]] = field(default_factory=Future)

    def shares(self, other: _Request) -> bool:
        """Return whether one pass can make both."""
        alike = self.raster.pixels.shape == other.raster.pixels.shape
        return alike and (self.sample, self.core) == (other.sample, other.core)


class Gather:
    """Predicts single rasters for several threads: those asked for while a pass runs share the next one.

    No request waits for others to come, so a thread alone loses nothing.

    Args:
        predict: Function that predicts rasters in one pass.
        at_once: Function of (height, width) in pixels that returns the most rasters per pass.
        turn: Lock of the computation.
    """

    def __init__(self, predict: Predict, at_once: Callable[[int, int], int], turn: AbstractContextManager[Any]) -> None:
        self._predict, self._at_once, self._turn = predict, at_once, turn
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def one(self, raster: Raster, sample: int, core: Core | None) -> NDArray[np.float32]:
        """Predict a raster, float32 (D, h, w) in [-1, 1].

        Raises:
            Exception: Any exception of its pass.
        """
        asked = _Request(raster, sample, core)
        with self._lock:
            self._waiting.append(asked)
        with self._turn:
            if not asked.made.done():  # no other thread has made it in its pass
                self._run(self._taken(asked))
        return asked.made.result()

    def _taken(self, first: _Request) -> list[_Request]:
        """Take a request and those that share its pass, the oldest first."""
        with self._lock:
            others = [other for other in self._waiting if other is not first and other.shares(first)]
            taken = [first, *others][: self._at_once(*first.raster.mask.shape)]
            self._waiting = [other for other in self._waiting if other not in taken]
        return taken

    def _run(self, requests: list[_Request]) -> None:
        first = requests[0]
        try:
            made = self._predict([request.raster for request in requests], first.sample, first.core)
        except BaseException as error:
            for request in requests:
                request.made.set_exception(error)
        else:
            for request, one in zip(requests, made, strict=True):
                request.made.set_result(one)


class Predictor:
    """A bundle's network for tensors, and for rasters small enough for one pass.

    It has two modes (see docs/design.md). `raster`: fixed statistics and no dropout; pixels do not depend on the batch.
    `paper`: statistics of each image alone and live dropout. The noise depends on the seed, the number of the sample
    and the values of the image: results are reproducible in any batch, and two images have different noise.

    Attributes:
        header: Header of the bundle.
        path: File of the bundle; None if it was made in memory.
        mode: `raster` or `paper`.
        device: Device of the computation.
        batch_size: Images of the training size per pass.
        digest: First 32 hexadecimal digits of the SHA-256 of header and weights.
        turn: Lock of the computation; one thread computes at a time.
        gather: Predictions of several threads, which share passes; None on a CPU, where larger passes gain nothing.
        overlap: Least overlap of windows in pixels, where the receptive field is not bounded.

    Args:
        bundle: Bundle from `load_bundle`, `import_checkpoint` or a training run.
        mode: `raster` or `paper`; default: the bundle's own.
        seed: Seed of the noise.
        any_resolution: Accept images whose ground resolution is far from the bundle's.
        backend: Backend that runs the network; default: PyTorch.
        settings: Arguments device, precision, batch_size and dropout of `TorchBackend`.
        ensemble: Average the outputs of the eight flips and rotations of each image, which takes eight times as long.

    Raises:
        ConfigError: If a mode, device or precision is unknown or unavailable, or the seed is not a whole number in
            [0, 2**63).
    """

    _reopened: Callable[..., Predictor] | None = None

    def __init__(
        self,
        bundle: Bundle | Header,
        *,
        mode: Mode | None = None,
        seed: int = 0,
        any_resolution: bool = False,
        backend: Backend | None = None,
        ensemble: bool = False,
        **settings: Any,
    ) -> None:
        self.header = bundle.header if isinstance(bundle, Bundle) else bundle
        self.path = bundle.path if isinstance(bundle, Bundle) else None
        self.mode: Mode = mode or self.header.mode
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed must be a whole number >= 0 and < 2**63, got {seed!r}.")
        self.seed = seed
        self.any_resolution = any_resolution
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(_digest, bundle)
            if backend is None:
                if not isinstance(bundle, Bundle):
                    raise ConfigError("A header alone holds no network; give a bundle, or a backend that has one.")
                backend = TorchBackend(bundle.network, mode=self.mode, **settings)
            self.ensemble = ensemble
            self.backend = Ensemble(backend, self.header.stride) if ensemble else backend
            self.digest = digest.result()
        self.turn = threading.RLock()
        self.device = backend.device
        self.batch_size = backend.batch_size
        self.gather: Gather | None = None
        if self.device.type == "cuda" and self.mode == "raster":
            self.gather = Gather(self.predict, self._images_at_once, self.turn)
        network = bundle.network if isinstance(bundle, Bundle) else None
        self.overlap = int(getattr(network, "overlap", None) or self.header.size)

    def __repr__(self) -> str:
        names = (", ".join(side.names) for side in (self.header.source, self.header.target))
        return (
            f"{type(self).__name__}({self.path or self.header.architecture.name}, {' -> '.join(names)}, {self.device})"
        )

    def __reduce__(self) -> tuple[Callable[[], Predictor], tuple[()]]:
        """Pickle the model as a function that loads the same file."""
        if self._reopened is None:
            raise ConfigError("A model that was made in memory cannot be sent to another process; save its bundle.")
        return self._reopened, ()

    def translate_batch(
        self, source: Tensor, *, sample: int = 0, grids: Sequence[Grid] | None = None, core: Core | None = None
    ) -> Tensor:
        """Translate images of one size.

        Args:
            source: float32 (N, C, H, W) in [-1, 1], any H and W, on any device.
            sample: Number of the sample, in paper mode.
            grids: Grids of the N images, which in raster mode decide the noise image of a generator that has one;
                None: they have none.
            core: Window of the H x W pixels to return; None: all.

        Returns:
            The core, float32 (N, D, h, w) in [-1, 1], on the source's device.

        Raises:
            InputError: If the shape does not fit, or the bands are not the bundle's.
        """
        bands = self.header.source.count
        if source.ndim != 4 or source.shape[1] != bands or 0 in source.shape:
            raise InputError(
                f"A batch of shape {tuple(source.shape)} does not fit; the model takes (N, {bands}, height, width)."
            )
        at_once = self._images_at_once(*source.shape[2:])
        with self.turn:
            if self.mode == "raster":
                places = grids or [Grid.pixels(*source.shape[2:])] * len(source)
                groups = [slice(first, first + at_once) for first in range(0, len(source), at_once)]
                parts = [self._run(source[group], 0, self._noise(places[group]), core) for group in groups]
            else:
                parts = [self._run(image, self._seed(image, sample), None, core) for image in torch.split(source, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, source: Tensor, seed: int, noise: Tensor | None, core: Core | None) -> Tensor:
        run: Any = self.backend.run
        if core is not None and getattr(self.backend, "takes_core", False):
            return run(source, seed, noise, core=core)  # type: ignore[no-any-return]
        made: Tensor = run(source, seed, noise)
        return made if core is None else made[..., *core]

    def predict(self, rasters: Sequence[Raster], sample: int = 0, core: Core | None = None) -> NDArray[np.float32]:
        """Predict rasters of one size without resampling; they share passes in raster mode.

        Args:
            rasters: Rasters (C, H, W) that `check_source` accepts, small enough for one pass.
            sample: Number of the sample, in paper mode.
            core: Window of their pixels to return; None: all.

        Returns:
            The core, float32 (N, D, h, w) in [-1, 1].
        """
        units = torch.cat([self._unit(raster) for raster in rasters])
        predicted: NDArray[np.float32] = (
            self.translate_batch(units, sample=sample, grids=[raster.grid for raster in rasters], core=core)
            .contiguous()
            .numpy()
        )
        return predicted

    def predict_one(self, raster: Raster, sample: int = 0, core: Core | None = None) -> NDArray[np.float32]:
        """Predict a raster likewise, float32 (D, h, w); several threads share passes on a GPU."""
        if self.gather is not None:
            return self.gather.one(raster, sample, core)
        return self.predict([raster], sample, core)[0]  # type: ignore[no-any-return]

    def check_samples(self, samples: int) -> None:
        """Validate a number of samples.

        Raises:
            ConfigError: If it is < 1, or > 1 where all samples would be equal.
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
        """Return a raster as float32 (1, C, H, W) in [-1, 1]; pixels without data are 0, the middle of the range."""
        source, mask = self.header.source, raster.mask
        if source.dtype != "uint8":
            suspects = Suspects()
            suspects.add(raster.pixels[:, mask])
            tell_suspects(suspects.found(), "the image")
        fitted = source.fit(raster)
        assert fitted is not None  # refused by `check_source`
        unit = image_to_unit(fitted.pixels, source.scaling)
        return unit if mask.all() else unit.masked_fill(torch.from_numpy(~mask), 0.0)

    def _noise(self, grids: Sequence[Grid]) -> Tensor | None:
        """Return the noise image of each grid, float32 (N, noise_bands, H, W); the same ground has the same noise."""
        bands, seed = self.backend.noise_bands, self.seed
        if not bands:
            return None
        return torch.from_numpy(np.stack([ground_noise(grid, bands, seed) for grid in grids]))

    def _images_at_once(self, height: int, width: int) -> int:
        """Return the number of images per pass: fewer if they are larger than those of training."""
        tiles = max(1, height * width // max(self.header.size, 1) ** 2)
        return max(1, self.batch_size // tiles)

    def _seed(self, image: Tensor, sample: int) -> int:
        if not self.backend.noisy:
            return 0
        values = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes())
        return zlib.crc32(f"{self.seed} {sample}".encode(), values)


def _digest(bundle: Bundle | Header) -> str:
    """Return the digest of a bundle's header and weights."""
    header = bundle.header if isinstance(bundle, Bundle) else bundle
    digest = hashlib.sha256(header.model_dump_json().encode())  # processors have instructions for SHA-256
    if isinstance(bundle, Bundle):
        for name, value in sorted(bundle.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
