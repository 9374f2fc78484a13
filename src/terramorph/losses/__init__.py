"""Losses: functions of tensors, aware of masks."""

from terramorph.losses.adversarial import (
    DIFFAUGMENTS,
    UNDECIDED,
    AdversarialLoss,
    Logits,
    PairChange,
    by_scale,
    discriminator_loss,
    draw_change,
    generator_loss,
    r1_penalty,
    share_accepted,
)
from terramorph.losses.reconstruction import (
    feature_distance,
    feature_matching_loss,
    l1_loss,
    l2_loss,
    masked_mean,
    palette_cross_entropy,
    palette_shares,
    palette_weights,
)

__all__ = [
    "DIFFAUGMENTS",
    "UNDECIDED",
    "AdversarialLoss",
    "Logits",
    "PairChange",
    "by_scale",
    "discriminator_loss",
    "draw_change",
    "feature_distance",
    "feature_matching_loss",
    "generator_loss",
    "l1_loss",
    "l2_loss",
    "masked_mean",
    "palette_cross_entropy",
    "palette_shares",
    "palette_weights",
    "r1_penalty",
    "share_accepted",
]
