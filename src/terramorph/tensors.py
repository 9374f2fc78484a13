"""Tensors by name, as files of weights hold them; and files of frozen weights that PyTorch saved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terramorph.errors import InputError


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a .safetensors file takes them: on the CPU, contiguous, no two of them in the same memory."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        stored = tensor.detach().cpu().contiguous()
        place = stored.untyped_storage().data_ptr()
        kept[name] = stored.clone() if place in seen else stored
        seen.add(place)
    return kept


def misfit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return what is wrong with the tensors of a file, such as `lacks the tensor head.bias`; "" if nothing is.

    Wanted are these names, each with its shape and dtype, and finite values.
    """
    for name in sorted(given.keys() | wanted.keys()):
        if name not in given:
            return f"lacks the tensor {name}"
        if name not in wanted:
            return f"holds a tensor {name} that does not belong to it"
        tensor, place = given[name], wanted[name]
        if tensor.layout != place.layout:
            return f"holds the tensor {name} as {tensor.layout} instead of {place.layout}"
        if tensor.shape != place.shape or tensor.dtype != place.dtype:
            kinds = [f"{one.dtype} {tuple(one.shape)}" for one in (tensor, place)]
            return f"holds the tensor {name} as {kinds[0]} instead of {kinds[1]}"
        if tensor.is_floating_point() and not is_finite(tensor):
            return f"holds values in the tensor {name} that are not finite"
    return ""


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite."""
    # A sum is not finite if one of its terms is not; the other way round it has to be looked at in detail.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def load_pickled(path: Path) -> Any:
    """Read what torch.save wrote, with ``weights_only`` and without torch's warnings of other kinds of files.

    Raises:
        Exception: Of any class there is, where the file is damaged, with advice that is not for users.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


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
    try:
        state = load_pickled(path)
    except Exception as error:
        raise InputError(f"{path} is not a PyTorch state dict, or a damaged one; download it again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a state dict of tensors; download it again.")
    floats = {str(name): value.float() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in floats.items() if counts(name)}
    # Other weights of one network have the same names and more, such as those of an auxiliary classifier.
    if wrong := misfit(state, {name: tensor for name, tensor in expected.items() if counts(name)}):
        raise InputError(f"{path} {wrong}, so it does not hold {what}; put these in its place.")
    return state
