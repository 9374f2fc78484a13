"""Discussion of what a model gets right and wrong: tables, charts and a dozen sentences on one evaluation.

`Evidence` counts while pairs are scored; `write_discussion` writes a section per subject.
"""

from terramorph.evaluation.discuss.content import leading
from terramorph.evaluation.discuss.discussion import Evidence, MapSide, write_discussion

__all__ = ["Evidence", "MapSide", "leading", "write_discussion"]
