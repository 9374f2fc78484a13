"""Header of a bundle: everything needed to use its weights. Read without torch.

A bundle's metadata holds one JSON document under the key `terramorph`; `Header` is that document.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from terramorph._version import __version__
from terramorph.bands import Units, band_order
from terramorph.documents import DocumentError, first_fault, parse_json_object
from terramorph.errors import BundleError, raised_as
from terramorph.models import MODELS_FOLDER, known, named
from terramorph.models.hub import fetch, is_on_hub
from terramorph.pixels import Scaling

if TYPE_CHECKING:
    from terramorph.raster import Raster

FORMAT = 1
# What a run leaves in its folder: the bundle at its end, and until then what it goes on from.
_MODEL, _CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
_KEPT = ("running_mean", "running_var", "num_batches_tracked", "palette")
_OF_OTHER_KINDS = {
    ".onnx": "give the bundle that it was exported from",
    **dict.fromkeys((".pth", ".pt"), "if it is a checkpoint of pix2pix, `terramorph import` makes a bundle of it"),
}
"""What to do with a file that is no bundle, by its suffix."""
Mode = Literal["paper", "raster"]
Direction = Literal["AtoB", "BtoA"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bands(_Frozen):
    """Bands of one side of the translation.

    Attributes:
        names: One per band, in order.
        dtype, low, high: How stored values become [-1, 1]; see `terramorph.pixels.Scaling`.
        units: Scale and offset of stored values, per band; None: 1 and 0, or not known.

    Raises:
        ValidationError: If there is no name, the dtype is unknown, low is not under high, or units are not one a band.
    """

    names: tuple[str, ...] = Field(min_length=1)
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0
    units: Units | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ = self.scaling  # refuses an unknown dtype and an empty range
        if self.units and len(self.units.scales) != len(self.names):
            raise ValueError("scales and offsets are given one a band")
        return self

    @classmethod
    def of(cls, names: Sequence[str], scaling: Scaling, units: Units | None = None) -> Self:
        """Make bands from names, range and units."""
        return cls(names=tuple(names), dtype=scaling.dtype, low=scaling.low, high=scaling.high, units=units)

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.names)

    @property
    def scaling(self) -> Scaling:
        """The straight line from stored values to [-1, 1]."""
        return Scaling(self.dtype, self.low, self.high)

    @property
    def physical(self) -> tuple[float, float] | None:
        """The range in the units of the first band; None where they are not known."""
        if self.units is None:
            return None
        low, high = (value * self.units.scales[0] + self.units.offsets[0] for value in (self.low, self.high))
        return low, high

    def fit(self, raster: Raster) -> Raster | None:
        """Reorder a raster's bands to this order, by name, and convert its values to these units; None where bands
        differ."""
        order = band_order(raster.bands, self.names)
        return None if order is None else raster.arranged(order, self.units)


class Architecture(_Frozen):
    """Name of a generator (see `terramorph.networks.build_network`) and the settings to build it again."""

    name: str
    settings: dict[str, Any]


class Header(_Frozen):
    """Header of a bundle: its JSON document.

    Attributes:
        format: Version of this document, `FORMAT`.
        made_by: The terramorph version that wrote it.
        architecture: The generator.
        direction: AtoB (of the training pairs, A is the source) or BtoA.
        source, target: The bands and value ranges of both sides.
        size: Side in pixels of the square crops it was trained on, and that evaluation resizes to.
        stride: Input sizes are extended to a multiple of this many pixels.
        halo: Pixels on each side that an output pixel depends on; None if not bounded.
        mode: The mode used unless another is asked for. `paper`: batch statistics and live dropout;
            `raster`: fixed statistics, no dropout.
        recalibrated: Whether the normalisation statistics were averaged over the training set after training.
        ground_resolution: Metres per pixel of the training crops, None if not known.
        recipe: The resolved training configuration, empty if the weights came from elsewhere.
        data: Origin of the training pairs: a fingerprint and counts.
        scores: Figures of the last evaluation that was recorded by split and name.
        note: Free text, such as a licence or where the weights came from.

    Raises:
        ValidationError: If a value is out of range, or the bands are not as many as the generator takes and gives.
    """

    format: int = FORMAT
    made_by: str = __version__
    architecture: Architecture
    direction: Direction = "AtoB"
    source: Bands
    target: Bands
    size: int = Field(256, gt=0)
    stride: int = Field(1, gt=0)
    halo: int | None = Field(None, ge=0)
    mode: Mode = "raster"
    recalibrated: bool = False
    ground_resolution: float | None = Field(None, gt=0, allow_inf_nan=False)
    recipe: dict[str, Any] = {}
    data: dict[str, Any] = {}
    scores: dict[str, float | None] = {}
    note: str = ""

    @property
    def pairs_read(self) -> dict[str, Any]:
        """How pairs were read in training: the recipe's settings `data`; empty if the weights came from elsewhere."""
        data = self.recipe.get("data")
        return data if isinstance(data, dict) else {}

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        for side, key in ((self.source, "in_bands"), (self.target, "out_bands")):
            wanted = self.architecture.settings.get(key, side.count)
            if side.count != wanted:
                which = "source" if side is self.source else "target"
                raise ValueError(f"the {which} has {side.count} band names and the network has {key} {wanted}")
        return self


