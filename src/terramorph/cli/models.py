"""`terramorph models`: published models: list, pull, verify, card, and push to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from terramorph.cli.choices import argument, option, refuse_without_effect
from terramorph.cli.console import Meter, say, show_columns
from terramorph.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from PIL import Image

_TOWN = 512
"""Side of the town in a card's picture, pixels."""

NAME = "models"
EXAMPLE = "Example: terramorph models pull sat2map | terramorph models card sat2map > card.md"


Action = Literal["list", "pull", "verify", "card", "push"]


def run(
    context: typer.Context,
    action: Annotated[Action, argument("list all; pull or verify one, print its card, or push it.")] = "list",
    name: Annotated[
        str | None, argument("Name of a model, or hf://OWNER/NAME. verify: default all. card, push: also any bundle.")
    ] = None,
    repo: Annotated[str | None, argument("push: OWNER/NAME on the Hugging Face Hub.")] = None,
    out: Annotated[
        Path | None, option("card: output folder for card.md and town.png, the model on a procedural town.")
    ] = None,
    url: Annotated[
        list[str] | None, option("pull: URL of the file, tried before the published ones; repeatable.")
    ] = None,
    private: Annotated[bool, option("push: visible only to you or your organisation.", "--private")] = False,
    licence: Annotated[
        str | None, option("push: licence of the weights by its name on the Hub: mit, cc-by-4.0. Default: other.")
    ] = None,
) -> None:
    """List the published models, fetch one, check its bytes, print its card, or push one to the Hugging Face Hub."""
    if action not in ("list", "verify") and name is None:
        raise ConfigError(f"`models {action}` needs the name of a model; `terramorph models` lists them.")
    if name is not None and action == "list":
        raise ConfigError(f"`models list` lists all of them; leave {name} out, or see `models card {name}`.")
    for of, options in (("pull", ("url",)), ("card", ("out",)), ("push", ("repo", "private", "licence"))):
        if action != of:
            refuse_without_effect(context, options, f"on `models {action}`")
    if action == "push":
        _push(str(name), repo, private, licence)
    elif action == "pull":
        _pull(str(name), url or [])
    elif action == "verify":
        _verify(name)
    elif action == "card":
        _card(str(name), out)
    else:
        _list()


def _list() -> None:
    from terramorph.models import places, registry

    rows = []
    for entry in registry().values():
        found = places(entry)
        where = str(found[0]) if found else "not on this machine" + ("" if entry.urls else ", no address yet")
        rows.append((entry.name, f"{entry.bytes / 1e6:.1f}", f"{entry.ground_resolution:g}", where))
    show_columns("published models", ("name", "MB", "m/px", "where"), rows)
    for entry in registry().values():
        say(f"{entry.name}: {entry.about} {entry.licence}")


def _card(name: str, out: Path | None) -> None:
    from terramorph.card import model_card

    if out is None:
        print(model_card(name), end="")
        return
    from terramorph.atomic import atomic, write_text

    picture = _town(name)
    with atomic(out / "town.png", make_folder=True) as part:
        picture.save(part, "PNG")
    write_text(out / "card.md", model_card(name, "town.png"))
    say(f"Card: {out / 'card.md'}. Picture: {out / 'town.png'}.")


def _town(name: str) -> Image.Image:
    """Return source, output and target of a town beside each other."""
    import numpy as np
    from PIL import Image

    from terramorph.town import make_town
    from terramorph.translate import load

    model = load(name)
    town = make_town(size_px=_TOWN, seed=0, resolution=model.header.ground_resolution or 1.0)
    source, target = (town.aerial(), town.map())[:: 1 if model.header.direction == "AtoB" else -1]
    shown = [raster.pixels.transpose(1, 2, 0) for raster in (source, model.translate(source), target)]
    if any(pixels.shape != shown[0].shape or pixels.dtype != np.uint8 for pixels in shown):
        raise ConfigError(
            f"The picture needs a model of three uint8 bands, and {name} is not; leave out --out for the card alone."
        )
    return Image.fromarray(np.concatenate(shown, axis=1))


def _push(name: str, repo: str | None, private: bool, licence: str | None) -> None:
    from terramorph.card import push

    if repo is None:
        raise ConfigError("`models push` needs a repository: terramorph models push NAME OWNER/NAME.")
    say(f"{push(name, repo, private=private, licence=licence)}: {name} and its card.")


def _pull(name: str, urls: list[str]) -> None:
    from terramorph.models import pull, require_entry
    from terramorph.models.hub import fetch, is_on_hub

    if is_on_hub(name):
        if urls:
            raise ConfigError("--url is for published models, not for those of the Hub; leave it out.")
        say(f"{fetch(name)}: {name}, its sha256 is right.")
        return
    entry = require_entry(name)
    with Meter(f"downloading {name}") as meter:
        path = pull(entry, urls, progress=lambda have, size: meter.update(have // 10**6, size // 10**6, "MB"))
    say(f"{name}: {path}, checksum verified. {entry.licence}")


def _verify(name: str | None) -> None:
    from terramorph.models import not_here, places, registry, require_entry, verify

    entries = [require_entry(name)] if name else list(registry().values())
    if name and not places(entries[0]):
        raise not_here(entries[0])
    wrong = []
    for entry in entries:
        found = places(entry)
        if not found:
            say(f"{entry.name}: not on this machine.")
        for path in found:
            right = verify(path, entry)
            say(f"{entry.name}: {path} {'has' if right else 'does not have'} the published checksum.")
            if not right:
                wrong.append(str(path))
    if wrong:
        raise BundleError(f"{', '.join(wrong)}: the sha256 differs from the registry; remove the file and pull again.")
