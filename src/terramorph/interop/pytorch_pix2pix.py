"""Checkpoints of the public PyTorch pix2pix and CycleGAN (junyanz/pytorch-CycleGAN-and-pix2pix).

Its files hold a state dict and nothing else, so everything about the network is read from names and shapes:

    U-Net     model.model.0 ... model.model.1.model.3.model. ...   one nesting a level
    ResNet    model.1 ... model.10.conv_block.1 ... model.26        one sequence
    PatchGAN  model.0 model.2 model.3 ... (pixels: net.0 ...)       one sequence, the output has one channel
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from terramorph.bundle import Bands, Bundle, Direction, Mode
from terramorph.errors import CheckpointError, ConfigError
from terramorph.networks import build_network
from terramorph.raster import default_bands
from terramorph.tensors import load_pickled, misfit

State = dict[str, Tensor]

_SOURCE = "public PyTorch pix2pix"
_UNETS = {8: "unet256", 7: "unet128", 6: "unet64"}
_RESNETS = {9: "resnet9", 6: "resnet6"}
_BLOCK = re.compile(r"model\.(\d+)\.conv_block\.(\d+)\.")


class _Found(NamedTuple):
    """A generator in a state dict.

    Attributes:
        name: Its name here.
        size: Side of the images that it is for, pixels.
        dropout: Share dropped in paper mode, of which a file says nothing but where its numbers leave room.
        places: Names of its modules there -> here.
        first, norm, head: Names there of the first convolution, the first norm and the last convolution.
        out_axis: Axis of the output bands in the weight of the last convolution.
    """

    name: str
    size: int
    dropout: float
    places: dict[str, str]
    first: str
    norm: str
    head: str
    out_axis: int


def import_checkpoint(path: str | Path, *, direction: Direction = "AtoB", mode: Mode = "raster") -> Bundle:
    """Make a bundle of a generator checkpoint, such as `latest_net_G.pth`.

    Width, depth or blocks, bands and norm come from the names and shapes. Both sides are taken as uint8
    0..255, as the public loader does. In paper mode a U-Net drops 0.5 (the public default for pix2pix), and a ResNet
    0.5 where its numbering leaves room for dropout layers, otherwise 0.

    Args:
        path: A file that torch.save wrote. It is read with weights_only: code in it is never run.
        direction: AtoB (of the training pairs, A is the source) or BtoA.
        mode: The bundle's default mode. The public test script runs as our `paper` mode unless told `--eval`.

    Returns:
        The bundle, not yet saved.

    Raises:
        CheckpointError: If the file is missing, no checkpoint, holds code, is a discriminator, or does not
            fit a network.
    """
    path = Path(path)
    state = _read(path)
    found = _find(state, path)
    first, head = state[f"{found.first}.weight"], state.get(f"{found.head}.weight")
    if head is None or (first.ndim, head.ndim) != (4, 4):
        raise CheckpointError(f"{path} lacks the tensor {found.head}.weight of its {found.name}; copy it again.")
    norm = "instance" if f"{found.first}.bias" in state else "batch" if f"{found.norm}.weight" in state else "none"
    bands = first.shape[1], head.shape[found.out_axis]
    settings: dict[str, Any] = {"width": first.shape[0], "norm": norm, "dropout": found.dropout}
    try:
        network = build_network(found.name, in_bands=bands[0], out_bands=bands[1], **settings)
    except ConfigError as error:
        raise CheckpointError(
            f"{path} describes a network that cannot be built ({str(error).rstrip('.')}); give a checkpoint of the "
            f"{_SOURCE}."
        ) from error
    wanted = network.state_dict()
    renamed = _renamed(state, found.places, norm)
    # Old files lack the counters, others hold them as floats, and nothing here uses them.
    state = renamed | {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    if wrong := misfit(state, wanted):
        raise CheckpointError(f"{path}, with the names of a {found.name} here, {wrong}; copy or export it again.")
    network.load_state_dict(state)
    source, target = (Bands(names=default_bands(count)) for count in bands)
    return Bundle.of(
        network.requires_grad_(False),
        found.name,
        source=source,
        target=target,
        direction=direction,
        mode=mode,
        size=found.size,
        note=f"imported from {path.name}, a checkpoint of the {_SOURCE}",
    )


def _read(path: Path) -> State:
    """Read the state dict of a file, without the prefixes of DataParallel and torch.compile."""
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; check the path.")
    try:
        document = load_pickled(path)
    except Exception as error:
        refused = isinstance(error, pickle.UnpicklingError)
        if refused and any(word in str(error) for word in ("Unsupported global", "Unsupported class", "GLOBAL")):
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, which are not loaded because they could run code; save "
                "the network's state_dict() alone."
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or a damaged one; copy it again.") from error
    if isinstance(document, Mapping) and isinstance(document.get("state_dict"), Mapping):
        document = document["state_dict"]
    tensors = isinstance(document, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in document.items()
    )
    if not tensors or not document:
        raise CheckpointError(
            f"{path} does not hold tensors by name; give a state dict of the {_SOURCE}, such as latest_net_G.pth."
        )
    # torch.compile names what it wraps _orig_mod, wherever that stands; DataParallel wraps the whole.
    state = {key.replace("_orig_mod.", ""): value for key, value in document.items()}
    while all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _find(state: State, path: Path) -> _Found:
    """Recognize the generator by the names of its tensors."""
    if "model.model.0.weight" in state and "model.model.1.model.1.weight" in state:
        return _unet(state, path)
    if "model.1.weight" in state and any(".conv_block." in key for key in state):
        return _resnet(state, path)
    if "net.0.weight" in state or ("model.0.weight" in state and "model.2.weight" in state):
        raise CheckpointError(
            f"{path} holds a discriminator, which judges pictures and cannot translate; import the generator "
            "(the file with net_G in its name)."
        )
    raise CheckpointError(
        f"The tensors of {path} are not named as in the {_SOURCE} (the first is {next(iter(state))}); only its U-Net "
        "and ResNet generators are understood."
    )


def _unet(state: State, path: Path) -> _Found:
    levels = ["model.model"]
    while f"{levels[-1]}.{'1' if len(levels) == 1 else '3'}.model.1.weight" in state:
        levels.append(f"{levels[-1]}.{'1' if len(levels) == 1 else '3'}.model")
    depth, last = len(levels), len(levels) - 1
    if depth not in _UNETS:
        raise CheckpointError(f"{path} holds a U-Net of {depth} levels; those of 6, 7 and 8 levels are understood.")
    places = {f"{levels[0]}.0": "down.0", f"{levels[0]}.3": "head"}
    for level, inside in enumerate(levels[1:], start=1):
        # The innermost level has no norm on the way down.
        down, up = [f"down.{level}", f"down_norm.{level}"], [f"up.{last - level}", f"up_norm.{last - level}"]
        numbers, ours = ((1, 2, 5, 6), down + up) if level < last else ((1, 3, 4), down[:1] + up)
        places |= {f"{inside}.{number}": name for number, name in zip(numbers, ours, strict=True)}
    return _Found(_UNETS[depth], 2**depth, 0.5, places, f"{levels[0]}.0", f"{levels[1]}.2", f"{levels[0]}.3", 1)


def _resnet(state: State, path: Path) -> _Found:
    inside = [(int(m[1]), int(m[2]), key) for key in state if (m := _BLOCK.match(key))]
    blocks = sorted({number for number, _, _ in inside})
    convolutions = sorted({place for _, place, key in inside if key.endswith("weight") and state[key].ndim == 4})
    if convolutions not in ([1, 5], [1, 6]):
        raise CheckpointError(
            f"{path} holds a ResNet whose blocks are not padded by reflection; only the public default is understood."
        )
    if len(blocks) not in _RESNETS or blocks != list(range(10, 10 + len(blocks))):
        raise CheckpointError(
            f"{path} holds a ResNet of {len(blocks)} blocks, the first at place {blocks[0]}; those of 6 and 9 blocks "
            "from place 10 on are understood."
        )
    noisy, after = convolutions == [1, 6], 10 + len(blocks)
    inner = {1: 1, 2: 2, 6: 6, 7: 7} if noisy else {1: 1, 2: 2, 5: 6, 6: 7}
    places = {
        f"model.{number}.conv_block.{theirs}": f"layers.{number}.layers.{ours}"
        for number in blocks
        for theirs, ours in inner.items()
    }
    places |= {f"model.{number}": f"layers.{number}" for number in (*range(10), *range(after, after + 8))}
    dropout = 0.5 if noisy else 0.0
    return _Found(_RESNETS[len(blocks)], 256, dropout, places, "model.1", "model.2", f"model.{after + 7}", 0)


def _renamed(state: State, places: Mapping[str, str], norm: str) -> State:
    """Return tensors under our names; what has no place keeps its name."""
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if norm == "instance" and leaf in ("running_mean", "running_var", "num_batches_tracked"):
            continue  # files from before PyTorch 0.4 hold them, and instance norm never used them
        renamed[f"{places.get(module, module)}.{leaf}"] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed
