"""Successive halving without waiting (ASHA; Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning").

A trial is scored after 1/9, 1/3 and all of the images (for three rungs). At each rung but the last it goes on, from its
checkpoint, if it is among the best third of those that have been there so far; nobody waits for others. The rule looks
at nothing but the scores at the rung, so a process that takes a trial up again decides by it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from terramorph.errors import ConfigError
from terramorph.training import TrainConfig
from terramorph.training.schedule import total_steps

ETA = 3
"""One in so many goes on."""


@dataclass(frozen=True)
class Rungs:
    """The images seen at which trials are scored, rising; the last is the whole length."""

    images: tuple[int, ...]

    @staticmethod
    def of(images: int, count: int) -> Rungs:
        """So many rungs, each `ETA` times the one before, that end at a number of images.

        Raises:
            ConfigError: if there is no rung, or the first would have no image.
        """
        if count < 1:
            raise ConfigError(f"There are {count} rungs; there must be at least 1.")
        first = images // ETA ** (count - 1)
        if first < 1:
            raise ConfigError(f"{images} images are too few for {count} rungs; give more images or fewer rungs.")
        return Rungs(tuple(round(images / ETA**n) for n in reversed(range(count))))

    @property
    def last(self) -> int:
        """The whole length."""
        return self.images[-1]

    def after(self, images: int) -> tuple[int, ...]:
        """What is left for a trial that was scored after so many images."""
        return tuple(rung for rung in self.images if rung > images)


def promoted(value: float, rivals: Sequence[float], higher_is_better: bool) -> bool:
    """Whether a trial goes on from a rung.

    Args:
        value: its score there.
        rivals: the scores of the others that have been there.
        higher_is_better: of the score.
    """
    sign = -1.0 if higher_is_better else 1.0
    better = sum(sign * rival < sign * value for rival in rivals)
    return better < max(1, (len(rivals) + 1) // ETA)


def whole_length(config: TrainConfig, pairs: int) -> int:
    """Images that the schedule of a configuration sees over so many training pairs."""
    per_step = config.batch_size * config.accumulate
    return total_steps(config.schedule, pairs, per_step, config.max_steps) * per_step


def stretched(config: TrainConfig, images: int) -> TrainConfig:
    """The configuration with its schedule brought to a number of images, the share at the full rate kept.

    So trials see the same number of images whatever their batch size, and the rate has come down at the end of each.
    """
    steps = -(-images // (config.batch_size * config.accumulate))
    schedule = config.schedule
    constant = round(steps * schedule.constant / (schedule.constant + schedule.decay))
    brought = schedule.model_copy(update={"unit": "steps", "constant": constant, "decay": steps - constant})
    return config.model_copy(update={"schedule": brought, "max_steps": 0})
