"""A bundle's network as ONNX, for any batch, height and width.

The graph is written node by node, not traced: padding to the stride and cropping back then work for every size, in the
file as in PyTorch, and the file does not change with the version of torch's exporter.

In raster mode batch norm is folded into the convolutions. In paper mode every image is normalised by its own
statistics. **Dropout is off in both**: a file whose output is random could not be compared with anything;
for samples with live dropout use `terramorph translate --mode paper --samples`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.bundle import Bundle, Mode
from terramorph.errors import ConfigError, MissingPackageError
from terramorph.networks import InstanceNorm, NoiseDropout, ResNet, UNet
from terramorph.networks.inference import PerImageNorm, doubling_kernels, fold_batchnorm, per_image_statistics

OPSET = 17
IR_VERSION = 8


def export_onnx(bundle: Bundle, path: str | Path, *, mode: Mode | None = None) -> Path:
    """Writes a bundle's network as ONNX; the file appears whole or not at all.

    The input `source` is float32 (N, C, H, W) and the output `target` float32 (N, D, H, W), both in [-1, 1],
    for any N, H and W from 1. The metadata property `terramorph` holds the bundle's header as JSON, with the
    exported mode.

    Args:
        bundle: with a U-Net or ResNet.
        path: the file to write.
        mode: default: the bundle's own. Dropout is off in both; see the module's text.

    Returns:
        The path.

    Raises:
        MissingPackageError: if the package onnx is not installed.
        ConfigError: if the network is of another kind.
        StorageError: if the file cannot be written.
    """
    return write_model(build_model(bundle, mode or bundle.header.mode), path)


def build_model(bundle: Bundle, mode: Mode) -> Any:
    """The ModelProto of `export_onnx`.

    Raises:
        MissingPackageError: if the package onnx is not installed.
        ConfigError: if the network is of another kind.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError(
            "Writing ONNX needs the package onnx; install it with pip install 'terramorph[onnx]'."
        ) from error
    paper = mode == "paper"
    network = per_image_statistics(bundle.network, dropout=False) if paper else fold_batchnorm(bundle.network)
    graph = _Graph()
    smallest = 8 if isinstance(network, ResNet) else 1
    padded, height, width = graph.pad("source", bundle.header.stride, smallest)
    if isinstance(network, UNet):
        output = _unet(graph, network, padded)
    elif isinstance(network, ResNet):
        output = graph.module(network.layers, padded, "layers")
    else:
        raise ConfigError(f"A {type(network).__name__} is not exported; U-Net and ResNet generators are.")
    graph.crop(output, height, width)
    model = graph.model(onnx, bundle.header.source.count, bundle.header.target.count)
    header = bundle.header.model_copy(update={"mode": mode})
    onnx.helper.set_model_props(model, {"terramorph": header.model_dump_json(), "mode": mode, "dropout": "off"})
    return model


def write_model(model: Any, path: str | Path) -> Path:
    """Checks a ModelProto and writes it; the file appears whole or not at all.

    Raises:
        StorageError: if the file cannot be written.
    """
    import onnx

    onnx.checker.check_model(model)
    with atomic(Path(path), make_folder=True) as part:
        part.write_bytes(model.SerializeToString())
    return Path(path)


