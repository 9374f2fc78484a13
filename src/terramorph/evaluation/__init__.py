"""A bundle and held-out pairs in; numbers, pictures and one HTML page out."""

from terramorph.evaluation.run import evaluate, own_bundle, record_scores

__all__ = ["evaluate", "own_bundle", "record_scores"]
