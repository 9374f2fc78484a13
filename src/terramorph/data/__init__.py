"""Pairs as tensors: decoded into a cache, cut into augmented batches."""

from terramorph.data.as_trained import batches_as_trained
from terramorph.data.augment import Augmentation
from terramorph.data.cache import DEFAULT_CACHE, DecodedPairs, decode
from terramorph.data.dataset import TrainingBatches

__all__ = [
    "DEFAULT_CACHE",
    "Augmentation",
    "DecodedPairs",
    "TrainingBatches",
    "batches_as_trained",
    "decode",
]
