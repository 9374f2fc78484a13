"""The training configuration: every setting, frozen and typed. See `settings.py` for how one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from terramorph.extensions import is_outside
from terramorph.header import Direction
from terramorph.losses import DIFFAUGMENTS
from terramorph.metrics import METRICS
from terramorph.networks import AnyGenerator, Norm, UNetConfig

_Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """How pairs become batches.

    Attributes:
        load_size: side that both halves are resized to, pixels; 0 keeps their own size.
        crop_size: side of the random square that is cut from it, pixels; the same as load_size takes the whole.
        resampling: filter of the resize.
        mirror: swap left and right half the time.
        eightfold: one of the eight symmetries of the square instead.
        shrink: images are shrunk by a factor from [shrink, 1], drawn for each, before they are cut; 1 is off.
        jitter: strength of the jitter of the source's brightness, contrast and saturation, 0 is off.
        cast: strength of a colour cast of the source, a factor for each band, 0 is off.
        diffaugment: differentiable augmentation of real and of made pairs before the discriminator, a comma list of
            color, translation and cutout (Zhao et al. 2020, arXiv:2006.10738); one change for both sides of a pair.
        source_range, target_range: stored values that become -1 and 1, for dtypes other than uint8; measured from
            the training pairs if not given.
        nodata: stored value of pixels without data, where files do not declare it.
    """

    load_size: int = Field(286, ge=0)
    crop_size: int = Field(256, ge=16)
    resampling: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mirror: bool = True
    eightfold: bool = False
    shrink: float = Field(1.0, gt=0.0, le=1.0)
    jitter: float = Field(0.0, ge=0.0, lt=1.0)
    cast: float = Field(0.0, ge=0.0, lt=1.0)
    diffaugment: str = ""
    source_range: tuple[float, float] | None = None
    target_range: tuple[float, float] | None = None
    nodata: float | None = None

    @model_validator(mode="after")
    def _crop_fits(self) -> DataConfig:
        if 0 < self.load_size < self.crop_size:
            raise ValueError(f"a crop of {self.crop_size} px does not fit in images of {self.load_size} px")
        return self

    @field_validator("source_range", "target_range")
    @classmethod
    def _rises(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError("the first value becomes -1 and the second 1; give a lower and a higher one")
        return ends

    @field_validator("diffaugment")
    @classmethod
    def _known(cls, names: str) -> str:
        for name in _listed(names):
            if name not in DIFFAUGMENTS:
                raise ValueError(f"there is no {name!r}; give a comma list of {', '.join(DIFFAUGMENTS)}")
        return names

    @property
    def diffaugments(self) -> tuple[str, ...]:
        return _listed(self.diffaugment)


class DiscriminatorConfig(_Section):
    """What judges.

    Attributes:
        network: patchgan, or pixelgan for single pixels.
        width: channels after its first convolution.
        layers: its stride-2 convolutions: 0 judges single pixels, 1 patches of 16x16, 3 of 70x70, 5 of 286x286 (Isola
            et al. 2017, section 4.4).
        norm: batch, instance or none.
        conditional: whether it sees the source beside the image; false: the image alone (Isola et al. 2017, section
            4.2).
        spectral_norm: spectral normalisation of its weights (Miyato et al. 2018, arXiv:1802.05957); norm=none goes well
            with it.
        scales: how many of them there are, each on the pair halved once more; 2 is a two-scale form of pix2pixHD's
            (Wang et al. 2018, arXiv:1711.11585, section 3.2).
    """

    network: Literal["patchgan", "pixelgan"] = "patchgan"
    width: int = Field(64, ge=1)
    layers: int = Field(3, ge=0, le=6)
    norm: Norm = "batch"
    conditional: bool = True
    spectral_norm: bool = False
    scales: int = Field(1, ge=1, le=4)

    @property
    def least_size(self) -> int:
        """Side of the smallest image it gives a logit for, at every scale, pixels."""
        layers = 0 if self.network == "pixelgan" else self.layers
        return int((3 * 2**layers if layers else 1) * 2 ** (self.scales - 1))

    def settings(self) -> dict[str, Any]:
        """What `terramorph.networks.build_discriminator` takes beside the name and the bands."""
        return self.model_dump(exclude={"network", "conditional"})


class OutsideTerm(_Section):
    """A term of the generator's loss from outside the package.

    Attributes:
        function: its value, by the name `package.module:function`; see `terramorph.training.Term`.
        weight: of it.
    """

    function: str
    weight: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, values: Any) -> Any:
        return {"function": values} if isinstance(values, str) else values


class LossConfig(_Section):
    """What is minimised.

    Attributes:
        adversarial: bce, lsgan or hinge; `none` trains no discriminator, and none is built.
        l1_weight, l2_weight: of the mean absolute and the mean squared error; 0 is off.
        feature_matching: weight of the distance between a discriminator's features of the made and of the real pair,
            0 is off and 10 is the paper's (Wang et al. 2018, arXiv:1711.11585, equations 4 and 5).
        r1: gamma of the penalty on the discriminator's slope at real pairs, 0 is off (Mescheder et al. 2018,
            arXiv:1801.04406, equation 9); discriminator_scale does not scale it.
        r1_every: steps from one such penalty to the next; it then weighs as many times more (Karras et al. 2020,
            arXiv:1912.04958, section 3.1).
        perceptual: weight of the LPIPS distance to the truth, 0 is off (Johnson et al. 2016, arXiv:1603.08155; in the
            form of Zhang et al. 2018, arXiv:1801.03924, equation 1).
        perceptual_weights: folder of its features, squeeze.backbone.pth and lpips_squeeze_v01.pth, which are not
            brought along.
        backbone_features: weight of the distance to the truth in features of a frozen EfficientNet-Lite0 at five
            strides, 0 is off (the idea of Johnson et al. 2016; `terramorph.losses.feature_distance`).
        projected: weight, for the generator, of projected discriminators on four strides of the same network, 0 is off
            (Sauer et al. 2021, arXiv:2111.01007).
        palette: weight of the cross-entropy of a generator's class scores with the nearest colour of its palette, 0 is
            off (`terramorph.losses.palette_cross_entropy`).
        backbone: weights of that network: `imagenet` (the extra `pretrained`), or `none`, random ones.
        terms: further terms of the generator's loss by name, from outside the package.
        discriminator_scale: factor on the discriminator's loss.
    """

    adversarial: Literal["bce", "lsgan", "hinge", "none"] = "bce"
    l1_weight: float = Field(100.0, ge=0.0)
    l2_weight: float = Field(0.0, ge=0.0)
    feature_matching: float = Field(0.0, ge=0.0)
    r1: float = Field(0.0, ge=0.0)
    r1_every: int = Field(16, ge=1)
    perceptual: float = Field(0.0, ge=0.0)
    perceptual_weights: str = ""
    backbone_features: float = Field(0.0, ge=0.0)
    projected: float = Field(0.0, ge=0.0)
    palette: float = Field(0.0, ge=0.0)
    backbone: Literal["imagenet", "none"] = "imagenet"
    terms: dict[str, OutsideTerm] = {}
    discriminator_scale: float = Field(0.5, gt=0.0)

    @model_validator(mode="after")
    def _fits(self) -> LossConfig:
        if self.perceptual and not self.perceptual_weights:
            raise ValueError("loss.perceptual needs a folder of feature weights; give it by loss.perceptual_weights")
        if self.adversarial == "none":
            for key in ("feature_matching", "r1", "projected"):
                if getattr(self, key):
                    raise ValueError(f"loss.{key} is of a discriminator, and loss.adversarial=none has none")
            if not (self.l1_weight or self.l2_weight or self.perceptual or self.backbone_features or self.terms):
                raise ValueError("nothing is left to learn from; give loss.l1_weight or another loss.adversarial")
        return self


class OptimizerConfig(_Section):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980).

    Attributes:
        learning_rate: of the generator.
        discriminator_learning_rate: of discriminators, if it is another.
        encoder_rate: factor on that of a generator's encoder which is trained already.
        betas: decay rates of the moments.
    """

    learning_rate: float = Field(2e-4, gt=0.0)
    discriminator_learning_rate: float | None = Field(None, gt=0.0)
    encoder_rate: float = Field(1.0, gt=0.0)
    betas: tuple[_Decay, _Decay] = (0.5, 0.999)


