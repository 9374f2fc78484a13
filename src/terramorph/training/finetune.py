"""Fine-tuning: starting a run from the weights of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from terramorph.bundle import find_bundle, load_bundle, read_header
from terramorph.errors import BundleError, CheckpointError, ConfigError, raised_as
from terramorph.networks import find_imagenet, generator_config
from terramorph.training.config import StartConfig, TrainConfig
from terramorph.training.settings import load_config
from terramorph.training.state import CHECKPOINT

_NOT_TAKEN = ("start", "device", "precision", "launch")
"""Settings of a model's recipe that say where it began and on which machine it was trained."""
_SHOWN = 3
"""Most layers that a message names."""


def config_of(model: str | Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration for fine-tuning a model: its recipe, or the preset pix2pix with its network.

    Device and precision are those of this machine.

    Args:
        model: A bundle, a run's folder or a name in the folder `models`.
        changes: As the overrides of `load_config`.

    Raises:
        BundleError: If the model cannot be read.
        ConfigError: If a change does not fit.
    """
    header = read_header(model)
    values: dict[str, Any] = {
        "direction": header.direction,
        **(changes or {}),
        "start.model": str(find_bundle(model).resolve()),
    }
    for key, side in (("data.source_range", header.source), ("data.target_range", header.target)):
        if side.dtype != "uint8":
            values.setdefault(key, (side.low, side.high))
    if header.recipe:
        recipe = {key: value for key, value in header.recipe.items() if key not in _NOT_TAKEN}
        return load_config(recipe, {"max_steps": 0, **values})
    settings = {k: v for k, v in header.architecture.settings.items() if k not in ("in_bands", "out_bands")}
    generator = generator_config(header.architecture.name, settings).model_dump()
    return load_config("pix2pix", {"generator": generator, **values})


def require_weights(config: TrainConfig, restored: bool) -> None:
    """Validate that this machine has the weights that a run needs, which is known before its pairs are decoded.

    A run that is restored from its checkpoint needs those of frozen networks only.

    Raises:
        BundleError: If the model it starts from cannot be read.
        MissingPackageError: If the package with weights of ImageNet is not installed.
    """
    if config.start.model and not restored:
        read_header(config.start.model)
    elif not restored and getattr(config.generator, "encoder", "none") == "imagenet":
        find_imagenet("lite2", "generator.encoder=none")
    if config.loss.backbone == "imagenet" and (config.loss.backbone_features or config.loss.projected):
        find_imagenet("lite0", "loss.backbone=none")


def load_start(
    networks: Mapping[str, nn.Module], start: StartConfig, source_bands: int, allowed: Collection[str] = ()
) -> tuple[str, ...]:
    """Load the weights that a run starts from, and freeze those that are not trained.

    The generator's weights are in the bundle, those of discriminators in the checkpoint beside it, if there is one.
    With `partial`, a first convolution of another number of source bands is adapted: common bands keep their weights,
    a new band starts from their mean.

    Returns:
        Names of the tensors that the model does not fill, as `network.tensor`.

    Raises:
        BundleError: If the model cannot be read.
        CheckpointError: If layers do not fit and `partial` is not set.
        ConfigError: If a pattern of `freeze` fits no layer.
    """
    afresh: list[str] = []
    if start.model:
        given = {
            "generator": load_bundle(start.model, allowed).network.state_dict(),
            **_discriminators(start.model, networks),
        }
        for name, weights in given.items():
            adapted = _adapted(weights, networks[name].state_dict(), source_bands) if start.partial else weights
            afresh += _fill(name, networks[name], adapted, start)
    generator = networks["generator"]
    for pattern in start.freeze:
        frozen = [weight for key, weight in generator.named_parameters() if fnmatchcase(key, pattern)]
        if not frozen:
            names = ", ".join(key for key, _ in list(generator.named_parameters())[:_SHOWN])
            raise ConfigError(
                f"start.freeze has a pattern {pattern!r} that no weight of the generator matches; they are {names}, ..."
            )
        for weight in frozen:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in generator.parameters()):
        raise ConfigError("start.freeze leaves no weight of the generator to train; freeze fewer.")
    return tuple(afresh)


def inherited_note(start: StartConfig) -> str:
    """Return the note in the header of the model that a run starts from, such as rights in its training data."""
    if not start.model:
        return ""
    try:
        return read_header(start.model).note
    except BundleError:
        return f"Started from {start.model}, which is gone: its note on rights is not known."


def _fill(name: str, network: nn.Module, weights: Mapping[str, Tensor], start: StartConfig) -> list[str]:
    """Copy the tensors that fit, and return the names of the others."""
    own = network.state_dict()
    fits = {key for key, value in own.items() if key in weights and weights[key].shape == value.shape}
    missing = [key for key in own if key not in fits]
    beyond = [key for key in weights if key not in own]
    if (missing or beyond) and not start.partial:
        told = [f"{key} is {_shape(weights, key)} there and {_shape(own, key)} here" for key in missing + beyond]
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise CheckpointError(
            f"{start.model} does not fit the {name}: {'; '.join(told[:_SHOWN])}{more}. Train with the settings of that "
            "model, or set start.partial=true, which initializes such layers."
        )
    with torch.no_grad():
        for key in fits:
            own[key].copy_(weights[key])
    return [f"{name}.{key}" for key in missing]


def _shape(state: Mapping[str, Tensor], key: str) -> str:
    return str(tuple(state[key].shape)) if key in state else "missing"


def _adapted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source_bands: int) -> dict[str, Tensor]:
    """Return weights whose first convolutions are adapted to another number of source bands."""
    adapted = dict(weights)
    for key, value in weights.items():
        wanted = own[key].shape if key in own else value.shape
        if value.ndim == 4 and wanted[1] == source_bands != value.shape[1] and wanted[0] == value.shape[0]:
            common, new = value[:, :source_bands], max(0, source_bands - value.shape[1])
            wider = torch.cat([common, value.mean(dim=1, keepdim=True).expand(-1, new, -1, -1)], dim=1)
            adapted[key] = wider * (value.shape[1] / source_bands)  # as strong as before
    return adapted


def _discriminators(model: str, networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """Read the weights of the given discriminators from the checkpoint beside a bundle."""
    path = find_bundle(model).parent / CHECKPOINT
    found: dict[str, dict[str, Tensor]] = {}
    if not path.is_file():
        return found
    advice = "remove it to start without it"
    with (
        raised_as(CheckpointError, f"{path} cannot be read", advice, SafetensorError, OSError),
        safe_open(path, framework="pt") as file,
    ):
        for name in networks.keys() - {"generator"}:
            prefix = f"network.{name}."
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            if keys:
                found[name] = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    return found
