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
from typing import Any, Literal

import torch
from torch import Tensor, nn

from terramorph.bundle import Bands, Bundle, Direction, Mode
from terramorph.errors import CheckpointError, ConfigError
from terramorph.networks import build_network
from terramorph.raster import default_bands

Kind = Literal["unet", "resnet", "patchgan"]
State = dict[str, Tensor]

_SOURCE = "public PyTorch pix2pix"
_UNETS = {8: "unet256", 7: "unet128", 6: "unet64"}
_RESNETS = {9: "resnet9", 6: "resnet6"}


def import_checkpoint(
    path: str | Path,
    *,
    kind: Kind | None = None,
    direction: Direction = "AtoB",
    mode: Mode = "raster",
    dropout: float | None = None,
    note: str | None = None,
) -> Bundle:
    """Make a bundle of a generator checkpoint, such as `latest_net_G.pth`.

    Width, depth or blocks, bands and norm come from the names and shapes. Both sides are taken as uint8
    0..255, as the public loader does.

    Args:
        path: A file that torch.save wrote. It is read with weights_only: code in it is never run.
        kind: Required kind of network; None: any.
        direction: AtoB (of the training pairs, A is the source) or BtoA.
        mode: The bundle's default mode. The public test script runs as our `paper` mode unless told `--eval`.
        dropout: Share dropped in paper mode. A file does not say: None is 0.5 for a U-Net (the public
            default for pix2pix), and for a ResNet 0.5 where its numbering leaves room for dropout layers,
            otherwise 0.
        note: Note for the bundle's header; None names the file.

    Returns:
        The bundle, not yet saved.

    Raises:
        CheckpointError: If the file is missing, no checkpoint, holds code, is a discriminator, or does not
            fit a network.
    """
    path = Path(path)
    state = _read(path)
    found = _kind_of(state, path)
    if found == "patchgan":
        raise CheckpointError(
            f"{path} holds a discriminator, which judges pictures and cannot translate; import the generator "
            "(the file with net_G in its name)."
        )
    if kind is not None and kind != found:
        raise CheckpointError(f"{path} holds a {found}, not a {kind}; leave the kind out, or give another file.")
    name, settings, renamed = _unet(state, path) if found == "unet" else _resnet(state, path)
    if dropout is not None:
        settings["dropout"] = dropout
    try:
        network = _filled(name, build_network(name, **settings), renamed, path)
    except ConfigError as error:
        raise CheckpointError(
            f"{path} describes a network that cannot be built ({str(error).rstrip('.')}); give a checkpoint of the "
            f"{_SOURCE}."
        ) from error
    size = 2 ** next(d for d, n in _UNETS.items() if n == name) if found == "unet" else 256
    return Bundle.of(
        network.requires_grad_(False),
        name,
        source=Bands(names=default_bands(settings["in_bands"])),
        target=Bands(names=default_bands(settings["out_bands"])),
        direction=direction,
        mode=mode,
        size=size,
        note=f"imported from {path.name}, a checkpoint of the {_SOURCE}" if note is None else note,
    )


def _read(path: Path) -> State:
    """Read the state dict of a file, without the prefixes of DataParallel and torch.compile."""
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; check the path.")
    try:
        document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, which are not loaded because they could run "
                "code; "
                "save the network's state_dict() alone."
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or a damaged one; copy it again.") from error
    except Exception as error:  # on a file of another kind the decoder trips in any of a dozen ways
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


def _kind_of(state: State, path: Path) -> Kind:
    if "model.model.0.weight" in state and "model.model.1.model.1.weight" in state:
        return "unet"
    if "model.1.weight" in state and any(".conv_block." in key for key in state):
        return "resnet"
    if "net.0.weight" in state or ("model.0.weight" in state and "model.2.weight" in state):
        return "patchgan"
    raise CheckpointError(
        f"The tensors of {path} are not named as in the {_SOURCE} (the first is {next(iter(state))}); only "
        "its U-Net and "
        "ResNet generators are understood."
    )


