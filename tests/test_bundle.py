"""Bundles: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import terramorph.bundle as bundle_module
from terramorph.bundle import FORMAT, Bands, Bundle, find_bundle, load_bundle, read_header
from terramorph.errors import BundleError, StorageError
from terramorph.header import parameter_count
from terramorph.networks import build_network, initialize

RGB = Bands(names=("red", "green", "blue"))


@pytest.fixture
def bundle() -> Bundle:
    network = build_network("unet64", width=4, in_bands=2)
    initialize(network, torch.Generator().manual_seed(0))
    return Bundle.of(
        network,
        "unet64",
        source=Bands(names=("vv", "vh"), dtype="float32", low=-25.0, high=5.0),
        target=RGB,
        size=64,
        direction="BtoA",
        ground_resolution=2.5,
        recipe={"steps": 3},
        scores={"psnr": 20.5, "fid": None},
    )


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "deep" / "model.safetensors")


def rewrite(path: Path, *, header: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> None:
    """Changes some of a bundle's header or tensors (None removes one)."""
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        document = json.loads(file.metadata()["terramorph"])
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, path, metadata={"terramorph": json.dumps({**document, **(header or {})})})


def test_round_trip(bundle: Bundle, path: Path) -> None:
    again = load_bundle(path)
    assert again.header == bundle.header
    assert again.path == path
    assert (again.header.stride, again.header.halo) == (64, None)
    assert again.header.source.scaling.low == -25.0
    assert not again.network.training
    state = bundle.network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in again.network.state_dict().items())
    assert read_header(path) == bundle.header
    assert list(path.parent.iterdir()) == [path]


def test_truncated(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BundleError, match="damaged or not"):
            load_bundle(path)


def test_not_a_bundle(tmp_path: Path) -> None:
    text = tmp_path / "notes.safetensors"
    text.write_text("not weights at all, but long enough to look like a header length")
    with pytest.raises(BundleError, match="damaged or not"):
        load_bundle(text)
    for name, advice in (
        ("maps.onnx", "that it was exported from"),
        ("net_G.PTH", "`terramorph import` makes a bundle"),
    ):
        with pytest.raises(BundleError, match=advice):
            load_bundle(text.rename(tmp_path / name))
        (tmp_path / name).rename(text)
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(BundleError, match="no terramorph header"):
        load_bundle(weights)


def test_newer_version(path: Path) -> None:
    rewrite(path, header={"format": FORMAT + 1, "made_by": "9.0.0", "something": "new"})
    with pytest.raises(BundleError, match=r"written by terramorph 9\.0\.0.*upgrade"):
        load_bundle(path)


def test_header_that_says_something_else(path: Path) -> None:
    rewrite(path, header={"stride": "many"})
    with pytest.raises(BundleError, match="stride"):
        load_bundle(path)
    rewrite(path, header={"stride": 64, "architecture": {"name": "unet65", "settings": {}}})
    with pytest.raises(BundleError, match="did you mean 'unet64'"):
        load_bundle(path)


def described(**changes: Any) -> dict[str, Any]:
    settings = {"in_bands": 2, "out_bands": 3, "width": 4, "norm": "batch", "dropout": 0.5}
    settings |= changes
    return {"name": "unet64", "settings": {key: value for key, value in settings.items() if value is not None}}


