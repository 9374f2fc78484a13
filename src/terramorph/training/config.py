"""The training configuration: frozen and typed; TOML in, JSON out; an unknown key is an error with a hint."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from terramorph.bundle import Direction
from terramorph.errors import ConfigError
from terramorph.losses import AdversarialLoss
from terramorph.networks.layers import Norm

_FOLDER = resources.files("terramorph.training") / "presets"
PRESETS: tuple[str, ...] = tuple(
    sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name.endswith(".toml"))
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """How pairs become batches.

    Attributes:
        load_size: side that both halves are resized to, pixels; 0 keeps their own size.
        crop_size: side of the random square that is cut from it, pixels; the same as load_size takes the whole.
        resampling: filter of the resize.
        mirror: swap left and right half the time.
        eightfold: one of the eight symmetries of the square instead.
        jitter: strength of the colour jitter of the source, 0 is off.
        source_range, target_range: stored values that become -1 and 1, for dtypes other than uint8; measured from
            the training pairs if not given.
    """

    load_size: int = Field(286, ge=0)
    crop_size: int = Field(256, ge=16)
    resampling: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mirror: bool = True
    eightfold: bool = False
    jitter: float = Field(0.0, ge=0.0, lt=1.0)
    source_range: tuple[float, float] | None = None
    target_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> DataConfig:
        if 0 < self.load_size < self.crop_size:
            raise ValueError(f"a crop of {self.crop_size} px does not fit in images of {self.load_size} px")
        return self


class GeneratorConfig(_Section):
    """A network of the catalogue by name, its width in channels, norm, and share of dropout."""

    network: Literal["unet256", "unet128", "unet64", "resnet9", "resnet6"] = "unet256"
    width: int = Field(64, ge=1)
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)


class DiscriminatorConfig(_Section):
    """A discriminator of the catalogue, its width, its stride-2 layers (0 for single pixels) and its norm."""

    network: Literal["patchgan", "pixelgan"] = "patchgan"
    width: int = Field(64, ge=1)
    layers: int = Field(3, ge=0, le=6)
    norm: Norm = "batch"


class LossConfig(_Section):
    """The kind of adversarial loss, the weight of the L1 term, and the factor on the discriminator's loss."""

    adversarial: AdversarialLoss = "bce"
    l1_weight: float = Field(100.0, ge=0.0)
    discriminator_scale: float = Field(0.5, gt=0.0)


class OptimizerConfig(_Section):
    """Adam: the learning rate (the discriminator's own, if given) and the decay rates of its moments."""

    learning_rate: float = Field(2e-4, gt=0.0)
    discriminator_learning_rate: float | None = Field(None, gt=0.0)
    betas: tuple[float, float] = (0.5, 0.999)


class ScheduleConfig(_Section):
    """How long: `constant` epochs or steps at the full rate, then `decay` more linearly to 0."""

    unit: Literal["epochs", "steps"] = "epochs"
    constant: int = Field(100, ge=0)
    decay: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _some(self) -> ScheduleConfig:
        if self.constant + self.decay < 1:
            raise ValueError("constant + decay must be at least 1")
        return self


class LogConfig(_Section):
    """How often things are written, in steps: scalars, sample sheets, checkpoints; and the pairs on a sheet."""

    scalars: int = Field(50, ge=1)
    samples: int = Field(1000, ge=1)
    checkpoint: int = Field(1000, ge=1)
    sheet: int = Field(6, ge=0)


class TrainConfig(_Section):
    """Everything a run depends on besides its pairs.

    Attributes:
        method: the recipe.
        direction: which side is the source.
        seed: of everything random.
        batch_size: pairs per step and process.
        accumulate: batches whose gradients are added up before an update.
        max_steps: stop there although the schedule is longer; 0 runs the whole schedule.
        device: auto, cpu or cuda.
        precision: bf16 (mixed) or fp32; auto takes bf16 where the hardware computes it natively.
        ema: decay of the running average of the generator's weights, which then is what the bundle holds; 0 is off.
        launch: `eager`, `graph` (the whole step as one CUDA graph: no launch overhead at batch 1) or `compile`.
        recalibrate: images to average the normalisation statistics over at the end; 0 keeps the running ones.
    """

    method: Literal["pix2pix"] = "pix2pix"
    direction: Direction = "AtoB"
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    max_steps: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    ema: float = Field(0.0, ge=0.0, lt=1.0)
    launch: Literal["eager", "graph", "compile"] = "eager"
    recalibrate: int = Field(400, ge=0)
    data: DataConfig = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    log: LogConfig = LogConfig()


def load_config(preset: str | Path = "pix2pix", overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Resolves a preset and what is changed of it.

    Args:
        preset: a name in `PRESETS`, or the path of a TOML file of one's own.
        overrides: dotted keys and values, such as {"optimizer.learning_rate": 1e-4}.

    Raises:
        ConfigError: if the preset is unknown, a key is unknown (the nearest is named), or a value does not fit.
    """
    where = str(preset)
    if where in PRESETS:
        text = (_FOLDER / f"{where}.toml").read_text()
    elif where.endswith(".toml") and Path(where).is_file():
        try:
            text = Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The preset {where} cannot be read as text ({error}); save it as UTF-8.") from error
    else:
        close = get_close_matches(where, PRESETS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(PRESETS)}, or give a .toml file."
        raise ConfigError(f"There is no preset {where!r}; {hint}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The preset {where} is not valid TOML: {error}.") from error
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"The setting {key!r} does not exist: {section!r} is a value, not a section.")
        place[name] = value
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> TrainConfig:
    """Checks plain data, such as a saved config.json, and makes the configuration of it.

    Raises:
        ConfigError: one sentence about the first thing that is wrong.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            close = get_close_matches(key, known_keys(), n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known_keys())}."
            raise ConfigError(f"There is no setting {key!r}; {hint}") from error
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"The setting {key or 'configuration'} cannot be {first['input']!r}: {reason}.") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["loss.l1_weight=10"]` -> `{"loss.l1_weight": 10}`; values are JSON, or else text.

    Raises:
        ConfigError: if there is no equals sign.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"{assignment!r} is not a setting; write key=value, such as loss.l1_weight=10.")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


def known_keys() -> list[str]:
    """Every setting by its dotted key."""

    def walk(values: Mapping[str, Any], prefix: str) -> Iterable[str]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    return list(walk(TrainConfig().model_dump(), ""))
