"""Pairs as tensors: decoded into a cache, cut into augmented batches."""

from terramorph.data.augment import Augmentation
from terramorph.data.cache import DEFAULT_CACHE, DecodedPairs, decode
from terramorph.data.dataset import TrainingBatches, batches_as_trained

__all__ = ["DEFAULT_CACHE", "Augmentation", "DecodedPairs", "TrainingBatches", "batches_as_trained", "decode"]