def _unet(state: State, path: Path) -> tuple[str, dict[str, Any], State]:
    """Return name, settings and renamed tensors of a U-Net."""
    prefixes = ["model.model."]
    while f"{prefixes[-1]}{'1' if len(prefixes) == 1 else '3'}.model.1.weight" in state:
        prefixes.append(f"{prefixes[-1]}{'1' if len(prefixes) == 1 else '3'}.model.")
    depth, last = len(prefixes), len(prefixes) - 1
    if depth not in _UNETS:
        raise CheckpointError(f"{path} holds a U-Net of {depth} levels; those of 6, 7 and 8 levels are understood.")
    places = {f"{prefixes[0]}0": "down.0", f"{prefixes[0]}3": "head"}
    for level in range(1, depth):
        prefix, up = prefixes[level], last - level
        places[f"{prefix}1"] = f"down.{level}"
        if level < last:
            places |= {
                f"{prefix}2": f"down_norm.{level}",
                f"{prefix}5": f"up.{up}",
                f"{prefix}6": f"up_norm.{up}",
            }
        else:
            places |= {f"{prefix}3": f"up.{up}", f"{prefix}4": f"up_norm.{up}"}
    first, head = state[f"{prefixes[0]}0.weight"], state.get(f"{prefixes[0]}3.weight")
    if head is None or (first.ndim, head.ndim) != (4, 4):
        raise CheckpointError(f"{path} lacks the tensor {prefixes[0]}3.weight of its U-Net; copy it again.")
    biased = f"{prefixes[0]}0.bias" in state
    norm = "instance" if biased else "batch" if f"{prefixes[1]}2.weight" in state else "none"
    settings = {
        "in_bands": first.shape[1],
        "out_bands": head.shape[1],
        "width": first.shape[0],
        "norm": norm,
        "dropout": 0.5,
    }
    return _UNETS[depth], settings, _renamed(state, places, norm, path)


def _resnet(state: State, path: Path) -> tuple[str, dict[str, Any], State]:
    """Return name, settings and renamed tensors of a ResNet."""
    block = re.compile(r"model\.(\d+)\.conv_block\.(\d+)\.")
    found = [(int(m[1]), int(m[2])) for m in map(block.match, state) if m]
    blocks = sorted({number for number, _ in found})
    convolutions = sorted(
        {int(m[2]) for m in map(block.match, state) if m and m.string.endswith("weight") and state[m.string].ndim == 4}
    )
    if convolutions not in ([1, 5], [1, 6]):
        raise CheckpointError(
            f"{path} holds a ResNet whose blocks are not padded by reflection; only the public default is understood."
        )
    if len(blocks) not in _RESNETS or blocks != list(range(10, 10 + len(blocks))):
        raise CheckpointError(f"{path} holds a ResNet of {len(blocks)} blocks; those of 6 and 9 are understood.")
    noisy = convolutions == [1, 6]
    inner = {1: 1, 2: 2, 6: 6, 7: 7} if noisy else {1: 1, 2: 2, 5: 6, 6: 7}
    places = {
        f"model.{number}.conv_block.{theirs}": f"layers.{number}.layers.{ours}"
        for number in blocks
        for theirs, ours in inner.items()
    }
    after = 10 + len(blocks)
    for number in (1, 2, 4, 5, 7, 8, after, after + 1, after + 3, after + 4, after + 7):
        places[f"model.{number}"] = f"layers.{number}"
    first, head = state["model.1.weight"], state.get(f"model.{after + 7}.weight")
    if head is None or (first.ndim, head.ndim) != (4, 4):
        raise CheckpointError(f"{path} lacks the tensor model.{after + 7}.weight of its ResNet; copy it again.")
    norm = "instance" if "model.1.bias" in state else "batch" if "model.2.weight" in state else "none"
    settings = {
        "in_bands": first.shape[1],
        "out_bands": head.shape[0],
        "width": first.shape[0],
        "norm": norm,
        "dropout": 0.5 if noisy else 0.0,
    }
    return _RESNETS[len(blocks)], settings, _renamed(state, places, norm, path)


def _renamed(state: State, places: Mapping[str, str], norm: str, path: Path) -> State:
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if norm == "instance" and leaf in ("running_mean", "running_var", "num_batches_tracked"):
            continue  # files from before PyTorch 0.4 hold them, and instance norm never used them
        if module not in places:
            raise CheckpointError(
                f"{path} holds a tensor {key} that its network does not have; it may be of another program."
            )
        renamed[f"{places[module]}.{leaf}"] = tensor
    return renamed


def _filled(name: str, network: nn.Module, state: State, path: Path) -> nn.Module:
    expected = network.state_dict()
    for key, place in expected.items():
        if key.endswith("num_batches_tracked"):  # old files lack it, and nothing here uses it
            state.setdefault(key, torch.zeros((), dtype=torch.long))
        if key not in state:
            raise CheckpointError(f"{path} lacks the tensor that becomes {key} in {name}; copy or export it again.")
        tensor = state[key]
        if tensor.shape != place.shape:
            raise CheckpointError(
                f"The tensor that becomes {key} has shape {tuple(tensor.shape)} in {path} and {name} needs "
                f"{tuple(place.shape)}; the file is of another network."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"The tensor that becomes {key} in {path} is not finite; use an earlier checkpoint.")
        place.copy_(tensor)
    left = sorted(state.keys() - expected.keys())
    if left:
        raise CheckpointError(
            f"{path} holds a tensor {left[0]} that {name} does not have; the file is of another network."
        )
    return network.eval()
