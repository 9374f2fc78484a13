"""ONNX Runtime as a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terramorph.imports import needs
from terramorph.translate.backends.exported import check_file, damaged, digest, read_header


class OnnxBackend:
    """ONNX Runtime on a file that `terramorph.interop` wrote.

    Attributes:
        header: Header of the bundle; its mode is the exported one.
        noise_bands: Bands of the noise image; 0 where the generator takes its mean, as in all files except for the web.
        quality: Quality of an 8-bit file: kept, refused or unmeasured; None in float32.

    Args:
        path: The .onnx file.
        threads: Threads of ONNX Runtime within one operation; 0 lets it choose.
        batch_size: Images per pass of `Model`; 1 in paper mode.
        accept_quality_loss: Take an 8-bit file whose quality was refused when it was made.
    """

    noisy = False

    def __init__(
        self, path: str | Path, *, threads: int = 0, batch_size: int | None = None, accept_quality_loss: bool = False
    ) -> None:
        with needs("ONNX Runtime", "onnx"):
            import onnxruntime
        path = Path(path)
        check_file(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The arena keeps the most that was ever asked for: measured on windows of 1536 px, 2.2 GB instead of 1.5.
        options.enable_cpu_mem_arena = False
        # 8 bits on a processor with AVX2 and no VNNI: sums of its faster products overflow 16 bits without a word.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base but Exception
            raise damaged(path, error) from error
        properties = self._session.get_modelmeta().custom_metadata_map
        self.noise_bands: int = next((one.shape[1] for one in self._session.get_inputs() if one.name == "noise"), 0)
        self.header = read_header(path, properties, accept_quality_loss=accept_quality_loss)
        self.quality: str | None = properties.get("quality")
        self.name = f"onnxruntime {digest(path)}"
        self.device = torch.device("cpu")
        self.batch_size = 1 if self.header.mode == "paper" else batch_size or 4

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, H, W), on the same device."""
        x = source.to("cpu", torch.float32).contiguous().numpy()
        inputs = {"source": x}
        if self.noise_bands:
            given = torch.zeros(len(source), self.noise_bands, *source.shape[2:]) if noise is None else noise
            inputs["noise"] = given.to("cpu", torch.float32).contiguous().numpy()
        (y,) = self._session.run(["target"], inputs)
        return torch.from_numpy(y).to(source.device)

    def release(self) -> None:
        """Do nothing, for nothing is kept between calls."""
