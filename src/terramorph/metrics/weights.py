"""Weights of frozen networks, read from files that PyTorch saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from terramorph.errors import InputError, raised_as
from terramorph.tensors import misfit


def read_weights(
    path: Path, expected: Mapping[str, Tensor], needed: str, what: str, ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Read a state dict with ``weights_only``.

    Args:
        expected: Tensors of the names and shapes that it must have, and no others.
        needed: What needs it, for the error.
        what: Weights that it should hold, for the error.
        ignored: Beginnings and ends of names that are left out, of what is read and what is expected.

    Raises:
        InputError: It is missing, damaged, or holds other weights or numbers that are not finite.
    """

    def counts(name: str) -> bool:
        return not name.startswith(ignored) and not name.endswith(ignored)

    if not path.is_file():
        raise InputError(f"There is no {path.name} in {path.parent}; {needed}.")
    # Of any class: the unpickler answers damage with almost any exception there is.
    with raised_as(InputError, f"{path} cannot be read as a PyTorch state dict", "download it again"):
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a state dict of tensors; download it again.")
    floats = {str(name): value.float() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in floats.items() if counts(name)}
    # Other weights of one network have the same names and more, such as those of an auxiliary classifier.
    if wrong := misfit(state, {name: tensor for name, tensor in expected.items() if counts(name)}):
        raise InputError(f"{path} {wrong}, so it does not hold {what}; put these in its place.")
    return state