class _Graph:
    """Nodes and constants, collected; a value is called by its name, and a node by its output's."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One node with one output; its name."""
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append((kind, list(inputs), name, attributes))
        return name

    def whole(self, *values: int) -> str:
        """A constant: a scalar for one value, otherwise a vector; int64."""
        name = "int_" + "_".join(str(value) for value in values)
        self.constants[name] = np.array(values[0] if len(values) == 1 else values, np.int64)
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        """A constant of a tensor."""
        self.constants[name] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        return name

    def pad(self, x: str, stride: int, smallest: int) -> tuple[str, str, str]:
        """Extends height and width by reflection to a multiple of the stride, as `networks.on_stride` does.

        Args:
            x: (N, C, H, W).
            stride: pixels.
            smallest: pixels that a side has at least.

        Returns:
            The extended image, and the scalars H and W.
        """
        shape = self.add("Shape", x)
        sides = [self.add("Gather", shape, self.whole(axis), axis=0) for axis in (2, 3)]
        step = self.whole(stride)
        for axis, length in zip((2, 3), sides, strict=True):
            # Mod has the sign of the divisor for integers: -length mod step is what is missing.
            total = self.add("Add", length, self.add("Mod", self.add("Neg", length), step))
            total = self.add("Max", total, self.whole(smallest)) if smallest > stride else total
            last = self.add("Sub", length, self.whole(1))
            period = self.add("Max", self.add("Mul", last, self.whole(2)), self.whole(1))
            index = self.add("Mod", self.add("Range", self.whole(0), total, self.whole(1)), period)
            beyond = self.add("GreaterOrEqual", index, length)
            index = self.add("Where", beyond, self.add("Sub", period, index), index)
            x = self.add("Gather", x, index, axis=axis)
        return x, sides[0], sides[1]

    def crop(self, x: str, height: str, width: str) -> None:
        """Cuts (N, D, H', W') back to (N, D, H, W); the graph's output."""
        ends = self.add("Concat", *(self.add("Unsqueeze", side, self._vector(0)) for side in (height, width)), axis=0)
        self.add("Slice", x, self.whole(0, 0), ends, self.whole(2, 3), out="target")

    def _vector(self, value: int) -> str:
        name = f"vector_{value}"
        self.constants[name] = np.array([value], np.int64)
        return name

    def module(self, module: nn.Module, x: str, name: str) -> str:
        """The nodes of a module.

        Raises:
            ConfigError: if it is of a kind that the exporter does not know.
        """
        if isinstance(module, nn.Sequential):
            for index, part in enumerate(module):
                x = self.module(part, x, f"{name}.{index}")
            return x
        if isinstance(module, nn.Identity | NoiseDropout):
            return x
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            return self._convolution(module, x, name)
        if isinstance(module, InstanceNorm | PerImageNorm):
            return self._instance_norm(module, x, name)
        if isinstance(module, nn.ReflectionPad2d):
            left, right, top, bottom = module.padding
            pads = self.whole(0, 0, top, left, 0, 0, bottom, right)
            return self.add("Pad", x, pads, mode="reflect")
        if isinstance(module, nn.ReLU):
            return self.add("Relu", x)
        if isinstance(module, nn.Tanh):
            return self.add("Tanh", x)
        children = dict(module.named_children())
        if set(children) == {"layers"}:  # a residual block
            return self.add("Add", x, self.module(children["layers"], x, f"{name}.layers"))
        raise ConfigError(f"A {type(module).__name__} is not exported; teach it to terramorph.interop.onnx.")

    def doubled(self, conv: nn.ConvTranspose2d, norm: nn.Module, x: str, name: str, *, relu: bool) -> str:
        """The nodes of a U-Net's transposed convolution, the norm after it and, if asked for, the activation.

        A 4x4 kernel of stride 2 and padding 1 is written as four 2x2 convolutions, one for each pixel of a 2x2 block,
        and a shuffle that puts them in place: the same sums, for which runtimes have faster kernels, above all in 8
        bits.
        """
        if conv.kernel_size != (4, 4) or not isinstance(norm, nn.Identity):
            y = self.module(norm, self.module(conv, x, name), f"{name}.norm")
            return self.add("Relu", y) if relu else y
        bias = [] if conv.bias is None else [self.weight(f"{name}.bias", conv.bias)]
        parts = []
        for number, kernel in enumerate(doubling_kernels(conv.weight)):
            row, column = divmod(number, 2)
            inputs = [x, self.weight(f"{name}.weight.{row}{column}", kernel), *bias]
            pads = [1 - row, 1 - column, row, column]
            part = self.add("Conv", *inputs, kernel_shape=[2, 2], strides=[1, 1], pads=pads)
            # Before the shuffle: what is not negative has no zero point in 8 bits, which OpenVINO cannot shuffle.
            parts.append(self.add("Relu", part) if relu else part)
        return self.add("DepthToSpace", self.add("Concat", *parts, axis=1), blocksize=2, mode="DCR")

    def _convolution(self, conv: nn.Conv2d | nn.ConvTranspose2d, x: str, name: str) -> str:
        inputs = [x, self.weight(f"{name}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self.weight(f"{name}.bias", conv.bias))
        rows, columns = (int(p) for p in conv.padding)
        attributes: dict[str, Any] = {
            "kernel_shape": list(conv.kernel_size),
            "strides": list(conv.stride),
            "pads": [rows, columns, rows, columns],
        }
        if isinstance(conv, nn.ConvTranspose2d):
            return self.add("ConvTranspose", *inputs, output_padding=list(conv.output_padding), **attributes)
        return self.add("Conv", *inputs, **attributes)

    def _instance_norm(self, norm: InstanceNorm | PerImageNorm, x: str, name: str) -> str:
        if isinstance(norm, PerImageNorm):
            assert norm.weight is not None
            assert norm.bias is not None
            scale, shift = norm.weight, norm.bias
        else:
            scale, shift = torch.ones(norm.channels), torch.zeros(norm.channels)
        inputs = self.weight(f"{name}.weight", scale), self.weight(f"{name}.bias", shift)
        return self.add("InstanceNormalization", x, *inputs, epsilon=float(norm.eps))

    def model(self, onnx: Any, in_bands: int, out_bands: int) -> Any:
        """The ModelProto."""
        helper, numbers = onnx.helper, onnx.numpy_helper
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [
                helper.make_node(kind_, inputs, [out], name=out, **attributes)
                for kind_, inputs, out, attributes in self.nodes
            ],
            "terramorph",
            [helper.make_tensor_value_info("source", kind, ["batch", in_bands, "height", "width"])],
            [helper.make_tensor_value_info("target", kind, ["batch", out_bands, "height", "width"])],
            [numbers.from_array(array, name) for name, array in self.constants.items()],
        )
        return helper.make_model(
            graph,
            producer_name="terramorph",
            producer_version=__version__,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )


def _unet(graph: _Graph, network: UNet, x: str) -> str:
    """The nodes of `UNet._run`. relu(leaky_relu(x)) is relu(x): what the decoder sees of the encoder."""
    skips = []
    last = len(network.down) - 1
    for level, (conv, norm) in enumerate(zip(network.down, network.down_norm, strict=True)):
        x = graph.module(norm, graph.module(conv, x, f"down.{level}"), f"down_norm.{level}")
        if level < last:
            x = graph.add("LeakyRelu", x, alpha=0.2)
            skips.append(graph.add("Relu", x))
    x = graph.add("Relu", x)
    for index, (conv, norm) in enumerate(zip(network.up, network.up_norm, strict=True)):
        assert isinstance(conv, nn.ConvTranspose2d)
        x = graph.doubled(conv, norm, x, f"up.{index}", relu=True)
        x = graph.add("Concat", skips.pop(), x, axis=1)
    assert isinstance(network.head, nn.ConvTranspose2d)
    return graph.add("Tanh", graph.doubled(network.head, nn.Identity(), x, "head", relu=False))
