"""Models by name: the published ones, their files on this machine, and fetching them."""

from terramorph.models.pull import pull
from terramorph.models.store import (
    MODELS_FOLDER,
    Entry,
    known,
    named,
    not_here,
    places,
    published,
    registry,
    require_entry,
    require_own,
    stored,
    verify,
)

__all__ = [
    "MODELS_FOLDER",
    "Entry",
    "known",
    "named",
    "not_here",
    "places",
    "published",
    "pull",
    "registry",
    "require_entry",
    "require_own",
    "stored",
    "verify",
]
