"""Text and icons on maps, found and painted over from their surroundings; classic image processing, no model."""

from terramorph.prepare.labels.clean import MARGIN, Cleaned, clean_labels, find_labels, map_palette, remove_labels

__all__ = ["MARGIN", "Cleaned", "clean_labels", "find_labels", "map_palette", "remove_labels"]
