"""A bundle: one .safetensors file with a generator's weights and everything needed to use them correctly.

The tensors are the generator's state; the header's metadata holds one JSON document under the key `terramorph`.
No pickle is written or read.
"""

from __future__ import annotations

import math
import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.bands import Units, band_order
from terramorph.documents import DocumentError, parse_json_object
from terramorph.errors import BundleError
from terramorph.networks import build_network, describe_network
from terramorph.pixels import Scaling

if TYPE_CHECKING:
    from terramorph.raster import Raster

FORMAT = 1
MODELS_FOLDER = Path("models")
# What a run leaves in its folder: the bundle at its end, and until then what it goes on from.
_MODEL, _CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
Mode = Literal["paper", "raster"]
Direction = Literal["AtoB", "BtoA"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bands(_Frozen):
    """What one side of the translation holds.

    Attributes:
        names: one per band, in order.
        dtype, low, high: how stored values become [-1, 1]; see `terramorph.pixels.Scaling`.
        units: what stored values mean, scale and offset of each band; None: themselves, or it is not known.

    Raises:
        ValidationError: if there is no name, the dtype is unknown, low is not under high, or units are not one a band.
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
        """Bands by names, range and units."""
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
        """A raster's bands in this order, by name, and its stored values in these units; None where bands differ."""
        order = band_order(raster.bands, self.names)
        return None if order is None else raster.arranged(order, self.units)


class Architecture(_Frozen):
    """A name in `terramorph.networks.NETWORKS` and the fields that build it again."""

    name: str
    settings: dict[str, Any]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in ("in_bands", "out_bands", "width"):
            value = self.settings.get(key, 1)
            if type(value) is not int or value < 1:
                raise ValueError(f"{key} is {value!r} and must be a whole number from 1")
        dropout = self.settings.get("dropout", 0.0)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout is {dropout!r} and must be a share from 0 to 1")
        return self


class Header(_Frozen):
    """What a bundle says of itself.

    Attributes:
        format: version of this document, `FORMAT`.
        made_by: the terramorph version that wrote it.
        architecture: the generator.
        direction: which side of the training pairs was the source.
        source, target: the bands and value ranges of both sides.
        size: side in pixels of the square crops it was trained on, and that evaluation resizes to.
        stride: input sizes are extended to a multiple of this many pixels.
        halo: pixels on each side that an output pixel depends on; None if not bounded.
        mode: the mode used unless another is asked for. `paper`: batch statistics and live dropout;
            `raster`: fixed statistics, no dropout.
        recalibrated: whether the normalisation statistics were averaged over the training set after training.
        ground_resolution: metres per pixel of the training crops, None if not known.
        recipe: the resolved training configuration, empty if the weights came from elsewhere.
        data: where the training pairs came from: a fingerprint and counts.
        scores: figures of the last evaluation that was recorded (`evaluate --record`), by split and name.
        note: free text, such as a licence or where the weights came from.

    Raises:
        ValidationError: if a value is out of range, or the bands are not as many as the generator takes and gives.
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

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        for side, key in ((self.source, "in_bands"), (self.target, "out_bands")):
            wanted = self.architecture.settings.get(key, side.count)
            if side.count != wanted:
                which = "source" if side is self.source else "target"
                raise ValueError(f"the {which} has {side.count} band names and the network has {key} {wanted}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A generator and what it says of itself.

    Attributes:
        network: the generator in evaluation mode, float32, on the CPU.
        header: everything needed to use it.
        path: the file it was loaded from, None if it was not.
    """

    network: nn.Module
    header: Header
    path: Path | None = None

    @staticmethod
    def of(network: nn.Module, name: str, *, source: Bands, target: Bands, **header: Any) -> Bundle:
        """Makes a bundle of a network built from the catalogue under `name`."""
        return Bundle(
            network.eval(),
            Header(
                architecture=Architecture(name=name, settings=describe_network(network)),
                source=source,
                target=target,
                stride=network.stride,
                halo=network.halo,
                **header,
            ),
        )

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Writes the file; it appears whole or not at all.

        Args:
            path: of the file.
            half: keep the weights as float16, in half the bytes; they are float32 again once loaded.

        Raises:
            StorageError: if it cannot be written.
            BundleError: if a value is too large for float16.
        """
        path = Path(path)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.network.state_dict().items()}
        if half:
            tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
            for name, tensor in tensors.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise BundleError(f"The tensor {name} has values that float16 cannot hold; save {path} as float32.")
        with atomic(
            path, f"The bundle {path} could not be written", failures=(SafetensorError,), make_folder=True
        ) as part:
            part.touch()  # with the rights that files get here; safetensors alone would make it private
            save_file(tensors, part, metadata={"terramorph": self.header.model_dump_json()})
        return path


def read_header(path: str | Path) -> Header:
    """Reads what a bundle says of itself without its weights.

    Raises:
        BundleError: if the file is missing, truncated, too new, or not a bundle, or what it says of its network cannot
            be true.
    """
    path = find_bundle(path)
    header = _read_document(path)
    _described_network(path, header)
    return header


def _read_document(path: Path) -> Header:
    """The header, each value of it in range."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, struct.error) as error:
        raise BundleError(f"{path} is damaged or not a .safetensors file ({error}); copy or make it again.") from error
    if "terramorph" not in metadata:
        raise BundleError(
            f"{path} holds weights but no terramorph header; use `terramorph import` to make a bundle of it."
        )
    try:
        document = parse_json_object(metadata["terramorph"])
        version = document.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BundleError(
                f"{path} was written by terramorph {document.get('made_by', '?')} in bundle format "
                f"{version}, and this is "
                f"terramorph {__version__} with format {FORMAT}; upgrade terramorph to use it."
            )
        return Header.model_validate(document)
    except (DocumentError, ValidationError) as error:
        detail = _first(error) if isinstance(error, ValidationError) else error
        raise BundleError(
            f"The header of {path} does not say what a bundle must ({detail}); make the bundle again."
        ) from error


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, as `source.low: what`."""
    wrong = error.errors()[0]
    where = ".".join(str(part) for part in wrong["loc"])
    what = wrong["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {what}" if where else what


def _described_network(path: Path, header: Header) -> nn.Module:
    """The network that a header describes, without memory for its weights (on torch's device `meta`).

    Raises:
        BundleError: if there can be none, or its stride and halo are not those of the header.
    """
    name = header.architecture.name
    try:
        with torch.device("meta"):
            network = build_network(name, **header.architecture.settings)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BundleError(
            f"{path} describes a network that cannot be built ({reason}); make the bundle again."
        ) from error
    for key in ("stride", "halo"):
        said, true = getattr(header, key), getattr(network, key, math.nan)
        if said != true:
            raise BundleError(
                f"The header of {path} says {key} {said} and that of its {name} is {true}; make the bundle again."
                if true is not math.nan
                else f"The network {name} that {path} describes is no generator; make the bundle again."
            )
    settings = describe_network(network)
    for key, side in (("in_bands", header.source), ("out_bands", header.target)):
        if settings[key] != side.count:  # where the header leaves the setting out
            raise BundleError(
                f"The header of {path} names {side.count} bands and the network has {key} {settings[key]}; make the "
                "bundle again."
            )
    return network


def load_bundle(path: str | Path) -> Bundle:
    """Reads a bundle.

    Args:
        path: a file, or a bare name that is looked up in the folder `models` (`models/NAME.safetensors`).

    Raises:
        BundleError: as for `read_header`, or if a tensor does not fit its network.
    """
    path = find_bundle(path)
    header = _read_document(path)
    network = _described_network(path, header)
    expected = network.state_dict()
    state: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in sorted(expected.keys() | names):
            if name not in names:
                raise BundleError(f"{path} lacks the tensor {name}; make the bundle again.")
            if name not in expected:
                raise BundleError(
                    f"{path} holds a tensor {name} that {header.architecture.name} does not have; "
                    f"make the bundle again."
                )
            tensor = file.get_tensor(name)
            if tensor.dtype == torch.float16:
                tensor = tensor.float()
            if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
                raise BundleError(
                    f"The tensor {name} in {path} is {tensor.dtype} {tuple(tensor.shape)} and "
                    f"{header.architecture.name} "
                    f"needs {expected[name].dtype} {tuple(expected[name].shape)}; make the bundle again."
                )
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise BundleError(
                    f"The tensor {name} in {path} holds values that are not finite; use an earlier checkpoint."
                )
            state[name] = tensor
    # Only now is there memory for the network, for it is known to be the size of the file.
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for name, place in network.state_dict().items():
            place.copy_(state[name])
    return Bundle(network.eval().requires_grad_(False), header, path)


def find_bundle(path: str | Path) -> Path:
    """The file that a path, a run's folder or a bare name means.

    Raises:
        BundleError: if there is none; the sentence lists the names in the models folder, or says how an unfinished run
            goes on.
    """
    given = Path(path)
    if (given / _MODEL).is_file():
        return given / _MODEL
    if given.is_file():
        return given
    if given.name == str(path):
        named = MODELS_FOLDER / f"{given.name.removesuffix('.safetensors')}.safetensors"
        if named.is_file():
            return named
    if (given / _CHECKPOINT).is_file():
        raise BundleError(
            f"The run in {given} has no {_MODEL} yet; go on with `terramorph train --resume {shlex.quote(str(given))}`."
        )
    what = f"it is a folder without {_MODEL}" if given.is_dir() else "it is not a file"
    known = sorted(p.stem for p in MODELS_FOLDER.glob("*.safetensors"))
    hint = (
        f"the folder {MODELS_FOLDER} holds {', '.join(known)}; give one of these, a .safetensors file"
        if known
        else f"there is no bundle in the folder {MODELS_FOLDER}; give a .safetensors file"
    )
    raise BundleError(f"There is no bundle {given}: {what}, and {hint} or the folder of a finished run.")
