"""Evaluation of a model on held-out pairs: scores, pictures, one HTML page."""

from terramorph.evaluation.run import evaluate, own_bundle, record_scores

__all__ = ["evaluate", "own_bundle", "record_scores"]
