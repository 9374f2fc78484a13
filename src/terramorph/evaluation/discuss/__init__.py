"""What a model gets right and wrong: sentences with figures, from the images of one evaluation.

Counted while the pairs go through (`Evidence`), said afterwards (`discuss`), in sections of one subject each.
"""

from terramorph.evaluation.discuss.discussion import Setting, discuss
from terramorph.evaluation.discuss.evidence import Evidence, MapSide
from terramorph.evaluation.discuss.scores import leading
from terramorph.evaluation.discuss.write import pairs_again, write_discussion

__all__ = ["Evidence", "MapSide", "Setting", "discuss", "leading", "pairs_again", "write_discussion"]
