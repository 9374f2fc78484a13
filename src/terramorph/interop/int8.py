"""Export to ONNX in 8 bits: quantised after training, on calibration pairs.

Weights are int8, one scale an output channel; what flows between the layers is uint8, one scale a tensor, measured on
training images (Jacob et al. 2018, arXiv:1712.05877, equation 1: real = scale * (stored - zero point)). The range of a
tensor is that of 99.999 % of its values. The first and the last convolution stay in float32: the one
decides what is seen at all, the other makes the pixels, and together they are a small part of the arithmetic.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.bundle import Bundle
from terramorph.data import DEFAULT_CACHE, TrainingBatches, batches_as_trained
from terramorph.errors import ConfigError, InputError
from terramorph.imports import needs
from terramorph.interop.onnx import add_properties, build_model, write_model

QUANTISED = ("Conv", "Relu", "LeakyRelu", "Concat", "DepthToSpace", "Slice", "Add")
INT8_LIMITS = {"miou": 0.01, "psnr": 0.2}
"""Largest loss of quality of a network in 8 bits by metric; PSNR, in dB, counts where the target has no classes."""


def export_int8(
    bundle: Bundle,
    path: str | Path,
    dataset: str | Path,
    *,
    images: int = 100,
    cache: Path = DEFAULT_CACHE,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a bundle's network in 8 bits, for raster mode; the file appears whole or not at all.

    Inputs, outputs and metadata are those of `export_onnx`, and the property `quality` is `unmeasured` until
    `note_loss` says more. ONNX Runtime and OpenVINO run it.

    Args:
        bundle: Its network must have convolutions.
        dataset: Folder of pairs; its train split is resized and cut as it was in training.
        images: How many pairs of it the ranges are measured on (all if there are fewer).
        skip_bad: Leave out pairs that cannot be read.
        progress: Called with (images done, images).

    Raises:
        MissingPackageError: If onnx or onnxruntime is not installed.
        ConfigError: If the network is of another kind.
        DatasetError: If the pairs cannot be used, or are not of the bundle's bands and dtype.
        InputError: If the number of images is under 1.
        StorageError: If the file cannot be written.
    """
    if images < 1:
        raise InputError(f"`images` must be >= 1, got {images}: ranges are measured on them.")
    with needs("ONNX Runtime", "onnx"):
        import onnx
        from onnxruntime import quantization
    model = build_model(bundle, "raster")
    batches = batches_as_trained(dataset, bundle.header, cache=cache, skip_bad=skip_bad)
    sources = _Sources(batches, images, progress)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(model.SerializeToString())
        quantization.quantize_static(
            plain,
            made,
            sources,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=_kept_in_float(model),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            # One image at a time: the values of all layers of a hundred would not fit in memory.
            extra_options={"CalibStridedMinMax": 1},
        )
        quantised = onnx.load(str(made))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    add_properties(quantised, **{**properties, "quality": "unmeasured"})
    return write_model(quantised, path)


def _kept_in_float(model: Any) -> list[str]:
    """Return the names of the nodes before the first convolution and from the last layer on.

    The last layer is all convolutions that the last activation feeds: four where it is a doubled one.
    """
    nodes = list(model.graph.node)
    kinds = [node.op_type for node in nodes]
    if "Conv" not in kinds:
        raise ConfigError("This network has no convolution that could be in 8 bits; export it without `int8`.")
    first, last = kinds.index("Conv"), len(kinds) - 1 - kinds[::-1].index("Conv")
    source = nodes[last].input[0]
    start = next(place for place, node in enumerate(nodes) if node.op_type == "Conv" and source in node.input)
    return [node.name for node in (*nodes[: first + 1], *nodes[start:])]


class _Sources:
    """Training images as ONNX Runtime's calibration reads them: one at a time, by number."""

    def __init__(self, batches: TrainingBatches, images: int, progress: Callable[[int, int], None] | None) -> None:
        self._batches = batches
        self._count = min(images, len(self._batches.pairs))
        self._progress, self._stdout = progress, sys.stdout
        self._numbers = iter(range(self._count))

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        """Set which images come next."""
        self._numbers = iter(range(start_index, min(end_index, self._count)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return float32 (1, C, H, W) in [-1, 1] by the input's name; None at the end."""
        number = next(self._numbers, None)
        if number is None:
            return None
        if self._progress is not None:
            with redirect_stdout(self._stdout):  # `_quiet` is for others
                self._progress(number + 1, self._count)
        return {"source": self._batches.batch(number, 1).source.contiguous().numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what ONNX Runtime's quantisation prints, and the advice that it logs to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
