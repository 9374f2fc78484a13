"""Removal of text and icons from maps, by classic image processing without a model."""

from terramorph.prepare.labels.clean import MARGIN, Cleaned, map_palette, remove_labels

__all__ = ["MARGIN", "Cleaned", "map_palette", "remove_labels"]
