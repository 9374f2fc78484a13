"""From a file to a translator that is ready: bundles and exported networks."""

from __future__ import annotations

from pathlib import Path

import torch

from terramorph.bundle import Mode, load_bundle
from terramorph.errors import ConfigError
from terramorph.translate.backends import BackendName, open_exported
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.translator import Translator


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
) -> Translator:
    """Reads a bundle, or a network exported to ONNX, ready to translate.

        model = terramorph.load("model.safetensors")
        map_raster = model.translate("aerial.tif")

    Args:
        path: a .safetensors bundle, a run's folder, a bare name in the folder `models`, or an exported .onnx file
            (which runs on the CPU, in the mode it was exported in).
        mode, device, precision, seed, batch_size, dropout, any_resolution: see `Translator`.
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
        return Translator(exported.header, seed=seed, any_resolution=any_resolution, backend=exported)
    if backend not in (None, "torch"):
        raise ConfigError(
            f"The backend {backend} does not run bundles; use torch, or onnxruntime and openvino on a file that "
            f"`terramorph export {path} model.onnx` makes."
        )
    translator = Translator(
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
    return translator
