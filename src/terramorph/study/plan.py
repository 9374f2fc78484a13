"""The plan of a tuning study: fixed before its first trial, in STUDY/study.json, the same for all processes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from terramorph.atomic import locked, write_text
from terramorph.bundle import Bands, Bundle
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, StorageError, did_you_mean, raised_as
from terramorph.evaluation import evaluate
from terramorph.metrics import MAIN, METRICS
from terramorph.networks import build_generator
from terramorph.pairs import open_pairs
from terramorph.pixels import Scaling
from terramorph.study.definition import stretched
from terramorph.study.run import require_same
from terramorph.study.space import Space, changed, load_space, space_of
from terramorph.study.splits import choose_splits, link_pairs
from terramorph.training import TrainConfig, parse_config
from terramorph.training.optimizer import total_steps
from terramorph.translate import Model

PLAN = "study.json"
TUNING = "tuning"
IN_FOLDER = "a file of its own"
"""Value of `StudyPlan.storage` without a database."""
ETA = 3
"""Factor from one rung to the next; one trial in `ETA` continues."""
_FORMAT = 2
_LOOK = 8  # pairs that an untrained network is scored on, to find which metrics can be computed
_MOMENT = 120.0  # seconds to wait for another process that writes study.json


@dataclass(frozen=True)
class StudyOptions:
    """Options of a tuning study.

    Attributes:
        objectives: Metrics that rank trials; several give a Pareto front, and no trial is pruned. Empty for the first
            main metric that can be computed.
        trials: Total number of trials, those of earlier calls and other processes included.
        budget: Seconds of this call; None for no limit.
        images: Training images of a trial that is not pruned; None for the preset's whole schedule.
        rungs: Number of rungs; with 1 no trial is pruned.
        jobs: Number of processes on this machine.
        space: TOML file of the search space; None for the default space.
        storage: URL of a database that machines share; None for an SQLite file in the study's folder.
        weights: Folder with the weights of LPIPS and FD; None for the one given last.
        mlflow: Log every trial to an MLflow store too.
    """

    objectives: tuple[str, ...] = ()
    trials: int = 40
    budget: float | None = None
    images: int | None = None
    rungs: int = 3
    jobs: int = 1
    space: Path | None = None
    storage: str | None = None
    weights: Path | None = None
    mlflow: bool = False

    def __post_init__(self) -> None:
        for name in ("trials", "jobs", "rungs", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}.")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"budget must be > 0 s, got {self.budget:g}.")


class StudyPlan(BaseModel):
    """Plan that all trials of a study share: STUDY/study.json.

    Attributes:
        dataset: Folder of pairs, absolute.
        preset: Configuration that trials change; trial 0 is the preset itself.
        objectives: Metrics; the first ranks trials.
        rungs: Images seen at each rung, ascending; the last is the whole length.
        space: Search space.
        tuned_on: Pairs that trials are scored on, in words.
        confirmed_on: Split that only the confirmation is scored on.
        storage: Whether the trials are in a file of the study or in a database.
        weights: Folder with the weights of LPIPS and FD, absolute; it may change between calls.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    dataset: Path
    preset: Annotated[TrainConfig, BeforeValidator(lambda it: it if isinstance(it, TrainConfig) else parse_config(it))]
    objectives: tuple[str, ...]
    rungs: tuple[int, ...] = Field(alias="images")
    space: Annotated[
        Space,
        BeforeValidator(lambda it: it if isinstance(it, Space) else space_of(it, "The space")),
        PlainSerializer(lambda space: {key: one.plain() for key, one in space.parameters.items()}),
    ]
    tuned_on: str = Field(alias="tuned on")
    confirmed_on: str = Field(alias="confirmed on")
    storage: str
    weights: Path | None = None

    def config_of(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a trial; raise ConfigError if the settings do not fit together."""
        config = changed(self.preset, values)
        return stretched(config, -(-self.rungs[-1] // config.per_step))

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude={"weights"})


def make_plan(
    dataset: Path, out: Path, preset: TrainConfig, options: StudyOptions, allowed: Collection[str] = ()
) -> StudyPlan:
    """Plan a new study, or check that the one in OUT is the same; nothing is written."""
    space = load_space(options.space)
    if options.space is None:
        space = space.fitted(preset)
    else:
        space.check(preset, f"The space {options.space}")
    splits = choose_splits(dataset, preset.seed)
    begun = load_plan(out) if (out / PLAN).is_file() else None
    weights = options.weights.resolve() if options.weights else begun.weights if begun else None
    objectives = choose_objectives(options.objectives, dataset, splits.tuning_split, preset, weights, allowed)
    whole = total_steps(preset.schedule, len(splits.train), preset.per_step, preset.max_steps) * preset.per_step
    rungs = rungs_of(options.images or whole, options.rungs if len(objectives) == 1 else 1)
    sizes = space.parameters["batch_size"].samples() if "batch_size" in space.parameters else ()
    step = preset.accumulate * max([preset.batch_size, *sizes])
    if rungs[0] < step:
        raise ConfigError(
            f"The first rung must be >= {step} images, one step, got {rungs[0]}; give more `images` or fewer `rungs`."
        )
    source = "the val split" if splits.tuning_split == "val" else "train, held out from the trials"
    plan = StudyPlan(
        dataset=dataset.resolve(),
        preset=preset,
        objectives=objectives,
        rungs=rungs,
        space=space,
        tuned_on=f"{len(splits.tuning)} pairs of {source}",
        confirmed_on=splits.confirmation,
        storage="a database" if options.storage else IN_FOLDER,
        weights=weights,
    )
    if begun is not None:
        require_same(out, "study", begun.identity(), plan.identity())
    return plan


def rungs_of(images: int, count: int) -> tuple[int, ...]:
    """Return `count` rungs, each `ETA` times the one before, up to `images`; raise ConfigError if one is empty."""
    if images // ETA ** (count - 1) < 1:
        raise ConfigError(f"{images} images are too few for {count} rungs; give more `images` or fewer `rungs`.")
    return tuple(round(images / ETA**n) for n in reversed(range(count)))


def keep_plan(out: Path, plan: StudyPlan) -> None:
    """Bind OUT to a plan: link its pairs and write study.json, unless that is done."""
    splits = choose_splits(plan.dataset, plan.preset.seed)
    with in_turn(out):
        begun = load_plan(out) if (out / PLAN).is_file() else None
        if begun is not None:
            require_same(out, "study", begun.identity(), plan.identity())
            plan = plan.model_copy(update={"weights": plan.weights or begun.weights})
        # Links without a plan are from a call that failed, and may be of another dataset.
        link_pairs(plan.dataset, splits, out / TUNING, anew=begun is None or begun.dataset != plan.dataset)
        if plan != begun:
            document = plan.model_dump(mode="json", by_alias=True) | {"format": _FORMAT}
            write_text(out / PLAN, json.dumps(document, indent=1) + "\n")


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Hold the study's lock; other processes wait."""
    busy = StorageError(f"Another process holds {out / 'lock'}; end it if it hangs.")
    with raised_as(StorageError, f"{out} cannot be written", "check the folder", OSError):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "lock", busy, _MOMENT):
            yield


