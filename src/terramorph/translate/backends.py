"""What runs a generator: PyTorch or ONNX Runtime, behind one small protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from terramorph.bundle import Header, Mode
from terramorph.errors import BundleError, ConfigError, MissingPackageError
from terramorph.networks import NoiseDropout, UNet, set_noise
from terramorph.networks.inference import fold_batchnorm, per_image_statistics
from terramorph.pixels import native_bf16
from terramorph.translate.packed import PackedUNet


class Backend(Protocol):
    """Runs a generator on batches.

    Attributes:
        name: which it is and in what precision; results of one name are equal.
        device: where it computes.
        batch_size: how many images of the training size it is fastest with; 1 where each image has its own
            noise.
        noisy: whether the output depends on the seed.
    """

    name: str
    device: torch.device
    batch_size: int
    noisy: bool

    def run(self, source: Tensor, seed: int = 0) -> Tensor:
        """float32 (N, C, H, W) in [-1, 1], any H and W -> float32 (N, D, H, W) in [-1, 1], on the same
        device."""
        ...


class TorchBackend:
    """PyTorch.

    In raster mode batch norm is folded into the convolutions, and the weights are float32 or bfloat16 (cast
    once, after folding; autocast would cast in every call). A U-Net on the CPU is also rearranged: see
    `packed`. In paper mode the network runs as it is, with the statistics of each image alone.

    Args:
        network: a generator; a copy is used.
        mode: `raster` or `paper`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:1`.
        precision: `fp32`, `bf16`, or `auto`: bf16 in raster mode where the hardware multiplies it natively
            (AVX512_BF16, AMX, CUDA from Ampere on), otherwise fp32. Paper mode is for comparison with
            published figures, and its `auto` is fp32.
        batch_size: default 4 on a CPU and 16 on CUDA in raster mode; always 1 with live dropout.
        dropout: whether dropout is live in paper mode. It never is in raster mode.

    Raises:
        ConfigError: if the device or precision is unknown or not there, or the batch size is under 1.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mode: Mode = "raster",
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        dropout: bool = True,
    ) -> None:
        if mode not in ("raster", "paper"):
            raise ConfigError(f"There is no mode {mode!r}; use raster or paper.")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"A batch of {batch_size} images is not possible; use 1 or more.")
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device, mode)
        self.name = f"torch {self.device.type} {str(self.dtype).removeprefix('torch.')}"
        self.noisy = (
            mode == "paper" and dropout and any(isinstance(m, NoiseDropout) and m.p > 0.0 for m in network.modules())
        )
        default = 4 if self.device.type == "cpu" else 16
        self.batch_size = 1 if mode == "paper" else batch_size or default
        self._generator: torch.Generator | None = None
        self._packed: PackedUNet | None = None
        self._network: nn.Module | None = None
        if mode == "paper":
            self._network = self._placed(per_image_statistics(network, dropout=self.noisy))
            if self.noisy:
                self._generator = torch.Generator(self.device)
                set_noise(self._network, self._generator)
        elif self.device.type == "cpu" and isinstance(network, UNet) and network.config.norm != "instance":
            self._packed = PackedUNet(network, self.dtype)
        else:
            self._network = self._placed(fold_batchnorm(network))

    def _placed(self, network: nn.Module) -> nn.Module:
        network.to(self.device, self.dtype)
        if self._memory_format == torch.channels_last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return network

    @property
    def _memory_format(self) -> torch.memory_format:
        """What cuDNN's tensor cores and oneDNN's bfloat16 want; float32 on a CPU does without."""
        wanted = self.device.type == "cuda" or self.dtype == torch.bfloat16
        return torch.channels_last if wanted else torch.contiguous_format

    def run(self, source: Tensor, seed: int = 0) -> Tensor:
        """float32 (N, C, H, W) in [-1, 1], any H and W -> float32 (N, D, H, W) in [-1, 1], on the same
        device.

        Args:
            source: on any device.
            seed: of the noise, where dropout is live; every image of the batch gets a field of its own.
        """
        with torch.no_grad():
            if self._packed is not None:
                return self._packed(source.to(self.device)).to(source.device)
            assert self._network is not None
            if self._generator is not None:
                self._generator.manual_seed(seed)
            x = source.to(self.device, self.dtype).contiguous(memory_format=self._memory_format)
            y: Tensor = self._network(x)
            return y.float().contiguous().to(source.device)


class OnnxBackend:
    """ONNX Runtime on a file that `terramorph.interop.export_onnx` wrote.

    Attributes:
        header: what the bundle said of itself; its mode is the exported one.

    Args:
        path: the .onnx file.
        threads: of ONNX Runtime within one operation; 0 lets it choose.
        batch_size: how many images `Translator` gives it at once; 1 in paper mode.

    Raises:
        MissingPackageError: if onnxruntime is not installed.
        BundleError: if the file is missing, damaged, or has no terramorph header.
    """

    noisy = False

    def __init__(self, path: str | Path, *, threads: int = 0, batch_size: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError(
                "ONNX Runtime is not installed; install it with pip install 'terramorph[onnx]'."
            ) from error
        path = Path(path)
        if not path.is_file():
            raise BundleError(f"There is no file {path}; export one with `terramorph export`.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base but Exception
            raise BundleError(
                f"{path} is damaged or not an ONNX file ({str(error).splitlines()[0]}); export it again."
            ) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.header = Header.model_validate_json(metadata["terramorph"])
        except (KeyError, ValidationError) as error:
            raise BundleError(
                f"{path} does not hold the terramorph header; export it again with `terramorph export`."
            ) from error
        self.name = f"onnxruntime {hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}"
        self.device = torch.device("cpu")
        self.batch_size = 1 if self.header.mode == "paper" else batch_size or 4

    def run(self, source: Tensor, seed: int = 0) -> Tensor:
        """float32 (N, C, H, W) in [-1, 1], any H and W -> float32 (N, D, H, W) in [-1, 1], on the same
        device."""
        x = source.to("cpu", torch.float32).contiguous().numpy()
        (y,) = self._session.run(["target"], {"source": x})
        return torch.from_numpy(y).to(source.device)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device a name means; `auto` is CUDA if there is one.

    Raises:
        ConfigError: if the name is unknown or there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"There is no device {device!r}; use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"The device {chosen.type} is not supported; use auto, cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"There is no device {chosen} here; use --device cpu, or install a CUDA build of torch.")
    return chosen


def resolve_precision(precision: str, device: torch.device, mode: Mode) -> torch.dtype:
    """float32 or bfloat16, by name or by what the hardware is good at.

    Raises:
        ConfigError: if the name is unknown.
    """
    if precision in ("fp32", "float32"):
        return torch.float32
    if precision in ("bf16", "bfloat16"):
        return torch.bfloat16
    if precision != "auto":
        raise ConfigError(f"There is no precision {precision!r}; use auto, fp32 or bf16.")
    return torch.bfloat16 if mode == "raster" and native_bf16(device) else torch.float32
