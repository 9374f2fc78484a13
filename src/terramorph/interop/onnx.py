"""Export to ONNX, for any batch, height and width, by torch's exporter.

The tracing exporter is used (`dynamo=False`): the one on torch.export fixes sizes where a network extends its input to
a multiple of its stride, and needs another package. The graph is compared with the network at other sizes than the
traced one before a file appears.

In raster mode batch norm is folded into the convolutions. In paper mode every image is normalised by its own
statistics. **Dropout is off in both**, and a noise image is its mean, 0, unless it is an input: a file with random
output could not be compared with anything. For samples, translate in mode paper.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.bundle import Bundle, Mode
from terramorph.errors import ConfigError, reason_of
from terramorph.imports import needs
from terramorph.networks.inference import fold_batchnorm, per_image_statistics

OPSET = 17
IR_VERSION = 8
_TOLERANCE = 1e-2
"""Largest difference from torch, in [-1, 1]; a graph with a size written into it is off by far more."""


def export_onnx(bundle: Bundle, path: str | Path, *, mode: Mode | None = None) -> Path:
    """Write a bundle's network as ONNX; the file appears whole or not at all.

    The input `source` is float32 (N, C, H, W) and the output `target` float32 (N, D, H, W), both in [-1, 1],
    for any N, H and W from 1. The metadata property `terramorph` holds the bundle's header as JSON, with the
    exported mode.

    Args:
        bundle: Any; a generator of one's own must be traceable.
        mode: Default: the bundle's own. Dropout is off in both; see the module's text.

    Returns:
        The path.

    Raises:
        MissingPackageError: If the package onnx is not installed.
        ConfigError: If the network cannot be exported.
        StorageError: If the file cannot be written.
    """
    return write_model(build_model(bundle, mode or bundle.header.mode), path)


def build_model(bundle: Bundle, mode: Mode, *, noise: bool = False) -> Any:
    """Return the ModelProto of `export_onnx`.

    Args:
        bundle, mode: See `export_onnx`.
        noise: Give a generator that has a noise image a second input for it: `noise`, float32 (N, bands, H, W).

    Raises:
        MissingPackageError: If the package onnx is not installed.
        ConfigError: If the network cannot be exported.
    """
    with needs("ONNX", "onnx"):
        import onnx
    paper, header = mode == "paper", bundle.header
    ready = per_image_statistics(bundle.network, dropout=False) if paper else fold_batchnorm(bundle.network)
    form = getattr(ready, "for_export", None)
    network = (ready if form is None else form()).eval()
    what = header.architecture.name
    bands = noise_bands(bundle) if noise else 0
    try:
        model = onnx.load_from_string(_traced(network, _images(bundle, 1, bands)))
    except Exception as error:  # torch's and the network's own
        raise ConfigError(f"The generator {what} cannot be exported to ONNX ({reason_of(error)}).") from error
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "terramorph", __version__
    properties = header.model_copy(update={"mode": mode}).model_dump_json()
    add_properties(model, terramorph=properties, mode=mode, dropout="off")
    _require_equal(model, ready, _images(bundle, 2, bands), what)
    return model


def noise_bands(bundle: Bundle) -> int:
    """Return the bands of the noise image that a bundle's generator takes; 0 for none."""
    return int(getattr(bundle.network, "noise", 0))


def write_model(model: Any, path: str | Path) -> Path:
    """Check a ModelProto and write it; the file appears whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    import onnx

    onnx.checker.check_model(model)
    with atomic(Path(path), make_folder=True) as part:
        part.write_bytes(model.SerializeToString())
    return Path(path)


def add_properties(model: Any, **properties: str) -> None:
    """Add to a ModelProto's metadata."""
    import onnx

    there = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**there, **properties})


def _images(bundle: Bundle, number: int, noise: int) -> dict[str, Tensor]:
    """Return inputs by name, float32 (number, C, H, W), their size another for each number and no multiple of the
    stride."""
    generator = torch.Generator().manual_seed(number)
    # In paper mode planes of two pixels make large differences of rounding errors; a stride of 32 leaves six here.
    side = max(bundle.header.stride, 64)
    size = (side + number, side // 2 + 3 * number)
    made = {"source": torch.rand(number, bundle.header.source.count, *size, generator=generator) * 2 - 1}
    if noise:
        made["noise"] = torch.randn(number, noise, *size, generator=generator)
    return made


@torch.no_grad()
def _traced(network: nn.Module, inputs: dict[str, Tensor]) -> bytes:
    """Return the bytes of the traced network's file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it traces, and is old
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["target"],
            dynamic_axes={name: {0: "batch", 2: "height", 3: "width"} for name in (*inputs, "target")},
        )
    return buffer.getvalue()


def _require_equal(model: Any, network: nn.Module, inputs: dict[str, Tensor], what: str) -> None:
    """Compare the graph with the network on images of another size than the traced one, if onnxruntime is installed."""
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with torch.no_grad():
        expected: Tensor = network(*inputs.values())
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (found,) = session.run(["target"], {name: image.numpy() for name, image in inputs.items()})
        equal = found.shape == tuple(expected.shape) and np.abs(found - expected.numpy()).max() <= _TOLERANCE
    except Exception:  # its errors share no base but Exception
        equal = False
    if not equal:
        raise ConfigError(
            f"The generator {what} cannot be exported to ONNX: its graph, traced at one size, computes something else "
            "at another; let its forward take sizes from its input by operations of torch."
        )
