"""Pairs: found in folders, decoded into a cache, cut into augmented batches."""

from terramorph.data.augment import Augmentation
from terramorph.data.cache import DEFAULT_CACHE, DecodedPairs, Side, decode
from terramorph.data.dataset import TrainingBatches
from terramorph.data.folder import PairFolder, has_split, open_pairs
from terramorph.data.pair import Pair

__all__ = [
    "DEFAULT_CACHE",
    "Augmentation",
    "DecodedPairs",
    "Pair",
    "PairFolder",
    "Side",
    "TrainingBatches",
    "decode",
    "has_split",
    "open_pairs",
]
