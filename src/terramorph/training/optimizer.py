"""Adam (Kingma and Ba 2015, arXiv:1412.6980), made fast for channels_last weights on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's Adam, whose fused CPU kernel gets channels_last tensors as plain ones in the order of memory.

    For channels_last tensors the kernel (torch 2.13) makes copies at each step, which take several times as long as the
    step itself. It also pairs elements by their place in memory: where the tensors of a parameter are laid out
    differently, the step is silently wrong. Adam treats every element alike, so here weight, gradient and moments get
    the layout of the weight and are passed as plain tensors in that order.

    State and state_dict keep the shapes of the parameters.
    """

    # Not public, and the only place where torch gathers the tensors of a step.
    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        weights, gradients, means, squares, *_ = lists
        for index, weight in enumerate(weights):
            for tensors, slot in ((gradients, None), (means, "exp_avg"), (squares, "exp_avg_sq")):
                if tensors[index].stride() != weight.stride():
                    tensors[index] = torch.empty_like(weight).copy_(tensors[index])
                    if slot:
                        self.state[weight][slot] = tensors[index]
            if weight.device.type == "cpu" and weight.is_contiguous(memory_format=torch.channels_last):
                for tensors in (weights, gradients, means, squares):
                    tensors[index] = tensors[index].permute(0, 2, 3, 1)
        return has_complex
