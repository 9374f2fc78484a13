"""Export to ONNX with small weights: in 8 bits, for browsers, and what the smaller weights cost.

In 8 bits a network is quantised after training, on calibration pairs. Weights are int8, one scale an output channel;
what flows between the layers is uint8, one scale a tensor, measured on training images (Jacob et al. 2018,
arXiv:1712.05877, equation 1: real = scale * (stored - zero point)). The range of a tensor is that of 99.999 % of its
values. The first and the last convolution stay in float32: the one decides what is seen at all, the other makes the
pixels, and together they are a small part of the arithmetic.

For browsers weights are stored small and widened once, when the file is loaded. Arithmetic stays float32: a weight is
followed by a `Cast`, and by a `Mul` with the scale of each output channel where it is stored in 8 bits (symmetric, as
Jacob et al., section 2.1 with zero point 0). Runtimes fold both as they load. A noise image is the second input, so
that it can be fixed to the ground.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terramorph.bundle import Bundle
from terramorph.data import DEFAULT_CACHE, TrainingBatches, batches_as_trained
from terramorph.errors import ConfigError, InputError, StorageError, raised_as
from terramorph.imports import needs
from terramorph.interop.onnx import add_properties, build_model, noise_bands, write_model
from terramorph.metrics import METRICS

QUANTISED = ("Conv", "Relu", "LeakyRelu", "Concat", "DepthToSpace", "Slice", "Add")
INT8_LIMITS = {"miou": 0.01, "psnr": 0.2}
"""Largest loss of quality of a network in 8 bits by metric; PSNR, in dB, counts where the target has no classes."""
Store = Literal["fp16", "int8", "fp32"]
WEB_LIMITS = dict.fromkeys(("miou", "lpips", "ssim"), 0.005)
"""Largest loss of quality of a network for browsers by metric; the first that has a score counts."""
_SMALL = 64
"""Of a network for browsers, tensors of fewer values stay as they are: biases, palettes, scales."""
_SENSITIVE = 2**13
"""Of a network for browsers, tensors of fewer values are never stored in 8 bits: those of the first and last layers and
of single planes cost the most quality and hardly any bytes (docs/results.md)."""


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

        # Of a file that did not reach the disk whole.
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnxruntime import quantization
    model = build_model(bundle, "raster")
    batches = batches_as_trained(dataset, bundle.header, cache=cache, skip_bad=skip_bad)
    sources = _Sources(batches, images, progress)
    failed, advice = f"The temporary folder {tempfile.gettempdir()} cannot be written", "free some space, or set TMPDIR"
    with (
        raised_as(StorageError, failed, advice, OSError, DecodeError),
        tempfile.TemporaryDirectory() as folder,
        _quiet(),
    ):
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


@dataclass(frozen=True)
class QualityLoss:
    """Quality lost by small weights, on pairs of source and truth.

    Attributes:
        metric: Key of `terramorph.metrics.METRICS`.
        before, after: Its value with float32 weights, and with those of the file.
        pairs: Number of pairs.
        of: Name of the pairs, for people.
        limit: Largest loss with which the file is kept.
    """

    metric: str
    before: float
    after: float
    pairs: int
    of: str
    limit: float

    @staticmethod
    def between(
        before: Mapping[str, Any], after: Mapping[str, Any], of: str, limits: Mapping[str, float]
    ) -> QualityLoss:
        """Compare two evaluations by the first metric of the limits that has a score."""
        metric = next(key for key in limits if before[key] is not None)
        return QualityLoss(metric, before[metric], after[metric], after["n"], of, limits[metric])

    @property
    def value(self) -> float:
        """The loss; negative where the file is better."""
        change = self.before - self.after
        return change if METRICS[self.metric].higher_is_better else -change

    @property
    def refused(self) -> bool:
        """Whether the loss is more than the limit."""
        return not self.value <= self.limit

    def __str__(self) -> str:
        name = METRICS[self.metric].name
        change = f"a {'gain' if self.value < 0 else 'loss'} of {abs(self.value):.4f}"
        return f"{name} {self.before:.4f} to {self.after:.4f}, {change}, on {self.pairs} {self.of}"


def note_loss(path: str | Path, loss: QualityLoss) -> None:
    """Write into an exported file what its small weights cost, and whether it is kept or refused.

    Raises:
        StorageError: If the file cannot be written.
    """
    import onnx

    model = onnx.load(str(path))
    quality, scores = "refused" if loss.refused else "kept", {**asdict(loss), "value": loss.value}
    add_properties(model, quality=quality, quality_loss=str(loss), quality_scores=json.dumps(scores))
    write_model(model, path)
