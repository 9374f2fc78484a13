"""Number of steps of a run, and the learning rate at each step."""

from __future__ import annotations

import math

from terramorph.training.config import ScheduleConfig


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
