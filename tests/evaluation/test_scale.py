"""Evaluation and recalibration see pairs at the scale that the bundle was trained at; masks and bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.errors import DatasetError
from terramorph.evaluation import evaluate
from terramorph.evaluation.samples import Samples
from terramorph.networks import build_network
from terramorph.pairs import open_pairs
from terramorph.raster import Raster, write_image
from terramorph.training import recalibrate, recalibrate_network
from terramorph.translate import Model

SIDE = 64
RGB = Bands(names=("red", "green", "blue"))
NATIVE = {"data": {"load_size": 0, "crop_size": SIDE, "resampling": "bicubic"}, "batch_size": 2}


def make_pairs(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)).save(folder / f"p{side}-{i}.png")
    return folder.parent


def bundle(recipe: dict[str, Any] | None = None, **header: Any) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network("unet64", width=4)
    return Bundle.of(
        network, "unet64", **{"source": RGB, "target": RGB, "size": SIDE, "recipe": recipe or {}, **header}
    )


def test_native_scale_is_cut_and_not_resized(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "d" / "val", 2, 100)
    samples = Samples(open_pairs(root, "val"), bundle(NATIVE).header)
    whole = np.asarray(Image.open(root / "val" / "p100-0.png")).transpose(2, 0, 1)
    sample = samples.read(0)
    assert np.array_equal(sample.source, whole[:, 18:82, 18:82])
    assert np.array_equal(sample.truth, whole[:, 18:82, 118:182])
    found = evaluate(Model(bundle(NATIVE), device="cpu"), root)
    assert found["protocol"]["resize"] == "none, the centre of 64 px is cut out"
    assert "scale of the files" in found["protocol"]["name"]


def test_native_scale_enlarges_what_is_too_small_and_says_so(tmp_path: Path) -> None:
    make_pairs(tmp_path / "d" / "val", 1, 100)
    root = make_pairs(tmp_path / "d" / "val", 2, 50)
    found = evaluate(Model(bundle(NATIVE), device="cpu"), root)
    assert found["n"] == 3
    assert "2 of 3 pairs with a side under that: PIL bicubic, stored dtype" in found["protocol"]["resize"]


@pytest.mark.parametrize("recipe", [{}, {"data": {"load_size": 72, "crop_size": SIDE}}])
def test_otherwise_whole_pairs_are_resized(tmp_path: Path, recipe: dict[str, Any]) -> None:
    root = make_pairs(tmp_path / "d" / "val", 1, 100)
    sample = Samples(open_pairs(root, "val"), bundle(recipe).header).read(0)
    half = Image.open(root / "val" / "p100-0.png").crop((0, 0, 100, 100)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert np.array_equal(sample.source, np.asarray(half).transpose(2, 0, 1))
    found = evaluate(Model(bundle(recipe), device="cpu"), root)
    assert found["protocol"]["resize"] == "PIL bicubic, stored dtype"
    assert found["protocol"]["name"] == "maps-256 at 64 px"


def test_masked_pixels_do_not_reach_the_truth(tmp_path: Path) -> None:
    mask = np.ones((100, 100), bool)
    mask[:, :30] = False
    for side, value in (("A", 80), ("B", 200)):
        (tmp_path / "val" / side).mkdir(parents=True)
        pixels = np.where(mask, value, 0).astype(np.uint8)[None].repeat(3, 0)
        write_image(Raster.from_pixels(pixels, mask=mask if side == "B" else None), tmp_path / "val" / side / "x.tif")
    sample = Samples(open_pairs(tmp_path, "val"), bundle().header).read(0)
    assert 0.6 < sample.mask.mean() < 0.71
    assert (sample.truth[:, sample.mask] == 200).all()


def test_a_bad_pair_is_reported_when_its_turn_comes(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "d" / "val", 3, SIDE)
    (root / "val" / "p64-2.png").write_bytes(b"broken")
    told: list[tuple[int, int]] = []
    with pytest.raises(DatasetError, match="p64-2"):
        evaluate(Model(bundle(), device="cpu", batch_size=1), root, progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        (NATIVE, None),
        ({"data": {"load_size": 80, "crop_size": SIDE, "resampling": "nearest"}, "batch_size": 2}, 80),
        ({}, SIDE),
    ],
)
def test_recalibration_cuts_as_training_did(tmp_path: Path, recipe: dict[str, Any], size: int | None) -> None:
    root = make_pairs(tmp_path / "d" / "train", 4, 120)
    path = bundle(recipe).save(tmp_path / "model.safetensors")
    renewed = load_bundle(recalibrate(path, root, tmp_path / "new.safetensors", cache=tmp_path / "cache"))
    method = "nearest" if size == 80 else "bicubic"
    pairs = decode(open_pairs(root, "train"), size=size, resampling=method, cache=tmp_path / "cache")  # type: ignore[arg-type]
    scalings = (RGB.scaling, RGB.scaling)
    batches = TrainingBatches(pairs, pairs.a, pairs.a, scalings, Augmentation(SIDE, mirror=False), seed=0)
    wanted, step = load_bundle(path).network, recipe.get("batch_size", 1)
    recalibrate_network(wanted, (batches.batch(first, step).source for first in range(0, 4, step)))
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(renewed.network.state_dict()[name], value)


def test_recalibration_can_leave_out_bad_pairs(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "d" / "train", 3, SIDE)
    (root / "train" / "p64-1.png").write_bytes(b"broken")
    (root / "train" / "notes.docx").write_text("hello")
    path = bundle().save(tmp_path / "model.safetensors")
    with pytest.raises(DatasetError, match="notes"):
        recalibrate(path, root, tmp_path / "new.safetensors", cache=tmp_path / "cache")
    written = recalibrate(path, root, tmp_path / "new.safetensors", cache=tmp_path / "cache", skip_bad=True)
    assert load_bundle(written).header.recalibrated
