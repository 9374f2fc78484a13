"""Export to ONNX for browsers: weights are stored small and widened once, when the file is loaded.

Arithmetic stays float32: a weight is followed by a `Cast`, and by a `Mul` with the scale of each output channel where
it is stored in 8 bits (symmetric, as Jacob et al. 2018, arXiv:1712.05877, section 2.1 with zero point 0). Runtimes fold
both as they load. A noise image is the second input, so that it can be fixed to the ground.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terramorph.bundle import Bundle
from terramorph.errors import ConfigError
from terramorph.interop.onnx import add_properties, build_model, noise_bands, write_model

Store = Literal["fp16", "int8", "fp32"]
WEB_LIMITS = dict.fromkeys(("miou", "lpips", "ssim"), 0.005)
"""Largest loss of quality of a network for browsers by metric; the first that has a score counts."""
_SMALL = 64
"""Tensors of fewer values stay as they are: biases, palettes, scales."""
_SENSITIVE = 2**13
"""Tensors of fewer values are never stored in 8 bits: those of the first and last layers and of single planes cost the
most quality and hardly any bytes (docs/results.md)."""


def export_web(bundle: Bundle, path: str | Path, *, store: Store = "fp16") -> Path:
    """Write a bundle's network for browsers, in raster mode; the file appears whole or not at all.

    Inputs and outputs are those of `export_onnx`, and `noise`, float32 (N, bands, H, W), normal, where the generator
    has a noise image. The metadata says `store`, `noise_bands`, `overlap` and `quality`: `unmeasured` until
    `note_loss` says more.

    Args:
        store: `fp16`, half of float32; `int8`, a quarter; or `fp32`, for comparing with.

    Raises:
        MissingPackageError: If the package onnx is not installed.
        ConfigError: If the network cannot be exported, or its weights do not fit into fp16.
        StorageError: If the file cannot be written.
    """
    model = build_model(bundle, "raster", noise=True)
    if store != "fp32":
        store_small(model, store)
    add_properties(
        model,
        store=store,
        noise_bands=str(noise_bands(bundle)),
        overlap=str(int(getattr(bundle.network, "overlap", 0) or bundle.header.size)),
        **({} if store == "fp32" else {"quality": "unmeasured"}),
    )
    return write_model(model, path)


def store_small(model: Any, store: Literal["fp16", "int8"]) -> None:
    """Store a ModelProto's float32 weights small, with nodes that widen them before use.

    Raises:
        ConfigError: If a weight does not fit into fp16.
    """
    from onnx import TensorProto, helper, numpy_helper

    # The output channels of weights are on the first axis, but in transposed convolutions.
    axes = {node.input[1]: 1 for node in model.graph.node if node.op_type == "ConvTranspose"}
    kept, before = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALL:
            kept.append(tensor)
            continue
        name = tensor.name
        stored, wide = f"{name}/stored", f"{name}/wide"
        if store == "int8" and values.ndim > 1 and values.size >= _SENSITIVE:
            small, scale = _in_8_bits(values, axes.get(name, 0))
            kept.append(numpy_helper.from_array(scale, f"{name}/scale"))
            before.append(helper.make_node("Cast", [stored], [wide], to=TensorProto.FLOAT))
            before.append(helper.make_node("Mul", [wide, f"{name}/scale"], [name]))
        else:
            small = values.astype(np.float16)
            if not np.isfinite(small).all():
                raise ConfigError(f"The weight {name} holds {np.abs(values).max():.3g}, which does not fit into fp16.")
            before.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        kept.append(numpy_helper.from_array(small, stored))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _in_8_bits(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights as int8, and the scale of each channel of an axis, shaped to be multiplied with them."""
    others = tuple(number for number in range(values.ndim) if number != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0.0, largest / 127.0, 1.0).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale
