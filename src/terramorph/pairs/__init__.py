"""Pairs on disk: found in folders, read one at a time. No torch."""

from terramorph.pairs.folder import Pair, PairFolder, has_split, open_pairs, warn_if_few
from terramorph.pairs.given import GivenPairs, as_folder, write_pairs
from terramorph.pairs.manifest import Manifest, load_manifest

__all__ = [
    "GivenPairs",
    "Manifest",
    "Pair",
    "PairFolder",
    "as_folder",
    "has_split",
    "load_manifest",
    "open_pairs",
    "warn_if_few",
    "write_pairs",
]
