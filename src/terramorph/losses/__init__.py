"""Losses: functions of tensors, aware of masks."""

from terramorph.losses.adversarial import (
    UNDECIDED,
    AdversarialLoss,
    Logits,
    by_scale,
    discriminator_loss,
    generator_loss,
    share_accepted,
)
from terramorph.losses.diffaugment import DIFFAUGMENTS, PairChange, draw_change
from terramorph.losses.features import feature_distance, feature_matching_loss
from terramorph.losses.palette import palette_cross_entropy, palette_shares, palette_weights
from terramorph.losses.penalty import r1_penalty
from terramorph.losses.reconstruction import l1_loss, l2_loss, masked_mean

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
