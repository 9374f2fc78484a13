"""Tensors by name, as files of weights hold them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
