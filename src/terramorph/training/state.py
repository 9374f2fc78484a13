"""Checkpoints: the state of a run in one file, from which it resumes.

A checkpoint is a .safetensors file, written atomically: networks, moments of the optimizers, EMA, and in its header
the step, the seed, the configuration and the fingerprint of the pairs. It needs no states of random generators:
permutation, augmentation and dropout of a step are functions of seed and step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from terramorph.atomic import atomic, locked
from terramorph.documents import DocumentError, flat, parse_json, parse_json_object
from terramorph.errors import CheckpointError, ConfigError, StorageError, raised_as
from terramorph.tensors import storable
from terramorph.training.config import PLACES, TrainConfig
from terramorph.training.optimizer import AveragedNetwork
from terramorph.training.settings import parse_config

if TYPE_CHECKING:
    from terramorph.training.pix2pix import Pix2Pix
    from terramorph.training.reporter import Plan

CHECKPOINT = "checkpoint.safetensors"
CONFIG = "config.json"
_FORMAT = 1
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_MOVED = "terramorph-moments"
"""Key of the weights with moments, by optimizer; without it all weights have some."""


@dataclass(frozen=True)
class Position:
    """Position of a run: what a checkpoint holds besides tensors.

    Attributes:
        step: Optimizer steps done.
        config: The resolved configuration as plain data.
        fingerprint: Digest of the training pairs.
        processes: Number of processes that train together.
        health: State of `Health`.
        stopping: State of `EarlyStopping`; empty without it.
        precision: Resolved precision, as in `Plan`; empty if it was not recorded.
    """

    step: int
    config: dict[str, Any]
    fingerprint: str
    processes: int
    health: dict[str, Any]
    stopping: dict[str, Any] = field(default_factory=dict)
    precision: str = ""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make a run's folder, unless it exists, and hold it for this process.

    Raises:
        ConfigError: If another process trains there.
        StorageError: If it cannot be written.
    """
    busy = ConfigError(f"Another process trains in {out}; wait for it, or choose another `out`.")
    with ExitStack() as lock:
        with raised_as(StorageError, f"The run's folder {out} cannot be written", "choose another `out`", OSError):
            out.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locked(out / ".lock", busy))
        yield


def save_settings(plan: Plan, skip_bad: bool) -> None:
    """Write the folder of the pairs and the resolved configuration, for `resume`."""
    settings = {
        "dataset": str(plan.dataset.resolve()),
        "skip_bad": skip_bad,
        "pairs": plan.pairs,
        "skipped": list(plan.skipped),
        "total_steps": plan.total_steps,
        "config": plan.config.model_dump(mode="json"),
    }
    failed = f"The run's folder {plan.out} cannot be written"
    with atomic(plan.out / CONFIG, failed, "choose another `out`") as part:
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(out: Path) -> dict[str, Any]:
    """Read what `save_settings` wrote: dataset, config and skip_bad."""
    failed = f"{out} is not the folder of a run: its {CONFIG} cannot be read"
    advice = "give the `out` of a run that was started"
    with raised_as(CheckpointError, failed, advice, OSError, KeyError, TypeError, ValueError):
        settings: dict[str, Any] = parse_json((out / CONFIG).read_text(encoding="utf-8"))
        return {key: settings[key] for key in ("dataset", "config", "skip_bad")}


def save_state(path: Path, position: Position, recipe: Pix2Pix, average: AveragedNetwork | None) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk."""
    tensors: dict[str, Tensor] = {}
    for name, network in recipe.networks.items():
        for key, value in network.state_dict().items():
            tensors[f"network.{name}.{key}"] = value
    # A weight without a gradient has no moments.
    moments = {name: optimizer.state_dict()["state"] for name, optimizer in recipe.optimizers.items()}
    for name, state in moments.items():
        for index, slots in state.items():
            for slot, value in slots.items():
                tensors[f"optimizer.{name}.{index}.{slot}"] = value
    if average is not None:
        for key, value in average.network.state_dict().items():
            tensors[f"average.{key}"] = value
    kept = f"the checkpoint before it is intact in {path}" if path.is_file() else "there is none before it"
    with atomic(
        path,
        f"The checkpoint of step {position.step} could not be written",
        f"{kept}, so free some space and continue with `resume` {path.parent}",
        failures=(SafetensorError,),
    ) as part:
        save_file(
            storable(tensors),
            part,
            metadata={
                "terramorph-checkpoint": json.dumps({"format": _FORMAT, **vars(position)}),
                _MOVED: json.dumps({name: sorted(state) for name, state in moments.items()}),
            },
        )


def read_position(path: Path) -> Position:
    """Read the position of a run from its checkpoint."""
    kinds = (SafetensorError, OSError, KeyError, TypeError, DocumentError)
    with raised_as(CheckpointError, f"{path} is damaged or not a checkpoint", "start the run again", *kinds):
        with safe_open(path, framework="pt") as file:
            document = parse_json_object((file.metadata() or {})["terramorph-checkpoint"])
        if document.pop("format") > _FORMAT:
            raise CheckpointError(f"The checkpoint {path} was written by a newer terramorph; upgrade to resume it.")
        return Position(**document)


def require_same(position: Position, config: TrainConfig, fingerprint: str, processes: int, settings: Path) -> None:
    """Raise CheckpointError if pairs, processes or settings of a run have changed, `max_steps` and paths aside."""
    if position.fingerprint != fingerprint:
        raise CheckpointError(
            f"The training pairs that {settings} names are not those with which the run was started; restore them, or "
            "start a new run."
        )
    if position.processes != processes:
        raise CheckpointError(
            f"{settings.parent} must be resumed by {position.processes} process(es), as it was trained, "
            f"got {processes}."
        )
    # Parsed first: a setting that is newer than the checkpoint had its default there.
    begun, now = (flat(one.model_dump(mode="json")) for one in (parse_config(position.config), config))
    differing = (key for key in begun | now if begun.get(key) != now.get(key) and key not in ("max_steps", *PLACES))
    if changed := next(differing, ""):
        raise CheckpointError(
            f"The setting {changed} in {settings} is not what the checkpoint was trained with; put it back, or start a "
            "new run."
        )


def load_state(path: Path, recipe: Pix2Pix, average: AveragedNetwork | None) -> None:
    """Load a checkpoint's tensors into networks, optimizers and EMA."""
    kinds = (SafetensorError, OSError, RuntimeError, IndexError, ValueError)
    with (
        raised_as(CheckpointError, f"The checkpoint {path} does not fit the run", "start the run again", *kinds),
        safe_open(path, framework="pt") as file,
    ):
        names, moved = list(file.keys()), parse_json_object((file.metadata() or {}).get(_MOVED, "{}"))
        for name, network in recipe.networks.items():
            network.load_state_dict({key: file.get_tensor(f"network.{name}.{key}") for key in network.state_dict()})
        if average is not None:
            average.network.load_state_dict(
                {key: file.get_tensor(f"average.{key}") for key in average.network.state_dict()}
            )
        for name, optimizer in recipe.optimizers.items():
            count = sum(len(group["params"]) for group in optimizer.param_groups)
            state: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimizer.{name}."
            for key in names:
                if key.startswith(prefix):
                    index, slot = key.removeprefix(prefix).split(".")
                    # A copy: the optimizer keeps it, and Windows replaces no file that is mapped.
                    state.setdefault(int(index), {})[slot] = file.get_tensor(key).clone()
            if state.keys() != set(moved.get(name, range(count))) or any(
                _MOMENTS - slots.keys() for slots in state.values()
            ):
                raise RuntimeError(f"moments of the {name}'s optimizer are missing")
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