def load_plan(out: Path) -> StudyPlan:
    """Read the plan of a study."""
    path = out / PLAN
    if not path.is_file():
        raise ConfigError(f"{out} holds no study ({PLAN} is missing); tune a dataset into it first.")
    kinds = (OSError, ValueError, TypeError, AttributeError)
    with raised_as(StorageError, f"{path} cannot be read", "restore it, or choose another `out`", *kinds):
        values = parse_json(path.read_text(encoding="utf-8"))
        if values.pop("format", None) != _FORMAT:
            raise ConfigError(f"{out} was made by another version of terramorph tune; choose another `out`.")
        plan = StudyPlan.model_validate(values)
    unknown = next((name for name in plan.objectives if name not in METRICS), None)
    if unknown is not None:
        raise ConfigError(
            f"The metric {unknown!r}, which ranks the trials of {out}, is unknown here; give it as `metric`."
        )
    return plan


def choose_objectives(
    asked: Sequence[str],
    dataset: Path,
    split: str,
    preset: TrainConfig,
    weights: Path | None,
    allowed: Collection[str] = (),
) -> tuple[str, ...]:
    """Validate objectives, or choose the first that can be computed, by scoring an untrained network.

    Objectives are metrics, for losses do not rank GANs: each network's loss depends on the other network, which differs
    from trial to trial.

    Raises:
        ConfigError: If a metric is unknown, named twice, or cannot be computed here.
        InputError: If the weights are damaged.
        DatasetError: If the pairs do not fit the network.
    """
    for name in asked:
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {did_you_mean(name, METRICS)}")
    if len(set(asked)) < len(asked):
        raise ConfigError(f"The objectives must differ, got {', '.join(asked)}.")
    model = Model(_untrained(dataset, split, preset, allowed), device=preset.device)
    document = evaluate(model, dataset, split=split, weights=weights, limit=_LOOK)
    for name in asked:
        if document[name] is None:
            raise ConfigError(f"The objective {name} cannot be computed here: {document['reasons'][name]}")
    return tuple(asked) or (next(name for name in MAIN if document[name] is not None),)


def _untrained(dataset: Path, split: str, preset: TrainConfig, allowed: Collection[str]) -> Bundle:
    """Return a bundle as that of a trial, with random weights."""
    data, pair = preset.data, open_pairs(dataset, split, nodata=preset.data.nodata).read(0)
    bands = []
    for side, given in zip(pair.sides(preset.direction), (data.source_range, data.target_range), strict=True):
        whole = (0.0, 255.0) if side.pixels.dtype == "uint8" else (float(side.pixels.min()), float(side.pixels.max()))
        low, high = given or whole
        bands.append(Bands.of(side.bands, Scaling(side.dtype.name, low, max(high, low + 1e-6)), side.units))
    source, target = bands
    return Bundle.of(
        build_generator(preset.generator, source.count, target.count, allowed),
        preset.generator.network,
        source=source,
        target=target,
        direction=preset.direction,
        size=data.crop_size,
        recipe=preset.model_dump(mode="json"),
    )
