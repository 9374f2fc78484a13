"""Adam (Kingma and Ba 2015, arXiv:1412.6980), as fast as it can be had for weights in channels_last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's Adam, whose fused CPU kernel is shown channels_last tensors in the order they lie in memory.

    Adam is the same for every element, so order does not matter to it; but the kernel of the CPU (torch 2.13) takes
    contiguous tensors alone, and would copy every weight, gradient and moment there and back at each step, which takes
    several times as long as the step itself. State and state_dict keep the shapes of the parameters.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        for tensors in lists:
            tensors[:] = [as_stored(tensor) for tensor in tensors]
        return has_complex


def as_stored(tensor: Tensor) -> Tensor:
    """A view of a channels_last tensor (N, C, H, W) as (N, H, W, C), which is contiguous; any other as it is."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1)
