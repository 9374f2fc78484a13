"""Text and icons on maps, found and painted over from their surroundings; classic image processing, no model."""

from terramorph.prepare.labels.clean import MARGIN, Cleaned, map_palette, remove_labels

__all__ = ["MARGIN", "Cleaned", "map_palette", "remove_labels"]
