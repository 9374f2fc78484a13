"""A bundle and held-out pairs in; numbers, pictures and one HTML page out."""

from terramorph.evaluation.report import render_report
from terramorph.evaluation.run import evaluate
from terramorph.evaluation.scoring import SCORE_KEYS

__all__ = ["SCORE_KEYS", "evaluate", "render_report"]
