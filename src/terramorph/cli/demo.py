"""`terramorph demo`: training, translation and evaluation on a procedural town, in under five minutes."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from terramorph.atomic import atomic, write_text
from terramorph.cli.choices import MAX_SEED, Device, option
from terramorph.cli.console import Meter, say
from terramorph.cli.evaluate import show_metrics
from terramorph.errors import InputError, StorageError, raised_as
from terramorph.report import duration
from terramorph.report.numbers import counted

if TYPE_CHECKING:
    from terramorph.raster import Raster
    from terramorph.training import TrainConfig, TrainResult

NAME = "demo"
EXAMPLE = "Example: terramorph demo --out demo-out"

MARKER = "demo.json"
TILE = 128
"""Side of a pair in pixels; the preset's crops are as large."""
STRIDE = 64
"""Step between training tiles in pixels."""
WANTED = 0.5
"""Mean IoU on the held-out map that the default recipe should reach."""
STRIP = 400
"""Side of each picture of the strip, pixels."""
PUBLISHED = "town-sat2map"
"""The published model whose map is shown for comparison, if its file is on this machine."""
PUBLISHED_MAP = f"map_{PUBLISHED}.tif"
DRAWS, DRAW_PAGE = "town-map2sat", "draw.html"
"""The published model of the draw page, and the file of that page."""
SEEN_SEEDS = range(1, 9)
"""Seeds of the towns that `PUBLISHED` was trained on; for these its map is not shown."""


def run(
    out: Annotated[Path, option("Output folder.")],
    size: Annotated[int, option("Size of the town in pixels of 1 m.", min=512)] = 2048,
    seed: Annotated[int, option("Seed of the town.", min=0, max=MAX_SEED)] = 0,
    steps: Annotated[int | None, option("Training steps. Default: the preset's.", min=1)] = None,
    limit: Annotated[float, option("Time limit of training in seconds.", min=1)] = 180.0,
    device: Annotated[Device, option("Device to compute on.")] = "auto",
) -> None:
    """Generate a town, train on three quarters of it, translate and score the last quarter: one HTML page.

    The map by the published model town-sat2map, which has not seen the town, is shown beside.
    """
    started = time.monotonic()
    _claim(out)
    heldout_aerial, heldout_truth = _make_pairs(out, size, seed)

    from terramorph.evaluation import evaluate
    from terramorph.metrics import METRICS
    from terramorph.raster import read_image
    from terramorph.training import load_config
    from terramorph.translate import load

    changes: dict[str, Any] = {"seed": seed, "device": device}
    if steps is not None:
        changes |= {"max_steps": steps}
    config = load_config("demo", changes)
    paces = _use_fastest_threads(config)
    if paces:
        told = ", ".join(f"{pace:.1f} images/s with {counted(count, 'thread')}" for count, pace in paces.items())
        say(f"Training speed: {told}; using the faster.")
    begun = time.monotonic()
    result, shortened = _train(out, config, limit)
    training = time.monotonic() - begun
    if shortened:
        say(
            f"Training stopped at the time limit of {duration(limit)}, after {result.step} of {shortened} steps; a "
            "faster machine scores better."
        )
    made, said, model = out / "map.tif", METRICS["miou"].said, load(str(result.model), device=device)
    model.translate_to(heldout_aerial, made, overwrite=True)
    with Meter("evaluating") as meter:
        metrics = evaluate(model, out / "pairs", out / "evaluation", progress=meter.update)
    pictures = {"input": heldout_aerial, "output": made, "truth": heldout_truth}
    if (path := _published(seed)) is not None:
        pictures[PUBLISHED] = out / PUBLISHED_MAP
        load(path, device=device).translate_to(heldout_aerial, pictures[PUBLISHED], overwrite=True)
    shown = {caption: read_image(picture) for caption, picture in pictures.items()}
    miou, classes = _map_scores(shown["output"], shown["truth"])
    published = _map_scores(shown[PUBLISHED], shown["truth"]) if PUBLISHED in shown else None
    _write_strip(shown.values(), out / "demo.png")
    facts = {
        "miou": miou,
        "classes": classes,
        "published": published,
        "metrics": dict(metrics),
        "steps": result.step,
        "shortened": shortened,
        "training": duration(training),
        "total": duration(time.monotonic() - started),
        "size": size,
        "seed": seed,
        "grid": str(shown["output"].grid.crs),
        "side": shown["output"].width,
        "draw_page": DRAW_PAGE if _write_draw_page(out) else None,
    }
    _write_page(out, shown, facts)
    show_metrics(metrics)
    enough = miou >= WANTED or steps is not None
    verdict = "" if enough else f" (expected {said(WANTED)} or more; was training cut short?)"
    say(f"mean IoU of classes on the held-out map: {said(miou)}{verdict}")
    if published:
        say(f"mean IoU of the published model {PUBLISHED}, not trained on this town: {said(published[0])}")
    say(f"Map: {made} (georeferenced). Report: {out / 'index.html'}")
    say(f"{duration(time.monotonic() - started)} in all.")


