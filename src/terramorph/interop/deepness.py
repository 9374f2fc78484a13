"""Export for Deepness, the QGIS plug-in that runs ONNX networks on a raster layer.

Deepness (https://github.com/PUTvision/qgis-plugin-deepness) reads its settings from the file: metadata properties, each
a JSON document. It takes square tiles of one fixed size, divides their values by 255 and standardizes them; of a model
of type Segmentor it takes a probability per class, and makes polygons of the most probable classes. So the network is
followed here by the palette of its map: a 1 x 1 convolution that compares each pixel with the palette's colours, and a
softmax.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.bundle import Bundle, Header
from terramorph.cartography import CLASSIC, Palette
from terramorph.errors import ConfigError
from terramorph.interop.onnx import build_model, write_model
from terramorph.pixels import Scaling

TILE = 512
"""Side of a tile in pixels, where the network asks for no more."""
OVERLAP = 25
"""Per cent of a tile's side that neighbours share, where the receptive field is not bounded. On a town of 1,536 px
99.8 % of pixels have the class that one pass over all gives; with 50 per cent 99.96 %, at 2.2 times the cost."""
_FAR = 1024.0
"""Grey levels below 0 of a colour that no pixel is near to."""
_SPREAD = 10.0
"""Grey levels around a palette colour over which its class becomes half as probable or so; classes are not changed."""


def export_deepness(bundle: Bundle, path: str | Path, *, palette: Palette = CLASSIC) -> Path:
    """Write a map-making bundle as an ONNX file for Deepness; the file appears whole or not at all.

    The input `source` is float32 (1, C, tile, tile) in [-1, 1], the output `classes` float32 (1, K, tile, tile): the
    probabilities of the palette's classes, which add up to 1. The most probable class of a pixel is that of
    `Palette.classify` on the picture that the network makes, rounded to uint8. Mode raster. Opset 17, IR version 8.
    Tiles are 512 px, or what training size and halo need; neighbours share what the halo needs, 25 % without one.

    Args:
        bundle: One that makes a map in three bands of uint8 from bands of uint8.
        palette: Palette of the map that the bundle makes.

    Returns:
        The path.

    Raises:
        MissingPackageError: If the package onnx is not installed.
        ConfigError: If the bundle makes no map or takes no uint8, or the network cannot be exported.
        StorageError: If the file cannot be written.
    """
    header = bundle.header
    _check(header)
    halo = header.halo or 0
    tile = math.ceil(max(TILE, header.size, 4 * halo) / header.stride) * header.stride
    model = build_model(bundle, "raster")
    _fix_size(model, tile)
    _append_palette(model, palette, header.target.scaling)
    settings: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(palette.names)),
        "tile_size": tile,
        "tiles_overlap": OVERLAP if header.halo is None else math.ceil(200 * halo / tile),
        "standardization_mean": [header.source.scaling.middle / 255] * header.source.count,
        "standardization_std": [header.source.scaling.half / 255] * header.source.count,
        # Off: the most probable class of a pixel is its class, and no area is too small.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    if header.ground_resolution is not None:
        settings["resolution"] = 100 * header.ground_resolution  # centimetres per pixel
    for key, value in settings.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return write_model(model, path)


def _check(header: Header) -> None:
    """Refuse bundles that Deepness has no use for."""
    source, target = header.source, header.target
    if header.direction != "AtoB" or target.count != 3 or target.dtype != "uint8":
        made = "photographs" if header.direction == "BtoA" else f"{target.count} bands of {target.dtype}"
        raise ConfigError(
            f"Deepness turns map classes into polygons, and this bundle makes {made}; its only type for pictures, "
            "Superresolution, lays tiles side by side with seams: show such a model in QGIS through a server instead."
        )
    if source.dtype != "uint8":
        raise ConfigError(f"Deepness reads pixels of uint8, and this bundle takes {source.dtype}.")


def _fix_size(model: Any, tile: int) -> None:
    """Fix batch size, height and width in the graph's input and output."""
    for value in (model.graph.input[0], model.graph.output[0]):
        dimensions = value.type.tensor_type.shape.dim
        for axis, size in ((0, 1), (2, tile), (3, tile)):
            dimensions[axis].dim_value = size
    del model.graph.value_info[:]  # what they said of free sizes


def _append_palette(model: Any, palette: Palette, target: Scaling) -> None:
    """Append the palette: pixels in [-1, 1] become class probabilities."""
    from onnx import helper, numpy_helper

    graph, (output,) = model.graph, model.graph.output
    constants: dict[str, Any] = {
        "palette.half": np.float32(target.half),
        "palette.middle": np.float32(target.middle),
        "palette.low": np.float32(target.low),
        "palette.high": np.float32(target.high),
        "palette.scale": np.float32(0.5 / _SPREAD**2),
    }
    nodes = [
        helper.make_node("Mul", [output.name, "palette.half"], ["palette.spread"]),
        helper.make_node("Add", ["palette.spread", "palette.middle"], ["palette.floats"]),
        helper.make_node("Clip", ["palette.floats", "palette.low", "palette.high"], ["palette.clipped"]),
        # As a picture is rounded: half to even. So classes are those of the picture.
        helper.make_node("Round", ["palette.clipped"], ["palette.levels"]),
    ]
    scores = []
    for number, colours in enumerate(_colours_of_classes(palette)):
        # ||x - c||^2 = ||x||^2 - (2 x.c - ||c||^2), and ||x||^2 is the same for every c. Whole numbers under 2^24.
        constants[f"palette.weight{number}"] = (2 * colours)[:, :, None, None]
        constants[f"palette.bias{number}"] = -(colours * colours).sum(axis=1)
        taken = ["palette.levels", f"palette.weight{number}", f"palette.bias{number}"]
        scores.append(f"palette.scores{number}")
        nodes.append(helper.make_node("Conv", taken, scores[-1:]))
    if len(scores) > 1:
        nodes.append(helper.make_node("Max", scores, ["palette.nearest"]))
    nodes += [
        helper.make_node("Mul", [nodes[-1].output[0], "palette.scale"], ["palette.logits"]),
        helper.make_node("Softmax", ["palette.logits"], ["classes"], axis=1),
    ]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    output.name = "classes"
    output.type.tensor_type.shape.dim[1].dim_value = len(palette.classes)


def _colours_of_classes(palette: Palette) -> list[NDArray[np.float32]]:
    """Return a colour of every class, float32 (K, 3) each, as often as the class with the most colours needs.

    A class with fewer colours repeats its first; one without is as far away as nothing else is.
    """
    of_class = [palette.colours[palette.index == number].astype(np.float32) for number in range(len(palette.classes))]
    most = max(len(colours) for colours in of_class)
    far = np.full((1, 3), -_FAR, np.float32)
    return [np.stack([[*own, *far][n if n < len(own) else 0] for own in of_class]) for n in range(most)]
