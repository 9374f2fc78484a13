"""Removal of text and icons from maps, by classic image processing without a model."""

from terramorph.prepare.labels.clean import MARGIN, map_palette, remove_labels

__all__ = ["MARGIN", "map_palette", "remove_labels"]