def _claim(out: Path) -> None:
    """Make the output folder, or empty one of an earlier demo."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(f"The folder {out} is not empty and was not made by an earlier demo; choose another --out.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out.")
    with raised_as(StorageError, f"The folder {out} cannot be written", "choose another --out", OSError):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / MARKER, json.dumps({"made by": "terramorph demo"}) + "\n")
        for folder in ("pairs", "run", "cache", "evaluation"):
            shutil.rmtree(out / folder, ignore_errors=True)
        for name in (PUBLISHED_MAP, DRAW_PAGE):
            (out / name).unlink(missing_ok=True)


def _make_pairs(out: Path, size: int, seed: int) -> tuple[Path, Path]:
    """Write a town's pairs and its held-out quarter; return the aerial image and true map of the latter."""
    from terramorph.raster import write_image
    from terramorph.town import make_town, write_town_pairs

    with Meter("generating a town", 3) as meter:
        town = make_town(size, seed)
        meter.update(1)
        aerial = town.aerial()
        meter.update(2)
        drawn = town.map()
        meter.update(3)
    paths = out / "aerial.tif", out / "map_true.tif"
    with Meter("writing pairs"):
        for raster, path in zip((aerial, drawn), paths, strict=True):
            write_image(raster.crop(*town.heldout_window), path)
        counts = write_town_pairs(town, out / "pairs", tile=TILE, stride=STRIDE, aerial=aerial, drawn=drawn)
    say(
        f"A town of {size} x {size} m, seed {seed}: {counts.train} pairs to train on, {counts.val} held out "
        f"({TILE} px, 1 m/px)."
    )
    return paths


def _published(seed: int) -> Path | None:
    """Return the file of the published model; None if it is not here, or was trained on the town of this seed."""
    from terramorph.models import places, require_entry, verify

    if seed in SEEN_SEEDS:
        say(f"{PUBLISHED} was trained on the town of seed {seed}; its map is not shown.")
        return None
    entry = require_entry(PUBLISHED)
    path = next((place for place in places(entry) if verify(place, entry)), None)
    if path is None:
        say(f"The published model {PUBLISHED} is not on this machine; its map is not shown.")
    return path


def _write_draw_page(out: Path) -> bool:
    """Write the draw page; return False if that is impossible on this machine."""
    from terramorph.bundle import load_bundle
    from terramorph.draw import WebModel, write_one_file
    from terramorph.errors import BundleError, MissingPackageError
    from terramorph.interop import export_web

    try:
        with tempfile.TemporaryDirectory() as folder, Meter("writing the draw page"):
            bundle = load_bundle(DRAWS)
            network = export_web(bundle, Path(folder) / "web.onnx", store="int8")
            write_one_file([WebModel.of(bundle, network, DRAWS)], out / DRAW_PAGE)
    except (BundleError, MissingPackageError) as error:
        say(f"There is no draw page: {error}")
        return False
    say(f"{out / DRAW_PAGE}: draw a map there, and the photograph appears ({DRAWS}).")
    return True


def _train(out: Path, config: TrainConfig, limit: float) -> tuple[TrainResult, int]:
    """Train; return the planned number of steps too, if the run was cut short after `limit` seconds, else 0."""
    from terramorph.cli.reporting import TrainingReporter
    from terramorph.training import resume, train

    until = time.monotonic() + limit
    folder, cache = out / "run", out / "cache"
    with TrainingReporter(compact=True) as reporter:
        result = train(
            out / "pairs", folder, config, reporter=reporter, should_stop=lambda: time.monotonic() > until, cache=cache
        )
    if result.finished:
        return result, 0
    # With its length set to the steps done, the run only has to finish.
    return resume(folder, cache=cache, max_steps=result.step), result.total


