"""`terramorph draw`: a page on which people draw a map and see the photograph, computed in the browser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from terramorph.cli.choices import (
    Allow,
    QualityPairs,
    QualityWeights,
    Stored,
    argument,
    from_here,
    option,
    refuse_without_effect,
)
from terramorph.cli.console import say

NAME = "draw"
EXAMPLE = (
    "Example: terramorph draw town-map2sat --one-file draw.html | "
    "terramorph draw runs/m2s/model.safetensors runs/s2m/model.safetensors --out site --data data/maps"
)


def run(
    context: typer.Context,
    model: Annotated[str, argument("Map-to-photograph model: a bundle, a run, a name or a file of `export --web`.")],
    back: Annotated[str | None, argument("Photograph-to-map model, for images dropped on the page.")] = None,
    out: Annotated[Path | None, option("Output folder of the page, for any web server.")] = None,
    one_file: Annotated[Path | None, option("Output .html file that holds the whole page and needs no server.")] = None,
    store: Annotated[
        Stored | None, option("Weight format. Default: int8 where the loss of quality is small, else fp16.")
    ] = None,
    data: QualityPairs = None,
    weights: QualityWeights = None,
    force: Annotated[bool, option("Accept a --store that loses too much quality.", "--force")] = False,
    style: Annotated[
        str, option("Style of the drawn map, that of the training maps: classic, osm, classes, or a TOML file.")
    ] = "classic",
    allow: Allow = None,
) -> None:
    """Write a page on which a map is drawn and the photograph of that place appears, computed in the browser."""
    from terramorph.bundle import load_bundle
    from terramorph.cartography import load_style
    from terramorph.cli.export import smallest, write_web
    from terramorph.draw import WebModel, check_folder, check_models, write_one_file, write_site
    from terramorph.errors import InputError

    if out is None and one_file is None:
        raise InputError("The output is missing; give --out FOLDER, --one-file FILE.html, or both.")
    if one_file is not None and one_file.suffix != ".html":
        raise InputError(f"--one-file must end in .html, got {one_file}.")
    names = [model, *([back] if back else [])]
    if all(Path(name).suffix == ".onnx" for name in names):
        refuse_without_effect(
            context,
            ("store", "data", "weights", "force", "allow"),
            "on files of `export --web`, which stay as they are",
        )
    if store is None:
        refuse_without_effect(context, ("force",), "without --store")
    if out is not None:
        check_folder(out)
    looks = load_style(style)
    opened = [
        WebModel.of_file(Path(name)) if Path(name).suffix == ".onnx" else load_bundle(name, from_here(allow))
        for name in names
    ]
    headers = [one.stated[0] if isinstance(one, WebModel) else one.header for one in opened]
    check_models(list(zip(names, headers, strict=True)))
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, bundle) in enumerate(zip(names, opened, strict=True)):
            if isinstance(bundle, WebModel):  # of `export --web`, unchanged
                models.append(bundle)
                continue
            network = Path(folder) / f"{number}.onnx"
            if store is None:
                smallest(bundle, network, data=data, weights=weights)
            else:
                write_web(bundle, network, store, data=data, weights=weights, force=force)
            models.append(WebModel.of(bundle, network, name))
        if out is not None:
            write_site(models, out, style=looks)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            say(f"{out}: {size / 1e6:.1f} MB; put it on any web server, or look: python -m http.server -d {out}")
        if one_file is not None:
            write_one_file(models, one_file, style=looks)
            say(f"{one_file}: {one_file.stat().st_size / 1e6:.1f} MB; open it in a browser, from anywhere.")
