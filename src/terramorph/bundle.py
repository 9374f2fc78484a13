"""A bundle: one .safetensors file with a generator's weights and everything needed to use them correctly.

The tensors are the generator's state; the header's metadata holds one JSON document under the key `terramorph`.
No pickle is written or read.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from terramorph.atomic import atomic
from terramorph.errors import BundleError, reason_of
from terramorph.header import FORMAT, Architecture, Bands, Direction, Header, Mode, find_bundle, read_header
from terramorph.imports import is_outside
from terramorph.models import require_own
from terramorph.networks import build_network, describe_network
from terramorph.tensors import is_finite, misfit, storable

__all__ = [
    "FORMAT",
    "Architecture",
    "Bands",
    "Bundle",
    "Direction",
    "Header",
    "Mode",
    "find_bundle",
    "load_bundle",
    "read_header",
]


@dataclass(frozen=True)
class Bundle:
    """A generator and its header.

    Attributes:
        network: The generator in evaluation mode, float32, on the CPU.
        header: Everything needed to use it.
        path: The file it was loaded from, None if it was not.
        half: Whether the file keeps weights as float16, in half the bytes.
    """

    network: nn.Module
    header: Header
    path: Path | None = None
    half: bool = False

    @staticmethod
    def of(network: nn.Module, name: str, *, source: Bands, target: Bands, **header: Any) -> Bundle:
        """Make a bundle of a network that was built from the catalogue under `name`."""
        return Bundle(
            network.eval(),
            Header(
                architecture=Architecture(name=name, settings=describe_network(network)),
                source=source,
                target=target,
                stride=network.stride,
                halo=network.halo,
                **header,
            ),
        )

    def save(self, path: str | Path) -> Path:
        """Write the file; it appears whole or not at all.

        Raises:
            StorageError: If it cannot be written.
            BundleError: If a value is too large for float16, or the path is that of a published model.
        """
        path = Path(path)
        require_own(path)
        tensors = storable(self.network.state_dict())
        if self.half:
            tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
            for name, tensor in tensors.items():
                if not is_finite(tensor):
                    raise BundleError(f"The tensor {name} has values that float16 cannot hold; save {path} as float32.")
        with atomic(
            path, f"The bundle {path} could not be written", failures=(SafetensorError,), make_folder=True
        ) as part:
            part.touch()  # with the rights that files get here; safetensors alone would make it private
            save_file(tensors, part, metadata={"terramorph": self.header.model_dump_json()})
        return path


def _described_network(path: Path, header: Header, allowed: Collection[str]) -> nn.Module:
    """Build the network that a header describes, without memory for its weights (torch's device `meta`)."""
    name = header.architecture.name
    try:
        bands = {"in_bands": header.source.count, "out_bands": header.target.count}
        # A class from outside may keep tensors that are in no file.
        with nullcontext() if is_outside(name) else torch.device("meta"):
            network = build_network(name, allowed=allowed, **{**bands, **header.architecture.settings})
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        if is_outside(name):
            raise BundleError(f"The generator of {path} cannot be used: {reason_of(error)}.") from error
        raise BundleError(
            f"{path} describes a network that cannot be built ({reason_of(error)}); make the bundle again."
        ) from error
    for key in ("stride", "halo"):
        said, true = getattr(header, key), getattr(network, key)
        if said != true:
            raise BundleError(
                f"The header of {path} says {key} {said} and that of its {name} is {true}; make the bundle again."
            )
    return network


def load_bundle(path: str | Path, allowed: Collection[str] = ()) -> Bundle:
    """Read a bundle.

    Args:
        path: A file, a run's folder, or a model's name; see `find_bundle`.
        allowed: Modules from outside whose code may run, where the bundle's generator is one of theirs.

    Raises:
        BundleError: As for `read_header`, or if a tensor does not fit its network, or its generator is from a module
            that is not allowed.
    """
    path = find_bundle(path)
    header = read_header(path)
    network = _described_network(path, header, allowed)
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    half = any(tensor.dtype == torch.float16 for tensor in stored.values())
    # Copies: the file may be changed while the network is used.
    state = {name: t.float() if t.dtype == torch.float16 else t.clone() for name, t in stored.items()}
    if wrong := misfit(state, network.state_dict()):
        raise BundleError(f"{path}, a {header.architecture.name}, {wrong}; make the bundle again.")
    network.load_state_dict(state, assign=True)
    return Bundle(network.eval().requires_grad_(False), header, path, half)
