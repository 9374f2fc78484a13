"""What a model gets right and wrong: tables, figures and a dozen sentences, from the images of one evaluation.

`Evidence` counts while the pairs go through; `write_discussion` writes sections of one subject each.
"""

from terramorph.evaluation.discuss.content import leading
from terramorph.evaluation.discuss.discussion import write_discussion
from terramorph.evaluation.discuss.evidence import Evidence, MapSide

__all__ = ["Evidence", "MapSide", "leading", "write_discussion"]
