"""Adam, fast for channels_last weights on a CPU; steps of a run and their learning rates; the average of weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from terramorph.errors import ConfigError
from terramorph.training.config import ScheduleConfig, TrainConfig


class Adam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) of torch, whose fused CPU kernel gets channels_last tensors as
    plain ones in the order of memory.

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


def make_optimizer(name: str, network: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Make Adam for the trained weights of a network."""
    settings = config.optimizer
    rates = [settings.learning_rate]
    weights = [[weight for weight in network.parameters() if weight.requires_grad]]
    if name != "generator":
        rates = [settings.discriminator_learning_rate or settings.learning_rate]
    elif settings.encoder_rate != 1.0:
        if not hasattr(network, "encoder_parameters"):
            raise ConfigError("optimizer.encoder_rate needs a generator with a pretrained encoder; set it to 1.")
        encoder = {id(weight) for weight in network.encoder_parameters()}  # type: ignore[operator]
        weights = [[w for w in weights[0] if (id(w) in encoder) == inside] for inside in (False, True)]
        rates = [rates[0], rates[0] * settings.encoder_rate]
    on_gpu = device.type == "cuda"
    groups = [
        # A CUDA graph reads the rate from device memory at each replay, so there it must be a tensor.
        {"params": params, "lr": torch.tensor(rate, device=device) if on_gpu else rate, "initial_lr": rate}
        for params, rate in zip(weights, rates, strict=True)
        if params
    ]
    return Adam(groups, betas=settings.betas, fused=True, capturable=on_gpu)


def total_steps(schedule: ScheduleConfig, pairs: int, samples_per_step: int, max_steps: int = 0) -> int:
    """Return the number of optimizer steps of a run, at most `max_steps` unless that is 0."""
    length = schedule.constant + schedule.decay
    steps = length if schedule.unit == "steps" else math.ceil(length * pairs / samples_per_step)
    return min(steps, max_steps) if max_steps else steps


def rate_factor(schedule: ScheduleConfig, step: int, pairs: int, samples_per_step: int) -> float:
    """Return the factor on the learning rate at a step, counted from 0.

    By epochs it is the rule of the public pix2pix: 1 - max(0, epoch + 1 - constant) / (decay + 1), where an epoch is
    a pass over the pairs. By steps it falls linearly from 1 at `constant` to 0 at `constant + decay`. Over the first
    `warmup` steps a linear rise multiplies it.
    """
    risen = min(1.0, (step + 1) / schedule.warmup) if schedule.warmup else 1.0
    if schedule.unit == "epochs":
        epoch = step * samples_per_step // pairs
        return risen * max(0.0, 1.0 - max(0, epoch + 1 - schedule.constant) / (schedule.decay + 1))
    return risen * max(0.0, 1.0 - max(0, step - schedule.constant) / max(1, schedule.decay))


class AveragedNetwork:
    """Exponential moving average of a network's weights (Polyak and Juditsky 1992); buffers are copied.

    The decay grows as (1 + step) / (10 + step) up to its value, so that the start is forgotten.

    Attributes:
        network: The average, in evaluation mode, without gradients.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)
        for count in (False, True):  # tensors of one type are copied together
            kinds = [[b for b in side.buffers() if b.is_floating_point() != count] for side in (self.network, network)]
            if kinds[0]:
                torch._foreach_copy_(kinds[0], kinds[1])
