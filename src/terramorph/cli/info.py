"""`terramorph info`: the header of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from terramorph.cli.choices import BundlePath, option
from terramorph.cli.console import show_table
from terramorph.imports import is_outside, module_of

if TYPE_CHECKING:
    from terramorph.header import Bands, Header

NAME = "info"
EXAMPLE = "Example: terramorph info runs/maps/model.safetensors --json"


def run(
    bundle: BundlePath,
    as_json: Annotated[bool, option("Print the whole header as JSON.", "--json")] = False,
) -> None:
    """Print a model's network, direction, bands, resolution, training and scores."""
    from terramorph.header import find_bundle, parameter_count, read_header

    path = find_bundle(bundle)
    header, parameters = read_header(path), parameter_count(path)
    if as_json:
        document = {"path": str(path), "parameters": parameters, **header.model_dump(mode="json")}
        print(json.dumps(document, indent=2))
        return
    show_table(str(path), _rows(path, parameters, header))


def _rows(path: Path, parameters: int, header: Header) -> list[tuple[str, Any]]:
    from terramorph.documents import flat

    settings = ", ".join(f"{key} {value}" for key, value in header.architecture.settings.items())
    metres, name = header.ground_resolution, header.architecture.name
    rows: list[tuple[str, Any]] = [
        (
            "network",
            f"{name}, a class from outside the package; --allow {module_of(name)} lets it run"
            if is_outside(name)
            else name,
        ),
        ("settings", settings),
        ("parameters", f"{parameters / 1e6:.3f} million, {path.stat().st_size / 1e6:.1f} MB on disk"),
        ("direction", header.direction),
        ("input", _side(header.source)),
        ("output", _side(header.target)),
        ("trained at", f"{header.size} x {header.size} px" + (f", {metres:g} m/px" if metres else "")),
        ("sizes", f"any; padded to a multiple of {header.stride} px"),
        ("halo", "not bounded; windows are blended" if header.halo is None else f"{header.halo} px"),
        ("mode", f"{header.mode}{', statistics recalibrated' if header.recalibrated else ''}"),
        ("made by", f"terramorph {header.made_by}, bundle format {header.format}"),
    ]
    rows += [(f"data: {key}", _short(value)) for key, value in header.data.items()]
    rows += [(f"score: {key}", value) for key, value in header.scores.items()]
    rows += [(f"recipe: {key}", value) for key, value in flat(header.recipe).items()]
    if header.note:
        rows.append(("note", header.note))
    return rows


def _side(bands: Bands) -> str:
    names = f"{bands.count} band{'s' * (bands.count != 1)} ({', '.join(bands.names)})"
    stored = f"{names}, {bands.dtype} {bands.low:g} to {bands.high:g}"
    if bands.units is None or bands.physical is None:
        return stored
    low, high = bands.physical
    return f"{stored}, which is {low:g} to {high:g} ({bands.units})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
