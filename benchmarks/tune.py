"""What `terramorph tune` finds: a preset with a planted fault, and the study that mends it, on the town.

    python benchmarks/tune.py                        ten minutes of searching on two cores, about 15 in all
    python benchmarks/tune.py --budget 60 --size 768 a quick look

The preset is `demo` with a learning rate 100 times too high and no L1 term. The table shows what the planted preset,
the found one and `demo` as it should be score on the val split, which no trial was scored on, after as many images
each; and what the study cost beside its training and scoring.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from terramorph.study import StudyOptions, tune
from terramorph.study.run import score, train_to
from terramorph.town import make_town, write_town_pairs
from terramorph.training import load_config

PLANTED = {"optimizer.learning_rate": 0.1, "loss.l1_weight": 0.0}
SHOWN = ("miou", "ssim", "rmse")


class Clock:
    """How long functions of a module took, all calls together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, module: Any, name: str) -> None:
        """Puts a stopwatch around a function."""
        inner: Callable[..., Any] = getattr(module, name)

        def timed(*words: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return inner(*words, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

        setattr(module, name, timed)


class Told:
    """Prints how trials end."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Nothing: a line every half second would be too many."""

    def message(self, text: str) -> None:
        """A line."""
        print(text, flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of searching")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--images", type=int, default=2000, help="of a full trial")
    parser.add_argument("--size", type=int, default=2048, help="side of the town in pixels")
    parser.add_argument("--width", type=int, default=32, help="of the planted preset's generator")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder of the study, to look at")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_town_pairs(make_town(options.size, seed=0), root / "pairs", tile=128)
        preset = load_config("demo", {"generator.width": options.width, "device": "cpu"})
        planted = load_config("demo", {"generator.width": options.width, "device": "cpu", **PLANTED})
        clock, module = Clock(), importlib.import_module("terramorph.study.climb")
        clock.watch(module, "train_to")
        clock.watch(module, "score")
        asked = StudyOptions(trials=options.trials, budget=options.budget, images=options.images)
        study = options.keep or root / "study"
        begun = time.perf_counter()
        found = tune(root / "pairs", study, planted, asked, reporter=Told(), cache=root / "cache")
        took = time.perf_counter() - begun

        right = found.plan.config_of({}).model_copy(update={"optimizer": preset.optimizer, "loss": preset.loss})
        train_to(root / "right", root / "pairs", right, images=options.images, cache=root / "cache")
        runs = {"planted": found.default, "found": found.best}
        table = Table(title=f"val of the town after {options.images} images")
        for column in ("", "trial", *SHOWN):
            table.add_column(column, justify="right" if column else "left")
        for name, trial in runs.items():
            if trial is None or trial.state != "complete":
                table.add_row(name, "-" if trial is None else f"{trial.number}: {trial.state}", *("-" for _ in SHOWN))
                continue
            table.add_row(name, str(trial.number), *_scores(study / "trials" / trial.folder / "run", root))
        table.add_row("demo as it should be", "-", *_scores(root / "right", root))
    Console().print(table)
    states = [trial.state for trial in found.trials]
    print(f"{len(states)} trials in {took:.0f} s: " + ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))))
    inside = sum(clock.seconds.values())
    print(f"training {clock.seconds['train_to']:.1f} s, scoring {clock.seconds['score']:.1f} s, the rest of the study")
    print(f"{took - inside:.1f} s, {100 * (took - inside) / clock.seconds['train_to']:.2f} % of training")
    if found.best is not None:
        print("found:", ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                                  for key, value in found.best.values.items()))  # fmt: skip


def _scores(run: Path, root: Path) -> list[str]:
    overall = score(run, root / "pairs", "val", root / "scores", device="cpu").overall
    return ["-" if overall[name] is None else f"{overall[name]:.4f}" for name in SHOWN]


if __name__ == "__main__":
    main()
