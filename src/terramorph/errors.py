"""Errors that terramorph raises on purpose.

    TerramorphError
    ├── InputError (ValueError)          something given to us is wrong: the command line exits with 2
    │   ├── ConfigError                  an unknown key, a value out of range, an unknown preset
    │   ├── DatasetError                 a pair that cannot be used, an empty split
    │   ├── RasterError                  an image or raster that cannot be read
    │   ├── BundleError                  a model file that is damaged, too new, or not a bundle
    │   └── CheckpointError              a foreign or saved checkpoint that does not fit
    └── RunError (RuntimeError)          the work itself failed: the command line exits with 1
        ├── TrainingDivergedError        a loss or a weight is no longer finite
        ├── StorageError (OSError)       the disk is full or cannot be written
        └── MissingPackageError (ImportError)   an optional package is not installed

A message is one sentence or two that say what is wrong, where, and what to do. Input that is doubtful but usable is
reported by `warn`. Keys and passwords in addresses are left out of messages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from typing import Any

from terramorph.redaction import redact_text


class TerramorphError(Exception):
    """The root of all errors raised on purpose."""

    def __init__(self, *args: object) -> None:
        """Redact the message: what a library says of an address may end with a key."""
        super().__init__(*(redact_text(arg) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message: a worker's error comes back, though `StorageError` has two layouts."""
        return type(self), self.args, self.__dict__ or None


class InputError(TerramorphError, ValueError):
    """Something given to terramorph is wrong."""


class ConfigError(InputError):
    """A configuration cannot be used."""


class DatasetError(InputError):
    """A dataset, or one of its pairs, cannot be used."""


class RasterError(InputError):
    """An image or raster cannot be read or written as asked."""


class BundleError(InputError):
    """A bundle is damaged, too new, or not a bundle."""


class CheckpointError(InputError):
    """A checkpoint cannot be read or does not fit."""


class RunError(TerramorphError, RuntimeError):
    """The work itself failed."""


class TrainingDivergedError(RunError):
    """A loss or a weight is no longer a finite number."""


class StorageError(RunError, OSError):
    """Something could not be written."""


class MissingPackageError(RunError, ImportError):
    """An optional package is needed and not installed."""


def raised_as(
    kind: type[TerramorphError], what: str, advice: str, *libraries: type[Exception]
) -> AbstractContextManager[None]:
    """Convert a library's errors in a block to one of ours: what is wrong, the library's reason, what to do.

        with raised_as(RasterError, f"{path} cannot be read", "copy it again", OSError):

    Args:
        kind: Class of our error.
        what: Beginning of its sentence.
        advice: End of its sentence, without the full stop.
        libraries: Classes of the library's errors; none: all, for libraries whose classes share no base.
    """
    return converted(lambda reason: kind(f"{what} ({reason}); {advice}."), *libraries)


@contextmanager
def converted(make: Callable[[str], TerramorphError], *libraries: type[Exception]) -> Iterator[None]:
    """Convert a library's errors in a block to the error that is made of its reason; ours pass as they are."""
    try:
        yield
    except TerramorphError:
        raise
    except Exception as error:
        if libraries and not isinstance(error, libraries):
            raise
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        text = " ".join(str(reason).split())[:300].rstrip(".") or type(error).__name__
        # An error that names a key or a password is not shown beneath ours.
        raise make(text) from (error if redact_text(str(error)) == str(error) else None)


def unreadable(path: object) -> AbstractContextManager[None]:
    """Convert OSErrors of reading a file to a `RasterError` that names it."""
    return raised_as(RasterError, f"{path} cannot be read", "check its permissions", OSError)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message, or else its class, without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def did_you_mean(word: object, known: Iterable[str], others: str = "") -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all known ones.

    Args:
        word: The unknown one.
        known: Known words.
        others: Other values that are accepted, as ", or a .toml file".
    """
    known = list(known)
    close = get_close_matches(str(word), known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}{others}."


class InputWarning(UserWarning):
    """Something given to terramorph is doubtful, and is used all the same."""


def warn(sentence: str) -> None:
    """Issue an `InputWarning`. The command line prints each sentence once, on standard error."""
    warnings.warn(redact_text(sentence), InputWarning, stacklevel=3)
