"""Losses: functions of tensors, aware of masks."""

from terramorph.losses.adversarial import UNDECIDED, AdversarialLoss, discriminator_loss, generator_loss
from terramorph.losses.reconstruction import l1_loss, masked_mean

__all__ = ["UNDECIDED", "AdversarialLoss", "discriminator_loss", "generator_loss", "l1_loss", "masked_mean"]
