"""What a model gets right and wrong: tables, figures and a dozen sentences, from the images of one evaluation.

Counted while the pairs go through (`Evidence`), said afterwards (`discuss`), in sections of one subject each.
"""

from terramorph.evaluation.discuss.content import leading
from terramorph.evaluation.discuss.discussion import Setting, discuss, pairs_again, write_discussion
from terramorph.evaluation.discuss.evidence import Evidence, MapSide

__all__ = ["Evidence", "MapSide", "Setting", "discuss", "leading", "pairs_again", "write_discussion"]
