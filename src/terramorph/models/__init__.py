"""Models by name: the published ones, their files on this machine, and fetching them."""

from terramorph.models.pull import pull
from terramorph.models.registry import Entry, registry, require_entry
from terramorph.models.store import MODELS_FOLDER, known, named, places, published, require_own, stored, verify

__all__ = [
    "MODELS_FOLDER",
    "Entry",
    "known",
    "named",
    "places",
    "published",
    "pull",
    "registry",
    "require_entry",
    "require_own",
    "stored",
    "verify",
]
