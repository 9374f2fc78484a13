"""Pairs as tensors: decoded into a cache, cut into augmented batches."""

from terramorph.data.batches import Augmentation, TrainingBatches, batches_as_trained
from terramorph.data.cache import DEFAULT_CACHE, DecodedPairs, decode

__all__ = ["DEFAULT_CACHE", "Augmentation", "DecodedPairs", "TrainingBatches", "batches_as_trained", "decode"]
