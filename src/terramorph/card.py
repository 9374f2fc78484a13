"""Model cards (Mitchell et al. 2019, arXiv:1810.03993) in Markdown, from a bundle and the registry."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from terramorph.header import Bands, Header, find_bundle, parameter_count, read_header
from terramorph.metrics import METRICS
from terramorph.models import Entry, published
from terramorph.models.hub import FILE, upload

_PICTURED = "*A procedural town: what the model is given, what it makes of it, and what would be right.*"


def model_card(model: str | Path, picture: str = "", name: str | None = None) -> str:
    """Return the card of a bundle.

    Args:
        model: See `find_bundle`.
        name: Its name; None: its name in the registry, else as given.
        picture: Address of a picture of a procedural town: source, output, target.

    Returns:
        Markdown. A published model's licence, rights and scores are those of the registry.

    Raises:
        BundleError: As for `read_header`.
    """
    path = find_bundle(model)
    header = read_header(path)
    entry = published(path)
    name = name or (entry.name if entry else str(model))
    return "\n".join(
        [
            *(f"# {name}", "", entry.about if entry else f"A bundle of terramorph, {header.direction}.", ""),
            *([f"**{header.note}**", ""] if header.note else []),
            *("## Use", "", f"    terramorph translate {name} input.tif output.tif", "", _use(header), ""),
            *([f"![A procedural town: source, output, target]({picture})", "", _PICTURED, ""] if picture else []),
            *("## What it is", "", *_table(("", ""), _facts(path, header)), ""),
            *("## Training", "", *_training(header, entry), ""),
            *("## Scores", "", *_scores(header, entry), ""),
            *("## Limits", "", *_limits(header), ""),
        ]
    )


def push(model: str | Path, repo: str, *, private: bool = False, licence: str | None = None) -> str:
    """Upload a bundle to the Hugging Face Hub, its card as README.md; `load("hf://owner/name")` then loads it.

    Args:
        model: See `find_bundle`.
        repo: owner/name; the repository is made if it is not there.
        private: Make a new repository private; an existing one must be private already.
        licence: Licence of the weights, as the Hub abbreviates it, such as mit or cc-by-4.0; None: other, as in the
            card.

    Returns:
        The address of the repository.

    Raises:
        BundleError: If the model is no bundle, or the Hub does not let one write there.
        RunError: If the Hub cannot be reached, or refuses the files.
        MissingPackageError: If huggingface_hub is not installed.
    """
    path = find_bundle(model)
    card = _front_matter(read_header(path), licence or "other") + model_card(path, name=f"hf://{repo}")
    return upload(repo, {FILE: path, "README.md": card.encode()}, private=private)


def _front_matter(header: Header, licence: str) -> str:
    """Return the card's metadata for the Hub: YAML, of which JSON is a part."""
    sides = ["satellite-to-map" if header.direction == "AtoB" else "map-to-satellite"]
    said = {
        "license": licence,
        "library_name": "terramorph",
        "pipeline_tag": "image-to-image",
        "tags": ["terramorph", "pix2pix", "remote-sensing", "maps", *sides, header.architecture.name],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _use(header: Header) -> str:
    metres = header.ground_resolution
    scale = f" A pixel should be about {metres:g} m on the ground." if metres else ""
    return f"It takes {_side(header.source)} and gives {_side(header.target)}; images of any size.{scale}"


def _facts(path: Path, header: Header) -> list[tuple[str, Any]]:
    settings = ", ".join(f"{key} {value}" for key, value in header.architecture.settings.items())
    return [
        ("Network", f"{header.architecture.name} ({settings})"),
        ("Parameters", f"{parameter_count(path) / 1e6:.2f} million, {path.stat().st_size / 1e6:.1f} MB"),
        ("Direction", header.direction),
        ("Trained at", f"{header.size} px"),
        ("Receptive field", "not bounded: windows overlap" if header.halo is None else f"{header.halo} px around"),
        ("Mode", header.mode),
        ("Format", f"{header.format}, terramorph {header.made_by}"),
    ]


def _training(header: Header, entry: Entry | None) -> list[str]:
    rows = [(str(key), value) for key, value in header.data.items()]
    if entry:
        rows += [("trained on", entry.trained_on), ("rights", entry.rights), ("licence", entry.licence)]
        rows += [("sha256", entry.sha256)]
    return _table(("", ""), rows) if rows else ["The bundle does not say."]


def _scores(header: Header, entry: Entry | None) -> list[str]:
    scores = entry.scores if entry else header.scores
    rows = [(_named(key), _said(key, value)) for key, value in scores.items() if value is not None]
    return _table(("", ""), rows) if rows else ["None were recorded; `terramorph evaluate` measures them."]


def _named(key: str) -> str:
    """Return the name of a score; a recorded score is prefixed with its split."""
    split, _, figure = key.rpartition(" ")
    metric = METRICS.get(figure)
    if metric is None:
        return {"n": "pairs"}.get(key, key)
    way = "higher" if metric.higher_is_better else "lower"
    return f"{f'{split}: ' if split else ''}{metric.name} ({way} is better)"


def _said(key: str, value: int | float | str) -> str:
    metric = METRICS.get(key.rpartition(" ")[2])
    return str(value) if metric is None or isinstance(value, str) else metric.said(value)


def _limits(header: Header) -> list[str]:
    lines = [
        "- Its output is generated, not observed: it shows what is likely there, and is no source for navigation, "
        "surveying or decisions about a place.",
        "- Ground, sensors and map styles unlike those of the training pairs are translated badly, and nothing tells.",
    ]
    if header.ground_resolution:
        lines.append("- Images of another ground resolution are refused, unless asked for all the same.")
    return lines


def _side(bands: Bands) -> str:
    return f"{bands.count} band{'s' * (bands.count != 1)} of {bands.dtype} ({', '.join(bands.names)})"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> list[str]:
    cells = [tuple(str(value).replace("|", "\\|").replace("\n", " ") for value in row) for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ("---", "---"), *cells)]
