"""ONNX Runtime and OpenVINO as backends, for files that `terramorph.interop` wrote."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from terramorph.bundle import Header
from terramorph.errors import BundleError, ConfigError
from terramorph.imports import needs
from terramorph.translate.backends.protocol import resolve_precision

BackendName = Literal["torch", "onnxruntime", "openvino"]

KEPT_SHAPES = 2
"""Networks compiled for one shape each that are kept. A network for any shape is three times slower, and compiling
one takes about as long as a dozen tiles."""


class ExportedBackend(ABC):
    """A runtime on an exported file, on the CPU.

    Attributes:
        header: Header of the bundle; its mode is the exported one.
        noise_bands: Bands of the noise image; 0 where the generator takes its mean, as in all files except for the web.
        digest: Digest of the file.
        quality: Quality of an 8-bit file: kept, refused or unmeasured; None in float32.
    """

    runtime: str
    noisy = False
    noise_bands = 0
    device = torch.device("cpu")

    def __init__(self, path: str | Path, batch_size: int | None, accept_quality_loss: bool) -> None:
        path = Path(path)
        if not path.is_file():
            raise BundleError(f"There is no file {path}; export one with `terramorph export`.")
        try:
            properties = self._open(path)
        except Exception as error:  # errors of both runtimes share no base but Exception
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            detail = lines[-1].rstrip(".")
            raise BundleError(f"{path} is damaged or not an ONNX file ({detail}); export it again.") from error
        try:
            self.header = Header.model_validate_json(properties["terramorph"])
        except (KeyError, ValidationError) as error:
            raise BundleError(
                f"{path} does not hold the terramorph header; export it again with `terramorph export`."
            ) from error
        if "model_type" in properties:
            raise BundleError(
                f"{path} was exported for Deepness, and gives classes in tiles of one size; export it again without "
                "`deepness`."
            )
        self.quality = properties.get("quality")
        if self.quality == "refused" and not accept_quality_loss:
            loss = properties.get("quality_loss", "it does not say how much")
            raise BundleError(
                f"{path} lost too much in 8 bits ({loss}); export it without `int8`; `translate` takes it all the same "
                "with `accept_quality_loss`."
            )
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        self.name = f"{self.runtime} {self.digest}"
        self.batch_size = 1 if self.header.mode == "paper" else batch_size or 4

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, H, W), on the same device."""
        return self._infer(source.to("cpu", torch.float32).contiguous(), noise).to(source.device)

    @abstractmethod
    def release(self) -> None:
        """Release what is kept between calls."""

    @abstractmethod
    def _open(self, path: Path) -> Mapping[str, str]:
        """Open the file; return its metadata."""

    @abstractmethod
    def _infer(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Translate float32 on the CPU."""


class OnnxBackend(ExportedBackend):
    """ONNX Runtime.

    Args:
        threads: Threads of ONNX Runtime within one operation; 0 lets it choose.
        batch_size: Images per pass of `Model`; 1 in paper mode.
        accept_quality_loss: Take an 8-bit file whose quality was refused when it was made.
    """

    runtime = "onnxruntime"

    def __init__(
        self, path: str | Path, *, threads: int = 0, batch_size: int | None = None, accept_quality_loss: bool = False
    ) -> None:
        self._threads = threads
        with needs("ONNX Runtime", "onnx"):
            import onnxruntime  # noqa: F401
        super().__init__(path, batch_size, accept_quality_loss)

    def _open(self, path: Path) -> Mapping[str, str]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        # The arena keeps the most that was ever asked for: measured on windows of 1536 px, 2.2 GB instead of 1.5.
        options.enable_cpu_mem_arena = False
        # 8 bits on a processor with AVX2 and no VNNI: sums of its faster products overflow 16 bits without a word.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.noise_bands = next((one.shape[1] for one in self._session.get_inputs() if one.name == "noise"), 0)
        found: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _infer(self, x: Tensor, noise: Tensor | None) -> Tensor:
        inputs = {"source": x.numpy()}
        if self.noise_bands:
            given = torch.zeros(len(x), self.noise_bands, *x.shape[2:]) if noise is None else noise
            inputs["noise"] = given.to("cpu", torch.float32).contiguous().numpy()
        (y,) = self._session.run(["target"], inputs)
        return torch.from_numpy(y)

    def release(self) -> None:
        """Do nothing, for nothing is kept between calls."""


class OpenVinoBackend(ExportedBackend):
    """OpenVINO.

    The network is compiled again for every shape of input. What of an 8-bit file is not in 8 bits is computed in
    float32.

    Args:
        precision: `fp32`, `bf16`, or `auto`: as for `TorchBackend`.
        threads: Number of threads; 0 lets OpenVINO choose.
        batch_size: Images per pass of `Model`; 1 in paper mode.
        accept_quality_loss: Take an 8-bit file whose quality was refused when it was made.
    """

    runtime = "openvino"

    def __init__(
        self,
        path: str | Path,
        *,
        precision: str = "auto",
        threads: int = 0,
        batch_size: int | None = None,
        accept_quality_loss: bool = False,
    ) -> None:
        with needs("OpenVINO", "openvino"):
            import openvino
        self._core: Any = openvino.Core()
        super().__init__(path, batch_size, accept_quality_loss)
        if len(self._model.inputs) > 1:
            raise ConfigError(f"{path} takes a noise image, for the web; OpenVINO runs files exported without `web`.")
        if self.quality is not None and precision in ("bf16", "bfloat16"):
            raise ConfigError(f"{path} is in 8 bits, and the rest of it in float32; leave out `precision` {precision}.")
        resolved = resolve_precision(precision, self.device, self.header.mode)
        self.dtype = resolved if self.quality is None else torch.float32
        self.name = f"{self.runtime} {str(self.dtype).removeprefix('torch.')} {self.digest}"
        self._options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def _open(self, path: Path) -> Mapping[str, str]:
        self._model: Any = self._core.read_model(path)
        # OpenVINO keeps the metadata of an ONNX file under the name of its framework.
        return dict(self._model.get_rt_info("framework").value) if self._model.has_rt_info("framework") else {}

    def _infer(self, x: Tensor, noise: Tensor | None) -> Tensor:
        with self._lock:
            request = self._request(tuple(x.shape))
            request.infer({"source": x.numpy()})
            # The request's own memory, which the next call writes to.
            return torch.from_numpy(request.get_output_tensor(0).data).clone()

    def release(self) -> None:
        with self._lock:
            self._compiled.clear()

    def _request(self, shape: tuple[int, ...]) -> Any:
        """Return the request that runs inputs of a shape."""
        if shape not in self._compiled:
            while len(self._compiled) >= KEPT_SHAPES:
                self._compiled.popitem(last=False)
            model = self._model.clone()
            model.reshape({"source": list(shape)})
            self._compiled[shape] = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        self._compiled.move_to_end(shape)
        return self._compiled[shape]


def open_exported(
    path: str | Path,
    name: BackendName | None,
    device: str | torch.device,
    precision: str,
    batch_size: int | None,
    accept_quality_loss: bool,
) -> ExportedBackend:
    """Return the backend for an exported .onnx file.

    Raises:
        ConfigError: If the name is unknown, or the backend does not support a setting.
        MissingPackageError: If the backend is not installed.
        BundleError: If the file is missing, damaged or not of terramorph, or its quality was refused.
    """
    if name not in (None, "onnxruntime", "openvino"):
        raise ConfigError(
            f"The backend {name} does not run exported files such as {path}; use onnxruntime or openvino."
        )
    if str(device) not in ("auto", "cpu"):
        raise ConfigError(f"{path} is an exported network and runs on the CPU; leave out `device` {device}.")
    how: dict[str, Any] = {"batch_size": batch_size, "accept_quality_loss": accept_quality_loss}
    if name == "openvino":
        return OpenVinoBackend(path, precision=precision, **how)
    if precision in ("bf16", "bfloat16"):
        raise ConfigError(
            f"ONNX Runtime does not compute {path} in bf16; use `backend` openvino, or the bundle itself."
        )
    return OnnxBackend(path, **how)
