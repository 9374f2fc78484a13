"""`terramorph qgis`: the QGIS plug-in, as an archive that QGIS installs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from terramorph.cli.choices import option
from terramorph.cli.console import say
from terramorph.errors import InputError

NAME = "qgis"
EXAMPLE = "Example: terramorph qgis --out terramorph-qgis.zip"


def run(
    out: Annotated[Path, option("Output file, ending in .zip; an existing one is replaced.")] = Path(
        "terramorph-qgis.zip"
    ),
) -> None:
    """Write the QGIS plug-in; in QGIS: Plugins > Manage and Install Plugins > Install from ZIP."""
    from terramorph.qgis import write_plugin

    if out.suffix.lower() != ".zip":
        raise InputError(f"--out must end in .zip, got {out}.")
    write_plugin(out)
    say(f"{out}: in QGIS choose Plugins > Manage and Install Plugins > Install from ZIP, and this file.")
