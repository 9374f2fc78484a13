"""OpenVINO as a backend."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terramorph.bundle import Mode
from terramorph.errors import ConfigError
from terramorph.imports import needs
from terramorph.translate.backends.exported import check_file, damaged, digest, read_header
from terramorph.translate.backends.protocol import resolve_precision

KEPT_SHAPES = 2
"""Networks compiled for one shape each that are kept. A network for any shape is three times slower, and compiling
one takes about as long as a dozen tiles."""


class OpenVinoBackend:
    """OpenVINO on a file that `terramorph.interop.export_onnx` or `export_int8` wrote, on the CPU.

    The network is compiled again for every shape of input. What of an 8-bit file is not in 8 bits is computed in
    float32.

    Attributes:
        header: Header of the bundle; its mode is the exported one.

    Args:
        path: The .onnx file.
        precision: `fp32`, `bf16`, or `auto`: as for `TorchBackend`.
        threads: Number of threads; 0 lets OpenVINO choose.
        batch_size: Images per pass of `Model`; 1 in paper mode.
        accept_quality_loss: Take an 8-bit file whose quality was refused when it was made.
    """

    noisy = False
    noise_bands = 0  # an exported generator sees the mean of its noise

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
        path = Path(path)
        check_file(path)
        self._core: Any = openvino.Core()
        try:
            self._model: Any = self._core.read_model(path)
        except Exception as error:  # its errors share no base but Exception
            raise damaged(path, error) from error
        if len(self._model.inputs) > 1:
            raise ConfigError(f"{path} takes a noise image, for the web; OpenVINO runs files exported without `web`.")
        properties = _properties(self._model)
        self.header = read_header(path, properties, accept_quality_loss=accept_quality_loss)
        self.dtype = _resolve(path, precision, self.header.mode, "quality" in properties)
        self.name = f"openvino {str(self.dtype).removeprefix('torch.')} {digest(path)}"
        self.device = torch.device("cpu")
        self.batch_size = 1 if self.header.mode == "paper" else batch_size or 4
        self._options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, H, W), on the same device."""
        x = source.to("cpu", torch.float32).contiguous()
        with self._lock:
            request = self._request(tuple(x.shape))
            request.infer({"source": x.numpy()})
            # The request's own memory, which the next call writes to.
            y = torch.from_numpy(request.get_output_tensor(0).data).clone()
        return y.to(source.device)

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


def _properties(model: Any) -> dict[str, str]:
    """Read the metadata of an ONNX file, which OpenVINO keeps under the name of its framework."""
    return dict(model.get_rt_info("framework").value) if model.has_rt_info("framework") else {}


def _resolve(path: Path, precision: str, mode: Mode, eight_bit: bool) -> torch.dtype:
    """Return float32 or bfloat16; float32 beside 8 bits."""
    if eight_bit and precision in ("bf16", "bfloat16"):
        raise ConfigError(f"{path} is in 8 bits, and the rest of it in float32; leave out `precision` {precision}.")
    dtype = resolve_precision(precision, torch.device("cpu"), mode)
    return torch.float32 if eight_bit else dtype
