"""Pairs on disk: found in folders, read one at a time. No torch."""

from terramorph.pairs.folder import PairFolder, has_split, open_pairs
from terramorph.pairs.pair import Pair

__all__ = ["Pair", "PairFolder", "has_split", "open_pairs"]
