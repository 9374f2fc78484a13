"""A procedural town: aerial image, map, vectors and georeference from a seed, for tests, demo and benchmarks.

town = make_town(size_px=2048, seed=0)
town.aerial()      # Raster, uint8 RGB, UTM
town.map()         # Raster, uint8 RGB on the same grid, drawn from the same vectors
write_town_pairs(town, "pairs", tile=256)
"""

from terramorph.town.town import PairCounts, Town, make_town, write_town_pairs

__all__ = ["PairCounts", "Town", "make_town", "write_town_pairs"]
