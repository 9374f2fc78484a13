"""From a file to a translator that is ready: bundles and exported networks, with what is fastest on this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from terramorph.bundle import Mode, load_bundle
from terramorph.errors import ConfigError
from terramorph.translate.backends import BackendName, TorchBackend, open_exported
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.translator import Translator
from terramorph.translate.tuning import TUNED, remembered


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
    tuned: Path = TUNED,
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
        tuned: where `terramorph doctor --bench` keeps what is fastest on this machine; see `translate.tuning`.

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
    # The bundle's float32 weights are gone by now, and much of what the packed ones were made from.
    release_freed_memory()
    if batch_size is None and translator.mode == "raster" and translator.device.type == "cpu":
        _tune(translator, tuned)
    return translator


def _tune(translator: Translator, notes: Path) -> None:
    """Takes the batch and the threads that were measured on this machine, if there is a note of them."""
    backend = translator.backend
    precision = "bf16" if isinstance(backend, TorchBackend) and backend.dtype == torch.bfloat16 else "fp32"
    tuning = remembered(translator.header, precision, notes)
    if tuning is not None:
        translator.batch_size = tuning.batch_size
        # Fewer threads than were allowed (OMP_NUM_THREADS) are never turned into more.
        torch.set_num_threads(min(tuning.threads, torch.get_num_threads()))
