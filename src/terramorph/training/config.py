"""The training configuration: every setting, frozen and typed; `settings.py` reads one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from terramorph.header import Direction
from terramorph.imports import is_outside
from terramorph.losses import DIFFAUGMENTS
from terramorph.metrics import METRICS
from terramorph.networks import AnyGenerator, Norm, UNetConfig

_Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """How pairs become batches.

    Attributes:
        load_size: Side to which both images of a pair are resized, pixels; 0 keeps their size.
        crop_size: Side of the random crop, pixels; equal to load_size, the whole image is taken.
        resampling: Filter for resizing.
        mirror: Flip left and right with probability 0.5.
        eightfold: Instead of `mirror`, a random one of the eight symmetries of the square.
        shrink: Before cropping, images are shrunk by a random factor from [shrink, 1]; 1 is off.
        jitter: Strength of random brightness, contrast and saturation of the source; 0 is off.
        cast: Strength of a random colour cast of the source, a factor per band; 0 is off.
        diffaugment: Differentiable augmentation of the discriminator's real and fake pairs, a comma list of
            color, translation and cutout (Zhao et al. 2020, arXiv:2006.10738); the same for both sides of a pair.
        source_range, target_range: Stored values that become -1 and 1, for dtypes other than uint8; by default
            measured from the training pairs.
        nodata: Stored value of pixels without data, where files do not declare one.
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
            raise ValueError(f"crop_size must be <= load_size, got {self.crop_size} px and {self.load_size} px")
        return self

    @field_validator("source_range", "target_range")
    @classmethod
    def _rises(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError("the first value must be less than the second; they become -1 and 1")
        return ends

    @field_validator("diffaugment")
    @classmethod
    def _known(cls, names: str) -> str:
        for name in _listed(names):
            if name not in DIFFAUGMENTS:
                raise ValueError(f"{name!r} is unknown; give a comma list of {', '.join(DIFFAUGMENTS)}")
        return names

    @property
    def diffaugments(self) -> tuple[str, ...]:
        return _listed(self.diffaugment)


class DiscriminatorConfig(_Section):
    """Settings of the discriminator.

    Attributes:
        network: `patchgan`, or `pixelgan` (1 x 1 pixel).
        width: Channels after the first convolution.
        layers: Number of stride-2 convolutions; the receptive field is 1 x 1 pixel with 0, 16 x 16 with 1, 70 x 70
            with 3, 286 x 286 with 5 (Isola et al. 2017, section 4.4).
        norm: `batch`, `instance` or `none`.
        conditional: Whether the input is source and image, or the image alone (Isola et al. 2017, section 4.2).
        spectral_norm: Spectral normalisation of the weights (Miyato et al. 2018, arXiv:1802.05957), best with
            norm=none.
        scales: Number of discriminators, each on a pair of half the size of the one before; pix2pixHD has 3 (Wang et
            al. 2018, arXiv:1711.11585, section 3.2).
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
        """Side of the smallest image with a logit at every scale, pixels."""
        layers = 0 if self.network == "pixelgan" else self.layers
        return int((3 * 2**layers if layers else 1) * 2 ** (self.scales - 1))


class OutsideTerm(_Section):
    """A term of the generator's loss from outside the package.

    Attributes:
        function: `package.module:function` that computes its value; see `terramorph.training.Term`.
        weight: Factor on the value.
    """

    function: str
    weight: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, values: Any) -> Any:
        return {"function": values} if isinstance(values, str) else values


class LossConfig(_Section):
    """Settings of the losses.

    Attributes:
        adversarial: `bce`, `lsgan` or `hinge`; with `none` there is no discriminator.
        l1_weight, l2_weight: Weights of the mean absolute and the mean squared error; 0 is off.
        feature_matching: Weight of the distance between a discriminator's features of the fake and of the real pair;
            0 is off, the paper has 10 (Wang et al. 2018, arXiv:1711.11585, equations 4 and 5).
        r1: Gamma of the penalty on the discriminator's gradient at real pairs, 0 is off (Mescheder et al. 2018,
            arXiv:1801.04406, equation 9); discriminator_scale does not apply to it.
        r1_every: Steps between two such penalties, which weigh as many times more (Karras et al. 2020,
            arXiv:1912.04958, section 3.1).
        perceptual: Weight of the LPIPS distance to the truth, 0 is off (Johnson et al. 2016, arXiv:1603.08155; in the
            form of Zhang et al. 2018, arXiv:1801.03924, equation 1).
        perceptual_weights: Folder with squeeze.backbone.pth and lpips_squeeze_v01.pth, which are not part of the
            package.
        backbone_features: Weight of the distance to the truth in features of a frozen EfficientNet-Lite0 at five
            strides, 0 is off (after Johnson et al. 2016; `terramorph.losses.feature_distance`).
        projected: Weight, in the generator's loss, of projected discriminators on four strides of the same network;
            0 is off (Sauer et al. 2021, arXiv:2111.01007).
        palette: Weight of the cross-entropy of a generator's class scores with the nearest colour of its palette;
            0 is off (`terramorph.losses.palette_cross_entropy`).
        backbone: Weights of the EfficientNet-Lite0: `imagenet` (the extra `pretrained`), or `none` for random ones.
        terms: Further terms of the generator's loss from outside the package, by name.
        discriminator_scale: Factor on the discriminator's loss.
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
            raise ValueError("loss.perceptual needs a folder of feature weights; set loss.perceptual_weights")
        if self.adversarial == "none":
            for key in ("feature_matching", "r1", "projected"):
                if getattr(self, key):
                    raise ValueError(f"loss.{key} needs a discriminator, and loss.adversarial=none has none")
            if not (self.l1_weight or self.l2_weight or self.perceptual or self.backbone_features or self.terms):
                raise ValueError("the loss has no terms; set loss.l1_weight or another loss.adversarial")
        return self


