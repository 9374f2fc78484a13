"""Plan of a tuning study: settled before its first trial, kept in STUDY/study.json, the same for all who join in."""

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
from terramorph.training.schedule import total_steps
from terramorph.translate import Model

PLAN = "study.json"
TUNING = "tuning"
IN_FOLDER = "a file of its own"
"""Where trials are kept, in words, if no database is named."""
ETA = 3
"""Factor from one rung to the next; one trial in so many goes on."""
_FORMAT = 2
_LOOK = 8  # pairs that an untrained network is scored on, to see which metrics can be computed
_MOMENT = 120.0  # seconds that another process is waited for while it writes study.json


@dataclass(frozen=True)
class StudyOptions:
    """Options of a tuning study.

    Attributes:
        objectives: metrics that rank trials; several give a Pareto front, and no trial is pruned. Empty for the first
            of the main metrics that can be computed.
        trials: in all, those of earlier calls and other processes included.
        budget: seconds of this call; None for no limit.
        images: that a trial sees if it is never pruned; None for the preset's whole schedule.
        rungs: times a trial is scored; 1 to prune nothing.
        jobs: processes of this machine.
        space: TOML file of what may be changed; None for the default space.
        storage: URL of a database that machines share; None for an SQLite file in the study's folder.
        weights: folder with the weights of LPIPS and FD; None for the one that was given last.
        mlflow: keep every trial in an MLflow store too.
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
        dataset: folder of pairs, absolute.
        preset: what trials change; its own values are trial 0.
        objectives: metrics, the first of which ranks.
        rungs: images seen at which trials are scored, rising; the last is the whole length.
        space: what may be changed.
        tuned_on: pairs that trials are scored on, in words.
        confirmed_on: split that the confirmation alone is scored on.
        storage: whether the trials are in a file of the study or in a database.
        weights: folder with the weights of LPIPS and FD, absolute; may change from call to call.
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
        """The configuration of a trial with these settings; ConfigError if they do not fit together."""
        config = changed(self.preset, values)
        return stretched(config, -(-self.rungs[-1] // (config.batch_size * config.accumulate)))

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude={"weights"})


def make_plan(
    dataset: Path, out: Path, preset: TrainConfig, options: StudyOptions, allowed: Collection[str] = ()
) -> StudyPlan:
    """Plan a new study, or validate that the one in OUT is the same; nothing is written."""
    space = load_space(options.space)
    if options.space is None:
        space = space.fitted(preset)
    else:
        space.check(preset, f"The space {options.space}")
    splits = choose_splits(dataset, preset.seed)
    begun = load_plan(out) if (out / PLAN).is_file() else None
    weights = options.weights.resolve() if options.weights else begun.weights if begun else None
    objectives = choose_objectives(options.objectives, dataset, splits.tuning_split, preset, weights, allowed)
    per_step = preset.batch_size * preset.accumulate
    whole = total_steps(preset.schedule, len(splits.train), per_step, preset.max_steps) * per_step
    rungs = rungs_of(options.images or whole, options.rungs if len(objectives) == 1 else 1)
    sizes = space.parameters["batch_size"].samples() if "batch_size" in space.parameters else ()
    step = preset.accumulate * max([preset.batch_size, *sizes])
    if rungs[0] < step:
        raise ConfigError(
            f"The first rung of {rungs[0]} images is less than one step of {step}; give more images or fewer rungs."
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
    """So many rungs, each `ETA` times the one before, that end at a number of images; ConfigError if one is empty."""
    if images // ETA ** (count - 1) < 1:
        raise ConfigError(f"{images} images are too few for {count} rungs; give more images or fewer rungs.")
    return tuple(round(images / ETA**n) for n in reversed(range(count)))


def keep_plan(out: Path, plan: StudyPlan) -> None:
    """Bind OUT to a plan: link its pairs and write study.json, as far as that is not done."""
    splits = choose_splits(plan.dataset, plan.preset.seed)
    with in_turn(out):
        begun = load_plan(out) if (out / PLAN).is_file() else None
        if begun is not None:
            require_same(out, "study", begun.identity(), plan.identity())
            plan = plan.model_copy(update={"weights": plan.weights or begun.weights})
        # Links without a plan are those of a call that came to nothing, and may be of another dataset.
        link_pairs(plan.dataset, splits, out / TUNING, anew=begun is None or begun.dataset != plan.dataset)
        if plan != begun:
            document = plan.model_dump(mode="json", by_alias=True) | {"format": _FORMAT}
            write_text(out / PLAN, json.dumps(document, indent=1) + "\n")


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Hold the study's lock for a moment; other processes wait."""
    busy = StorageError(f"Another process holds {out / 'lock'}; end it if it hangs.")
    with raised_as(lambda reason: StorageError(f"{out} cannot be written ({reason}); check the folder."), OSError):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "lock", busy, _MOMENT):
            yield


def load_plan(out: Path) -> StudyPlan:
    """Read the plan of a study."""
    path = out / PLAN
    if not path.is_file():
        raise ConfigError(f"{out} holds no study ({PLAN} is missing); begin one with terramorph tune DATASET.")

    def refused(reason: str) -> StorageError:
        return StorageError(f"{path} cannot be understood ({reason}); restore it, or choose another `out`.")

    with raised_as(refused, OSError, ValueError, TypeError, AttributeError):
        values = parse_json(path.read_text(encoding="utf-8"))
        if values.pop("format", None) != _FORMAT:
            raise ConfigError(f"{out} was made by another version of terramorph tune; choose another `out`.")
        plan = StudyPlan.model_validate(values)
    unknown = next((name for name in plan.objectives if name not in METRICS), None)
    if unknown is not None:
        raise ConfigError(f"Trials of {out} are ranked by {unknown}, and there is no metric {unknown!r} here; add it.")
    return plan


def choose_objectives(
    asked: Sequence[str],
    dataset: Path,
    split: str,
    preset: TrainConfig,
    weights: Path | None,
    allowed: Collection[str] = (),
) -> tuple[str, ...]:
    """Validate objectives, or choose the best that can be computed, by scoring an untrained network.

    They are metrics, for losses do not rank GANs: the discriminator's says how the two networks stand to each other,
    and the generator's is measured by a discriminator that differs from trial to trial.

    Raises:
        ConfigError: a metric is unknown, named twice, or cannot be computed here.
        InputError: the weights are damaged.
        DatasetError: the pairs do not fit the network.
    """
    for name in asked:
        if name not in METRICS:
            raise ConfigError(f"There is no metric {name!r}; {did_you_mean(name, METRICS)}")
    if len(set(asked)) < len(asked):
        raise ConfigError(f"The objectives {', '.join(asked)} name a metric twice; name each once.")
    model = Model(_untrained(dataset, split, preset, allowed), device=preset.device)
    document = evaluate(model, dataset, split=split, weights=weights, limit=_LOOK)
    for name in asked:
        if document[name] is None:
            raise ConfigError(f"The objective {name} cannot be computed here: {document['reasons'][name]}")
    return tuple(asked) or (next(name for name in MAIN if document[name] is not None),)


def _untrained(dataset: Path, split: str, preset: TrainConfig, allowed: Collection[str]) -> Bundle:
    """A trial's bundle but for its weights."""
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
