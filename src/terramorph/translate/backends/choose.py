"""Backends by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from terramorph.errors import ConfigError
from terramorph.translate.backends.onnx import OnnxBackend
from terramorph.translate.backends.openvino import OpenVinoBackend

BackendName = Literal["torch", "onnxruntime", "openvino"]


def open_exported(
    path: str | Path,
    name: BackendName | None,
    device: str | torch.device,
    precision: str,
    batch_size: int | None,
    accept_quality_loss: bool,
) -> OnnxBackend | OpenVinoBackend:
    """Return the backend for an exported .onnx file.

    Raises:
        ConfigError: If the name is unknown, or the backend does not support a setting.
        MissingPackageError: If the backend is not installed.
        BundleError: See `OnnxBackend`.
    """
    if name not in (None, "onnxruntime", "openvino"):
        raise ConfigError(
            f"The backend {name} does not run exported files such as {path}; use onnxruntime or openvino."
        )
    if str(device) not in ("auto", "cpu"):
        raise ConfigError(f"{path} is an exported network and runs on the CPU; leave out `device` {device}.")
    if name == "openvino":
        return OpenVinoBackend(
            path, precision=precision, batch_size=batch_size, accept_quality_loss=accept_quality_loss
        )
    if precision in ("bf16", "bfloat16"):
        raise ConfigError(
            f"ONNX Runtime does not compute {path} in bf16; use `backend` openvino, or the bundle itself."
        )
    return OnnxBackend(path, batch_size=batch_size, accept_quality_loss=accept_quality_loss)
