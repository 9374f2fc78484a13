"""Detection of failed training: a discriminator that has won, mode collapse, values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from terramorph.errors import TrainingDivergedError

# A discriminator that guesses has a loss of log 2 = 0.69; under this for so many steps, the generator learns
# nothing from it any more.
_WON, _PATIENCE = 0.02, 500
# Share of the truths' mean distance from each other, under which the outputs count as one picture (mode collapse).
_ONE_PICTURE = 0.02
# Before this step the outputs of every generator are alike; that is no failure.
_YOUNG = 200


class Health:
    """Warnings, each given once, and errors; its state is plain data for checkpoints.

    Attributes:
        verdict: The first warning, the reason why the run has probably failed; None without one.
    """

    def __init__(self) -> None:
        self.steps_won = 0
        self.warned: list[str] = []
        self.verdict: str | None = None

    def state(self) -> dict[str, Any]:
        return {"steps_won": self.steps_won, "warned": list(self.warned), "verdict": self.verdict}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.steps_won = int(state.get("steps_won", 0))
        self.warned = list(state.get("warned", []))
        self.verdict = state.get("verdict")

    def check_losses(
        self, step: int, losses: Mapping[str, float], steps: int, networks: Mapping[str, nn.Module]
    ) -> list[str]:
        """Check the losses of a step, and return new warnings.

        Raises:
            TrainingDivergedError: If a loss is not finite; names it and the first tensor that is not finite.
        """
        for name, value in losses.items():
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"At step {step} the loss {name!r} became {value} ({blame(networks)}); resume from the last good "
                    "checkpoint with a lower optimizer.learning_rate, or with precision=fp32."
                )
        self.steps_won = self.steps_won + steps if losses.get("discriminator", 1.0) < _WON else 0
        if self.steps_won >= _PATIENCE:
            return self._once(
                "won",
                f"The discriminator's loss has been under {_WON} for {self.steps_won} steps: it tells every picture "
                "apart, and the generator learns nothing from it. Try a lower optimizer.discriminator_learning_rate, "
                "more augmentation (data.eightfold=true, data.jitter=0.2), or loss.adversarial=lsgan.",
            )
        return []

    def check_outputs(self, step: int, translated: Tensor, truth: Tensor) -> list[str]:
        """Compare outputs for N different inputs with their truths, and return new warnings.

        Args:
            step: Number of the step.
            translated, truth: float (N, C, H, W) in [-1, 1].
        """
        if not bool(torch.isfinite(translated).all()):
            raise TrainingDivergedError(
                f"At step {step} an output holds values that are not finite; resume from the last good checkpoint "
                "with a lower optimizer.learning_rate, or with precision=fp32."
            )
        if len(translated) < 2 or step < _YOUNG:
            return []
        spread, wanted = ((x - x.roll(1, 0)).abs().mean().item() for x in (translated.float(), truth.float()))
        if spread < _ONE_PICTURE * wanted:
            return self._once(
                "one picture",
                f"At step {step} the outputs for {len(translated)} different inputs are nearly one picture (they "
                f"differ by {spread:.4f}, their truths by {wanted:.4f}). Try a higher loss.l1_weight, a lower "
                "optimizer.learning_rate, or check that the pairs are of the same ground.",
            )
        return []

    def _once(self, name: str, warning: str) -> list[str]:
        if name in self.warned:
            return []
        self.warned.append(name)
        self.verdict = self.verdict or warning
        return [warning]


def blame(networks: Mapping[str, nn.Module]) -> str:
    """Name the first tensor that is not finite: a weight, a gradient or a statistic."""
    for name, network in networks.items():
        gradients = ((key, weight.grad) for key, weight in network.named_parameters() if weight.grad is not None)
        kinds = {"weight": network.named_parameters(), "gradient of": gradients, "statistic": network.named_buffers()}
        for kind, tensors in kinds.items():
            if key := _not_finite(tensors):
                return f"the {kind} {name}.{key} is not finite"
    return "every weight is still finite, so an input or the loss itself is to blame"


def require_finite(step: int, networks: Mapping[str, nn.Module]) -> None:
    """Raise TrainingDivergedError, naming the tensor, if a network holds a value that is not finite."""
    for name, network in networks.items():
        if key := _not_finite(network.state_dict().items()):
            raise TrainingDivergedError(
                f"At step {step} the tensor {name}.{key} is not finite; the last good checkpoint was kept. Resume from "
                "it with a lower optimizer.learning_rate, or with precision=fp32."
            )


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the name of the first tensor with a value that is not finite; "" if there is none."""
    floats = (one for one in tensors if one[1].is_floating_point())
    return next((key for key, value in floats if not bool(torch.isfinite(value).all())), "")
