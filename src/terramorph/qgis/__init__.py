"""The QGIS plug-in, as an archive that QGIS installs. Its code (`plugin/`) runs inside QGIS, and never here."""

from __future__ import annotations

import zipfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from terramorph._version import __version__
from terramorph.atomic import atomic

FOLDER = "terramorph_qgis"
"""The one folder in the archive, and so the plug-in's name as a Python package."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_plugin(path: str | Path) -> Path:
    """Write the plug-in's archive; the same version of terramorph writes the same bytes.

    Args:
        path: The file to write, replaced if it is there; it appears whole or not at all.

    Returns:
        The path.

    Raises:
        StorageError: If the file cannot be written.
    """
    path, plugin = Path(path), resources.files(__package__) / "plugin"
    files = sorted((file for file in plugin.iterdir() if file.is_file()), key=lambda file: file.name)
    with atomic(path, make_folder=True) as part, zipfile.ZipFile(part, "w") as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{FOLDER}/{file.name}", _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, _content(file))
    return path


def _content(file: Traversable) -> bytes:
    """Read a file of the plug-in, with the version of terramorph in its metadata."""
    content = file.read_bytes()
    return content.replace(b"{version}", __version__.encode()) if file.name == "metadata.txt" else content