class OptimizerConfig(_Section):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980).

    Attributes:
        learning_rate: Learning rate of the generator, and of discriminators without one of their own.
        discriminator_learning_rate: Learning rate of discriminators.
        encoder_rate: Factor on the learning rate of a generator's pretrained encoder.
        betas: Decay rates of the moments.
    """

    learning_rate: float = Field(2e-4, gt=0.0)
    discriminator_learning_rate: float | None = Field(None, gt=0.0)
    encoder_rate: float = Field(1.0, gt=0.0)
    betas: tuple[_Decay, _Decay] = (0.5, 0.999)


class ScheduleConfig(_Section):
    """Length and learning rate: `constant` epochs or steps at the full rate, then `decay` more falling linearly to 0.

    Attributes:
        warmup: Steps over which the rate rises linearly to the full rate (Goyal et al. 2017, arXiv:1706.02677).
    """

    unit: Literal["epochs", "steps"] = "epochs"
    constant: int = Field(100, ge=0)
    decay: int = Field(100, ge=0)
    warmup: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> ScheduleConfig:
        if self.constant + self.decay < 1:
            raise ValueError(f"constant + decay must be >= 1, got {self.constant} + {self.decay}")
        return self


class StartConfig(_Section):
    """The model that a run starts from; see `terramorph.training.finetune`.

    Attributes:
        model: Bundle, folder of a run, or name in the folder `models`; empty for random weights.
        partial: Initialize layers that do not fit, instead of refusing the model.
        freeze: Glob patterns of the generator's weights that are not trained, such as "down.*". Normalisation
            statistics of frozen layers are still measured.
    """

    model: str = ""
    partial: bool = False
    freeze: tuple[str, ...] = ()


class StopConfig(_Section):
    """Early stopping: a run ends when a held-out score no longer improves, and the bundle holds the best weights.

    Attributes:
        patience: Validations in a row (one every log.samples steps) without a better score; 0 is off.
        metric: `ssim`, `psnr` or another pixel metric, mean over log.validation held-out pairs; `package.module:NAME`
            for one from outside. Pixel metrics prefer a blur to a texture: they are fair for maps, and stop an
            adversarial run on photographs too early.
    """

    patience: int = Field(0, ge=0)
    metric: str = "ssim"

    @field_validator("metric")
    @classmethod
    def _compares_pixels(cls, key: str) -> str:
        known = [metric.key for metric in METRICS.values() if metric.per_image and metric.needs == "pixels"]
        if key not in known and not is_outside(key):
            raise ValueError(f"it must be a pixel metric: {', '.join(known)}, or package.module:NAME")
        return key


class LogConfig(_Section):
    """Intervals and sizes of what a run writes.

    Attributes:
        scalars, checkpoint: Steps between two logged lines, and between two checkpoints.
        samples: Steps between two validations with their sample sheets.
        sheet: Number of held-out pairs on a sheet.
        validation: Number of held-out pairs that are scored; 0 scores those on the sheet.
    """

    scalars: int = Field(50, ge=1)
    samples: int = Field(1000, ge=1)
    checkpoint: int = Field(1000, ge=1)
    sheet: int = Field(6, ge=0)
    validation: int = Field(24, ge=0)


PLACES = frozenset({"loss.perceptual_weights", "start.model"})
"""Settings that are paths; a run resumes with others."""


class TrainConfig(_Section):
    """All settings of a run.

    Attributes:
        direction: Which side is the source.
        seed: Seed of all random numbers.
        batch_size: Pairs per step and process.
        accumulate: Batches whose gradients are averaged per update.
        max_steps: Last step, where the schedule is longer; 0 runs the whole schedule.
        device: auto, cpu or cuda.
        precision: bf16 (mixed) or fp32; auto is bf16 where the hardware has it natively.
        ema: Decay of the exponential moving average of the generator's weights, which the bundle then holds; 0 is off.
        launch: `eager`, `graph` (the whole step as one CUDA graph, which saves launching kernels one by one) or
            `compile`; `auto` is graph in one process on a CUDA device where the losses allow it, else eager.
        recalibrate: Images over which normalisation statistics are averaged at the end; 0 keeps the running ones.
        generator: Settings of the generator that `network` names.
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
    def per_step(self) -> int:
        """Images per optimizer step and process."""
        return self.batch_size * self.accumulate

    @property
    def without_graph(self) -> str:
        """Reason why a step cannot be a CUDA graph; "" if it can."""
        if self.loss.r1:
            return "launch=graph replays one step, and loss.r1 changes some steps"
        if self.loss.perceptual:
            return "launch=graph cannot wait for the device, and loss.perceptual does"
        return ""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.stop.patience and not max(self.log.validation, self.log.sheet):
            raise ValueError("stop.patience needs held-out pairs; set log.validation to 1 or more")
        if self.launch == "graph" and self.without_graph:
            raise ValueError(f"{self.without_graph}; set launch=auto")
        across = -(-self.data.crop_size // 32)
        if self.generator.network == "lite-unet" and across**2 * self.batch_size < 2:
            raise ValueError(
                "data.crop_size must be over 32 px for lite-unet at batch_size=1, whose batch norm at stride 32 needs "
                f"two pixels, got {self.data.crop_size} px"
            )
        if self.loss.projected and self.data.crop_size < 32:
            raise ValueError(f"data.crop_size must be >= 32 px with loss.projected, got {self.data.crop_size} px")
        if self.loss.adversarial == "none":
            if self.data.diffaugments:
                raise ValueError("data.diffaugment needs a discriminator, and loss.adversarial=none has none")
        elif self.data.crop_size < self.discriminator.least_size:
            raise ValueError(
                f"data.crop_size must be >= {self.discriminator.least_size} px for a discriminator of "
                f"{self.discriminator.layers} layers and {self.discriminator.scales} scale(s), "
                f"got {self.data.crop_size} px"
            )
        return self


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