def _use_fastest_threads(config: TrainConfig) -> dict[int, float]:
    """Time one thread and all threads, and set torch to the faster.

    Threads wait for each other at every layer, so several are slower than one while another program uses a core.

    Returns:
        Images per second by number of threads; empty with one thread, or with CUDA.
    """
    import torch

    from terramorph.training.cost import images_per_second

    every = torch.get_num_threads()
    if config.device == "cuda" or torch.cuda.is_available() or every == 1:
        return {}
    with Meter("measuring speed", 2) as meter:
        paces = {}
        for threads in (1, every):
            paces[threads] = images_per_second(config, threads=threads)
            meter.update(len(paces))
    torch.set_num_threads(max(paces, key=lambda threads: paces[threads]))
    return paces


def _map_scores(made: Raster, truth: Raster) -> tuple[float, list[tuple[str, str, float | None]]]:
    """Return the mean IoU over the whole held-out map, and each class with its colour and IoU."""
    import torch

    from terramorph.cartography import CLASSES, MAP_CLASSES, classify
    from terramorph.metrics import confusions, mean_iou, named_iou

    index = torch.arange(len(CLASSES))[:, None, None]
    found, true = (torch.from_numpy(classify(raster.pixels))[None, None] == index for raster in (made, truth))
    confusion = confusions(found, true)[0]
    colours = {c.name: "#{:02x}{:02x}{:02x}".format(*c.rgb) for c in MAP_CLASSES}
    values = named_iou(confusion, CLASSES)
    return float(mean_iou(confusion)), [(name, colours[name], value) for name, value in values.items()]


def _write_strip(shown: Iterable[Raster], path: Path) -> None:
    """Write the pictures side by side, their centres only, to one PNG of 256 colours."""
    import numpy as np
    from PIL import Image

    parts = []
    for raster in shown:
        side = min(STRIP, raster.height)
        start = (raster.height - side) // 2
        middle = raster.crop(start, start, side, side).pixels.transpose(1, 2, 0)
        parts += [middle, np.full((side, 8, 3), 255, np.uint8)]
    strip = np.concatenate(parts[:-1], axis=1)  # no gap after the last
    with atomic(path) as part:
        Image.fromarray(strip).quantize(256, dither=Image.Dither.NONE).save(part, format="PNG", optimize=True)


def _write_page(out: Path, shown: Mapping[str, Raster], facts: dict[str, Any]) -> None:
    """Write index.html, which needs no other file except for its link to the evaluation."""
    from terramorph._version import __version__
    from terramorph.metrics import METRICS
    from terramorph.report.numbers import percent
    from terramorph.report.pages import Cell, Row, Table, picture_uri, render_page

    kinds = {caption: "JPEG" if caption == "input" else "PNG" for caption in shown}
    pictures = [(name, picture_uri(shown[name].pixels, kind, quality=85)) for name, kind in kinds.items()]
    scores, floor, published = facts["metrics"], facts["metrics"]["floor"], facts["published"]
    scored = [metric for key, metric in METRICS.items() if scores[key] is not None]
    chief = [one for one in scored if one.main and one.key != "miou"][:3]
    cards = [
        ("Mean IoU of classes", METRICS["miou"].said(facts["miou"]), "trained here, over the whole map"),
        *((("Mean IoU of classes", METRICS["miou"].said(published[0]), PUBLISHED),) if published else ()),
        *((one.label, one.said(scores[one.key]), f"floor {one.said(floor[one.key])}") for one in chief),
        ("Training", facts["training"], counted(facts["steps"], "step")),
    ]
    by_model = [facts["classes"], *([published[1]] if published else [])]
    recognised: list[Row] = [
        [
            Cell(entries[0][0], entries[0][0], colour=entries[0][1]),
            *(Cell("absent" if iou is None else percent(iou), iou) for _, _, iou in entries),
        ]
        for entries in zip(*by_model, strict=True)
    ]
    told: list[Row] = [
        [f"{one.label} {one.arrow}", *(Cell(one.said(side[one.key]), side[one.key]) for side in (scores, floor))]
        for one in scored
    ]
    page = render_page(
        "terramorph.cli",
        "demo.html.j2",
        pictures=pictures,
        cards=cards,
        recognised=Table(["Class", "IoU", *([f"IoU, {PUBLISHED}"] if published else [])], recognised),
        name=PUBLISHED,
        scores=Table(["Metric", "Model", "Floor"], told, "Floor: what one constant colour scores."),
        version=__version__,
        **facts,
    )
    write_text(out / "index.html", page)
