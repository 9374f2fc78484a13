"""Networks for browsers and the loss of quality of their small weights: for `export --web`, `draw` and `demo`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terramorph.cli.console import Meter, say, warn
from terramorph.errors import ConfigError

if TYPE_CHECKING:
    from terramorph.bundle import Bundle
    from terramorph.interop import QualityLoss, Store

SCORED = 64
"""Number of pairs on which the loss of quality is measured."""
TOWN_SEEDS = 100, 101
"""Seeds of towns that no published model was trained on."""


class RefusedLossError(ConfigError):
    """Loss of quality by small weights above the limit."""


def write_web(
    bundle: Bundle,
    output: Path,
    store: Store,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    force: bool = False,
) -> None:
    """Write a network with small weights, with its measured loss of quality as metadata.

    Raises:
        RefusedLossError: If the loss is above its limit, without `force`.
    """
    from terramorph.atomic import atomic
    from terramorph.interop import export_web, note_loss

    with tempfile.TemporaryDirectory() as folder:
        made = export_web(bundle, Path(folder) / "web.onnx", store=store)
        loss = _loss(bundle, made, store, data, weights, Path(folder))
        if loss is not None:
            note_loss(made, loss)
            if loss.refused and not force:
                raise RefusedLossError(
                    f"Weights in {store} cost too much: {loss}, and the limit is {loss.limit}; "
                    f"{'use `store` fp16, or ' if store == 'int8' else ''}accept the loss with `force`."
                )
        with atomic(output, make_folder=True) as part:
            part.write_bytes(made.read_bytes())
    if loss is None:
        warn("The quality loss of small weights was not measured; give pairs with --data.")
    else:
        say(f"Weights in {store}: {loss}.")


def smallest(bundle: Bundle, output: Path, *, data: Path | None, weights: Path | None) -> None:
    """Write a network in 8 bits where the measured loss of quality is small, else in fp16."""
    if data is not None or _is_of_towns(bundle):
        try:
            return write_web(bundle, output, "int8", data=data, weights=weights)
        except RefusedLossError:
            say("Weights in int8 cost too much quality, so they are stored in fp16.")
    write_web(bundle, output, "fp16", data=data, weights=weights)


def _is_of_towns(bundle: Bundle) -> bool:
    return "town" in str(bundle.header.data.get("name", ""))


def _loss(
    bundle: Bundle, made: Path, store: Store, data: Path | None, weights: Path | None, folder: Path
) -> QualityLoss | None:
    """Return the loss of quality of the file's weights; None without pairs."""
    from terramorph.interop import WEB_LIMITS, QualityLoss, export_web
    from terramorph.pairs import has_split

    if data is None and not _is_of_towns(bundle):
        return None
    of = "pairs of val"
    if data is None:
        data, of = _town_pairs(folder / "town", bundle.header.size), "pairs of procedural towns"
    elif not has_split(data, "val"):
        return None
    plain = export_web(bundle, folder / "float32.onnx", store="fp32")
    before, after = compared(plain, made, store, data, SCORED, weights)
    return QualityLoss.between(before, after, of, WEB_LIMITS)


def _town_pairs(folder: Path, size: int) -> Path:
    from terramorph.town import make_town, write_town_pairs

    with Meter("making towns", len(TOWN_SEEDS)) as meter:
        for number, seed in enumerate(TOWN_SEEDS, start=1):
            town = make_town(max(768, 2 * size), seed)
            made = folder / str(seed)
            write_town_pairs(town, made, tile=size, stride=size, limit=(1, SCORED // len(TOWN_SEEDS)))
            for pair in (made / "val").iterdir():
                target = folder / "val" / f"{seed}_{pair.name}"
                target.parent.mkdir(exist_ok=True)
                pair.rename(target)
            meter.update(number)
    return folder


def compared(
    plain: Path, made: Path, called: str, data: Path, limit: int, weights: Path | None = None
) -> list[dict[str, Any]]:
    """Return the scores of a float32 export and of a smaller one on the same pairs of val, in the same runtime."""
    from terramorph.evaluation import evaluate

    found = []
    for network, label in ((plain, "scoring float32"), (made, f"scoring {called}")):
        with Meter(label) as meter:
            found.append(evaluate(network, data, split="val", limit=limit, weights=weights, progress=meter.update))
    return found