class ScheduleConfig(_Section):
    """How long: `constant` epochs or steps at the full rate, then `decay` more linearly to 0.

    Attributes:
        warmup: steps over which the rate rises linearly to the full one (Goyal et al. 2017, arXiv:1706.02677).
    """

    unit: Literal["epochs", "steps"] = "epochs"
    constant: int = Field(100, ge=0)
    decay: int = Field(100, ge=0)
    warmup: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> ScheduleConfig:
        if self.constant + self.decay < 1:
            raise ValueError("constant + decay must be at least 1")
        return self


class StartConfig(_Section):
    """What a run starts from; see `terramorph.training.finetune`.

    Attributes:
        model: a bundle, a run's folder or a name in the folder `models`; empty for random weights.
        partial: start layers that do not fit afresh, instead of refusing them.
        freeze: patterns (as of file names) of the generator's weights that are not trained, such as "down.*". Their
            normalisation statistics are measured all the same.
    """

    model: str = ""
    partial: bool = False
    freeze: tuple[str, ...] = ()


class StopConfig(_Section):
    """Early stopping: a run ends when a held-out score no longer rises, and the bundle holds the best weights.

    Attributes:
        patience: validations in a row (one every log.samples steps) without a better score; 0 is off.
        metric: ssim, psnr or another that compares pixels, mean over log.validation held-out pairs; one from outside as
            `package.module:NAME`. Those of the catalogue prefer a blur to a texture: for maps they are a fair guide,
            for photographs they stop an adversarial run too early.
    """

    patience: int = Field(0, ge=0)
    metric: str = "ssim"

    @field_validator("metric")
    @classmethod
    def _compares_pixels(cls, key: str) -> str:
        known = [metric.key for metric in METRICS.values() if metric.per_image and metric.needs == "pixels"]
        if key not in known and not is_outside(key):
            raise ValueError(f"it is a metric that needs pixels alone: {', '.join(known)}, or package.module:NAME")
        return key


