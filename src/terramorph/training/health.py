"""A watch for what kills GANs: a discriminator that has won, one picture for every input, numbers that are none."""

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
# Share of the truths' mean distance from each other, under which translations of different inputs are one picture.
_ONE_PICTURE = 0.02
# Before this step every generator paints one picture; that is no illness.
_YOUNG = 200


class Health:
    """Warnings, each given once, and one error. Plain state, so that it survives in checkpoints.

    Attributes:
        verdict: the first warning, which is why the run is thought dead; None if there was none.
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
        """Looks at the losses of one step.

        Raises:
            TrainingDivergedError: naming the loss and the first tensor that is not finite.
        """
        for name, value in losses.items():
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"At step {step} the loss {name!r} became {value} ({blame(networks)}); go on from the last good "
                    "checkpoint with a lower optimizer.learning_rate, or with precision=fp32."
                )
        self.steps_won = self.steps_won + steps if losses.get("discriminator", 1.0) < _WON else 0
        if self.steps_won >= _PATIENCE:
            return self._once(
                "won",
                f"The discriminator's loss has been under {_WON} for {self.steps_won} steps: it tells every picture "
                "apart and teaches nothing. Try a lower optimizer.discriminator_learning_rate, more augmentation "
                "(data.eightfold=true, data.jitter=0.2), or loss.adversarial=lsgan.",
            )
        return []

    def check_outputs(self, step: int, translated: Tensor, truth: Tensor) -> list[str]:
        """Looks at translations of N different inputs beside their truths.

        Args:
            step: its number.
            translated, truth: float (N, C, H, W) in [-1, 1].
        """
        if not bool(torch.isfinite(translated).all()):
            raise TrainingDivergedError(
                f"At step {step} a translation holds values that are not finite; go on from the last good checkpoint "
                "with a lower optimizer.learning_rate, or with precision=fp32."
            )
        if len(translated) < 2 or step < _YOUNG:
            return []
        spread, wanted = ((x - x.roll(1, 0)).abs().mean().item() for x in (translated.float(), truth.float()))
        if spread < _ONE_PICTURE * wanted:
            return self._once(
                "one picture",
                f"At step {step} the translations of {len(translated)} different inputs are nearly one picture (they "
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
    """Names the first tensor that is not finite: a weight, a gradient or a statistic."""
    for name, network in networks.items():
        gradients = ((key, weight.grad) for key, weight in network.named_parameters() if weight.grad is not None)
        kinds = {"weight": network.named_parameters(), "gradient of": gradients, "statistic": network.named_buffers()}
        for kind, tensors in kinds.items():
            if key := _not_finite(tensors):
                return f"the {kind} {name}.{key} is not finite"
    return "every weight is still finite, so an input or the loss itself is to blame"


def require_finite(step: int, networks: Mapping[str, nn.Module]) -> None:
    """Raises TrainingDivergedError, naming the tensor, if a network holds a value that is not finite."""
    for name, network in networks.items():
        if key := _not_finite(network.state_dict().items()):
            raise TrainingDivergedError(
                f"At step {step} the tensor {name}.{key} is not finite; the last good checkpoint was kept. Go on from "
                "it with a lower optimizer.learning_rate, or with precision=fp32."
            )


def _not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first that holds a value that is not finite; "" if none does."""
    floats = (one for one in tensors if one[1].is_floating_point())
    return next((key for key, value in floats if not bool(torch.isfinite(value).all())), "")
