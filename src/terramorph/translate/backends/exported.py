"""What an exported network says of itself, whichever runtime has opened it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from terramorph.bundle import Header
from terramorph.errors import BundleError


def check_file(path: Path) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        raise BundleError(f"There is no file {path}; export one with `terramorph export`.")


def damaged(path: Path, error: Exception) -> BundleError:
    """Return the error to raise where a runtime cannot read a file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    detail = lines[-1].strip().rstrip(".") if lines else type(error).__name__
    return BundleError(f"{path} is damaged or not an ONNX file ({detail}); export it again.")


def read_header(path: Path, properties: Mapping[str, str], *, accept_quality_loss: bool) -> Header:
    """Read the header in an exported file's metadata."""
    try:
        header = Header.model_validate_json(properties["terramorph"])
    except (KeyError, ValidationError) as error:
        raise BundleError(
            f"{path} does not hold the terramorph header; export it again with `terramorph export`."
        ) from error
    if properties.get("quality") == "refused" and not accept_quality_loss:
        raise BundleError(
            f"{path} lost too much in 8 bits ({properties.get('quality_loss', 'it does not say how much')}); export it "
            "without `int8`, or use it all the same with `accept_quality_loss`."
        )
    return header


def digest(path: Path) -> str:
    """Return a digest of a file's content, for the name of a backend: 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
