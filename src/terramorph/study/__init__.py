"""Studies of many runs: comparison of changes to a recipe, and search for better settings."""

from terramorph.study.compare import compare
from terramorph.study.comparison import conclude
from terramorph.study.conclusion import TuneResult, confirm_study
from terramorph.study.definition import STUDIES, Study, load_study
from terramorph.study.plan import StudyOptions
from terramorph.study.tune import tune

__all__ = [
    "STUDIES",
    "Study",
    "StudyOptions",
    "TuneResult",
    "compare",
    "conclude",
    "confirm_study",
    "load_study",
    "tune",
]