BAND = {"names": ["a", "b"], "dtype": "float32", "low": -25.0, "high": 5.0}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"size": 0}, "size"),
        ({"size": -256}, "size"),
        ({"stride": 0}, "stride"),
        ({"stride": 32}, "stride 32 .* is 64"),
        ({"halo": -1}, "halo"),
        ({"halo": 7}, "halo 7 .* is None"),
        ({"ground_resolution": 0.0}, "ground_resolution"),
        ({"ground_resolution": float("nan")}, "ground_resolution"),
        ({"source": {**BAND, "low": 5.0}}, "source.*low must be under high"),
        ({"source": {**BAND, "high": float("inf")}}, "source.*both finite"),
        ({"source": {**BAND, "dtype": "uint64"}}, "source.*uint64"),
        ({"source": {**BAND, "names": []}}, "source.names"),
        ({"target": {"names": ["red"]}}, "target has 1 band names .* out_bands 3"),
        ({"target": {"names": ["a", "b", "c", "d"]}}, "target has 4 band names .* out_bands 3"),
        ({"architecture": described(in_bands=0)}, "source has 2 band names .* in_bands 0"),
        ({"architecture": described(width=-4)}, "width cannot be -4"),
        ({"architecture": described(width=4.5)}, "width cannot be 4.5"),
        ({"architecture": described(dropout=3)}, "dropout cannot be 3"),
        ({"architecture": described(norm="layer")}, "'layer'"),
        ({"architecture": described(width=2**40)}, "cannot be built|needs"),
        ({"architecture": {"name": "patchgan", "settings": {}}}, "no generator .patchgan"),
    ],
)
def test_headers_that_cannot_be_true(path: Path, header: dict[str, Any], words: str) -> None:
    rewrite(path, header=header)
    with pytest.raises(BundleError, match=words) as told:
        load_bundle(path)
    assert "\n" not in str(told.value)
    needs_the_network = (
        "stride 32",
        "halo 7",
        "names 2 bands",
        "'layer'",
        "width",
        "dropout",
        "cannot be",
        "no generator",
    )
    if not words.startswith(needs_the_network):
        with pytest.raises(BundleError, match=words):
            read_header(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head__weight": None}, "lacks the tensor head.weight"),
        ({"extra__weight": torch.zeros(1)}, "holds a tensor extra.weight"),
        ({"head__bias": torch.zeros(7)}, r"head.bias .* \(7,\) instead of .* \(3,\)"),
        ({"head__bias": torch.zeros(3, dtype=torch.float64)}, "torch.float64"),
        ({"head__bias": torch.tensor([0.0, float("nan"), 0.0])}, "head.bias that are not finite"),
    ],
)
def test_wrong_tensors(path: Path, change: dict[str, torch.Tensor | None], words: str) -> None:
    rewrite(path, **change)
    with pytest.raises(BundleError, match=words):
        load_bundle(path)


def test_bare_name(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"no bundle town: .* or a name"):
        find_bundle("town")
    bundle.save(tmp_path / "models" / "town.safetensors")
    assert find_bundle("town") == Path("models/town.safetensors")
    assert load_bundle("town").header == bundle.header
    with pytest.raises(BundleError, match="town"):
        load_bundle("city")
    with pytest.raises(BundleError, match="no bundle other/town"):
        load_bundle("other/town")


def test_folder_of_a_run(path: Path) -> None:
    assert find_bundle(path.parent) == path
    folder = path.parent.with_name("not yet")
    folder.mkdir()
    with pytest.raises(BundleError, match=r"is a folder without model\.safetensors; give a \.safetensors file"):
        find_bundle(folder)
    (folder / "checkpoint.safetensors").touch()
    with pytest.raises(BundleError, match=r"not yet is not finished, it has no model\.safetensors yet; resume"):
        find_bundle(folder)


def test_a_failed_write_leaves_the_old_file(bundle: Bundle, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(tensors: Any, partial: Path, metadata: Any) -> None:
        Path(partial).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        bundle.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["unet64", "resnet6", "lite-unet"])
def test_parameters_are_counted_from_the_file_alone(name: str, tmp_path: Path) -> None:
    network = build_network(name, in_bands=2, width=4) if name != "lite-unet" else build_network(name, in_bands=2)
    saved = Bundle.of(network, name, source=Bands(names=("a", "b")), target=Bands(names=("r", "g", "b")))
    assert parameter_count(saved.save(tmp_path / "a.safetensors")) == sum(p.numel() for p in network.parameters())