class LogConfig(_Section):
    """How often things are written.

    Attributes:
        scalars, checkpoint: steps from one to the next.
        samples: steps from one validation, with its sample sheet, to the next.
        sheet: held-out pairs on a sheet.
        validation: held-out pairs that are scored; 0 scores those on the sheet.
    """

    scalars: int = Field(50, ge=1)
    samples: int = Field(1000, ge=1)
    checkpoint: int = Field(1000, ge=1)
    sheet: int = Field(6, ge=0)
    validation: int = Field(24, ge=0)


PLACES = frozenset({"loss.perceptual_weights"})
"""Settings that say where a file lies and nothing of what is trained: a run goes on with others."""


class TrainConfig(_Section):
    """Everything a run depends on besides its pairs.

    Attributes:
        direction: which side is the source.
        seed: of everything random.
        batch_size: pairs per step and process.
        accumulate: batches whose gradients are added up before an update.
        max_steps: stop there although the schedule is longer; 0 runs the whole schedule.
        device: auto, cpu or cuda.
        precision: bf16 (mixed) or fp32; auto takes bf16 where the hardware computes it natively.
        ema: decay of the running average of the generator's weights, which then is what the bundle holds; 0 is off.
        launch: `eager`, `graph` (the whole step as one CUDA graph, without the overhead of launching its kernels one by
            one) or `compile`; `auto` is graph in one process on a CUDA device where the losses allow it, else eager.
        recalibrate: images to average the normalisation statistics over at the end; 0 keeps the running ones.
        generator: what translates: the settings of the generator that `network` names.
    """

    direction: Direction = "AtoB"
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    max_steps: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    ema: float = Field(0.0, ge=0.0, lt=1.0)
    launch: Literal["auto", "eager", "graph", "compile"] = "auto"
    recalibrate: int = Field(400, ge=0)
    data: DataConfig = DataConfig()
    generator: AnyGenerator = UNetConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    start: StartConfig = StartConfig()
    stop: StopConfig = StopConfig()
    log: LogConfig = LogConfig()

    @property
    def without_graph(self) -> str:
        """Why a step cannot be a CUDA graph; "" if it can."""
        if self.loss.r1:
            return "launch=graph repeats one step and loss.r1 changes some"
        if self.loss.perceptual:
            return "launch=graph never waits for the device and loss.perceptual does"
        return ""

    @model_validator(mode="before")
    @classmethod
    def _without_method(cls, values: Any) -> Any:
        """Runs and bundles once named a method, of which there is one."""
        if isinstance(values, Mapping) and values.get("method") == "pix2pix":
            return {key: value for key, value in values.items() if key != "method"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.stop.patience and not max(self.log.validation, self.log.sheet):
            raise ValueError("stop.patience needs held-out pairs; give log.validation of 1 or more")
        if self.launch == "graph" and self.without_graph:
            raise ValueError(f"{self.without_graph}; take launch=auto")
        if self.loss.adversarial == "none":
            if self.data.diffaugments:
                raise ValueError("data.diffaugment is for a discriminator, and loss.adversarial=none has none")
        elif self.data.crop_size < self.discriminator.least_size:
            raise ValueError(
                f"a discriminator of {self.discriminator.layers} layers and {self.discriminator.scales} scale(s) needs "
                f"images of {self.discriminator.least_size} px, and data.crop_size is {self.data.crop_size}"
            )
        return self


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
