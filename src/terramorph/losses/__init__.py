"""Losses: functions of tensors, aware of masks."""

from terramorph.losses.adversarial import ADVERSARIAL, AdversarialLoss, discriminator_loss, generator_loss
from terramorph.losses.reconstruction import l1_loss, masked_mean

__all__ = ["ADVERSARIAL", "AdversarialLoss", "discriminator_loss", "generator_loss", "l1_loss", "masked_mean"]