def read_header(path: str | Path) -> Header:
    """Read the header of a bundle, without its weights.

    Raises:
        BundleError: If the file is missing, truncated, too new, or not a bundle, or a value is out of range. Whether
            its network can be built is known once the bundle is loaded.
    """
    path = find_bundle(path)
    kinds = (SafetensorError, OSError, struct.error)
    advice = _OF_OTHER_KINDS.get(path.suffix.lower(), "copy or make it again")
    with (
        raised_as(BundleError, f"{path} is damaged or not a .safetensors file", advice, *kinds),
        safe_open(path, framework="numpy") as file,
    ):
        metadata = file.metadata() or {}
    if "terramorph" not in metadata:
        raise BundleError(f"{path} holds weights but no terramorph header; import it to make a bundle of it.")
    try:
        document = parse_json_object(metadata["terramorph"])
        version = document.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BundleError(
                f"{path} was written by terramorph {document.get('made_by', '?')} in bundle format {version}, and this "
                f"is terramorph {__version__} with format {FORMAT}; upgrade terramorph to use it."
            )
        return Header.model_validate(document)
    except (DocumentError, ValidationError) as error:
        detail = first_fault(error) if isinstance(error, ValidationError) else error
        raise BundleError(
            f"The header of {path} does not say what a bundle must ({detail}); make the bundle again."
        ) from error


def parameter_count(path: str | Path) -> int:
    """Count the trainable values of a bundle's network: all tensors but buffers."""
    with safe_open(path, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  (no mapping)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.rpartition(".")[2] not in _KEPT)


def find_bundle(path: str | Path) -> Path:
    """Find the file of a bundle: a path, a run's folder, a model's name (in the folder `models` or published), or
    hf://owner/name, which is fetched.

    Raises:
        BundleError: If there is none; the sentence lists the names that are known, or says how an unfinished run goes
            on, or how a published model gets to this machine.
    """
    if is_on_hub(path):
        return fetch(path)
    given = Path(path)
    if (given / _MODEL).is_file():
        return given / _MODEL
    if given.is_file():
        return given
    if (given / _CHECKPOINT).is_file():
        raise BundleError(f"The run in {given} is not finished, it has no {_MODEL} yet; resume its training first.")
    if given.name == str(path) and (file := named(given.name)) is not None:
        return file
    what = f"it is a folder without {_MODEL}" if given.is_dir() else "it is not a file"
    raise BundleError(
        f"There is no bundle {given}: {what}; give a .safetensors file, the folder of a finished run, or a name "
        f"({', '.join(known())}; the folder {MODELS_FOLDER} and published models)."
    )
