from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.cartography import PALETTE
from terramorph.errors import ConfigError, DatasetError, InputError
from terramorph.evaluation import evaluate, own_bundle, record_scores
from terramorph.metrics import INCEPTION_FILE, METRICS, InceptionFeatures, catalog
from terramorph.networks import build_network
from terramorph.translate import Model, load

SIDE = 64
RGB = Bands(names=("red", "green", "blue"))


def make_pairs(root: Path, split: str, count: int, seed: int = 0) -> None:
    """Noise on the left, a map of blocks in palette colours on the right."""
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True)
    for i in range(count):
        blocks = PALETTE[rng.choice(7, (4, 4), p=(0.4, *[0.1] * 6))].repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
        noise = rng.integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(np.concatenate((noise, blocks), axis=1)).save(root / split / f"p{i}.png")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    make_pairs(root, "val", 5)
    make_pairs(root, "train", 2, seed=1)
    return root


def bundle(**header: Any) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bands = [header.get(side, RGB).count for side in ("source", "target")]
        network = build_network("unet64", width=4, in_bands=bands[0], out_bands=bands[1])
    settings = {"source": RGB, "target": RGB, "size": SIDE, "direction": "AtoB"} | header
    return Bundle.of(network, "unet64", **settings)


def test_the_contract_of_metrics_json(pairs: Path, feature_weights: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "out"
    found = evaluate(
        Model(bundle(), device="cpu", batch_size=2), pairs, out, weights=feature_weights, save_predictions=True,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    columns = found.pop("per_image")
    assert len(columns["id"]) == len(columns["psnr"]) == 5
    assert json.loads((out / "metrics.json").read_text()) == found
    assert found["n"] == found["floor"]["n"] == 5
    for scores in (found, found["floor"]):
        assert {key for key in METRICS if scores[key] is None} == {"fid"}
    assert set(found["reasons"]) == {"fid"}
    assert found["floor_colour"]["value"] == [232, 228, 220]
    land = found["confusion"]["rows_are_truth"][0]
    assert found["floor"]["class_accuracy"] == pytest.approx(sum(land) / (5 * SIDE * SIDE))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert sorted(p.name for p in out.iterdir()) == [
        "metrics.json",
        "per_image.csv",
        "predictions",
        "report.html",
    ]

    with (out / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(5)]
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(found["psnr"], rel=1e-4)

    kept = Image.open(out / "predictions" / "p3.png")
    truth = Image.open(pairs / "val" / "p3.png").crop((SIDE, 0, 2 * SIDE, SIDE))
    error = np.asarray(kept, float) - np.asarray(truth, float)
    assert np.sqrt((error**2).mean()) == pytest.approx(float(rows[3]["rmse"]), rel=1e-4)


def test_without_a_folder_the_same_numbers_are_returned_and_nothing_is_written(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = bundle().save(tmp_path / "model.safetensors")
    written = evaluate(path, pairs, tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    for model in (path, str(path), load_bundle(path), load(path)):
        found = evaluate(model, pairs)
        assert {**found, "seconds": 0} == {**written, "seconds": 0}
    assert sorted(tmp_path.rglob("*")) == before
    for settings in ({"save_predictions": True}, {"discuss": 1}):
        with pytest.raises(ConfigError, match="give a folder"):
            evaluate(path, pairs, **settings)  # type: ignore[arg-type]


def test_fid_is_computed_where_inceptions_weights_are(
    pairs: Path, feature_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of means alone: roots of matrices of 2048 x 2048 take seconds, and other tests compare them.
    monkeypatch.setattr(catalog, "frechet_distance", lambda a, b: (a.mean(dim=0) - b.mean(dim=0)).norm())
    folder = shutil.copytree(feature_weights, tmp_path / "weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(InceptionFeatures().trunk.state_dict(), folder / INCEPTION_FILE)
    found = evaluate(Model(bundle(), device="cpu"), pairs, weights=folder, limit=2)
    assert found["reasons"] == {}
    assert 0 < found["fid"] != found["floor"]["fid"] > 0
    (folder / INCEPTION_FILE).write_bytes(b"")
    with pytest.raises(InputError, match="pt_inception"):
        evaluate(Model(bundle(), device="cpu"), pairs, weights=folder)


def test_the_page_is_complete_and_needs_no_network(pairs: Path, feature_weights: Path, tmp_path: Path) -> None:
    evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path, weights=feature_weights)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|src=\"(?!data:)|href=\"(?!#)|@import|url\(", page)
    for word in (*(metric.label for metric in METRICS.values()), "Best", "Median", "Worst", "Ordered by LPIPS"):
        assert word in page
    assert page.count("<small>5 pairs</small>") == 3  # distances between sets
    # It opens with a sentence, a pair as input, output, truth and error, and figures.
    order = [
        page.index(part) for part in ("5 pairs cannot tell", ">input<", ">output<", ">truth<", 'class="card"', "<h2>")
    ]
    assert order == sorted(order)
    assert page.count("<figure ") == 4 * (1 + 3)
    assert page.count(" shaded") == 49
    assert "pt_inception" in page


def test_map_to_aerial_has_no_classes_and_a_mean_colour(pairs: Path, tmp_path: Path) -> None:
    found = evaluate(Model(bundle(direction="BtoA"), device="cpu"), pairs, out=tmp_path)
    assert found["miou"] is found["class_iou"] is found["confusion"] is found["lpips"] is None
    assert "palette" in found["reasons"]["miou"]
    assert "weights" in found["reasons"]["lpips"]
    assert "training targets" in found["floor_colour"]["why"]
    assert all(95 <= value <= 105 for value in found["floor_colour"]["value"])
    page = (tmp_path / "report.html").read_text()
    assert "Ordered by RMSE" in page
    assert "Map classes" not in page


def test_a_map_of_another_style_has_other_classes_in_numbers_and_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = np.array([(248, 249, 250), (255, 255, 255), (157, 192, 250)], np.uint8)
    for split, count in (("train", 2), ("val", 2)):
        (tmp_path / "d" / split).mkdir(parents=True)
        for i in range(count):
            blocks = colours[rng.choice(3, (4, 4), p=(0.7, 0.1, 0.2))].repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
            noise = rng.integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(np.concatenate((noise, blocks), axis=1)).save(tmp_path / "d" / split / f"p{i}.png")
    found = evaluate(Model(bundle(), device="cpu"), tmp_path / "d", out=tmp_path / "out")
    assert found["floor_colour"]["value"] == [248, 249, 250]
    assert found["palette"]["name"] == "measured"
    assert set(found["class_iou"]) == set(found["confusion"]["classes"]) == {"#f8f9fa", "#ffffff", "#9dc0fa"}
    assert "#9dc0fa" in (tmp_path / "out" / "report.html").read_text()
    found = evaluate(Model(bundle(), device="cpu"), tmp_path / "d", out=tmp_path / "classic", style="classic")
    assert found["miou"] is found["confusion"] is None
    assert "classic" in found["reasons"]["miou"]
    assert "Map classes" not in (tmp_path / "classic" / "report.html").read_text()


def test_paper_mode_repeats_with_its_seed(pairs: Path, tmp_path: Path) -> None:
    runs = [evaluate(Model(bundle(), device="cpu", mode="paper", seed=seed), pairs, limit=2) for seed in (1, 1, 2)]
    assert runs[0]["rmse"] == runs[1]["rmse"] != runs[2]["rmse"]
    assert runs[0]["n"] == 2
    assert runs[0]["protocol"]["batch_size_one"] is True


def test_pairs_larger_than_the_bundle_are_resized_by_pil(tmp_path: Path) -> None:
    make_pairs(tmp_path / "data", "val", 2)
    found = evaluate(Model(bundle(), device="cpu"), tmp_path / "data")
    for file in (tmp_path / "data" / "val").iterdir():
        whole = Image.open(file)
        whole.resize((4 * SIDE, 2 * SIDE), Image.Resampling.NEAREST).save(file)
    large = evaluate(Model(bundle(), device="cpu"), tmp_path / "data")
    assert large["n"] == 2
    assert large["floor"]["rmse"] == pytest.approx(found["floor"]["rmse"], rel=0.05)


def test_other_dtypes_and_bands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, dtype, top in (("A", np.uint8, 255), ("B", np.uint16, 4000)):
        (tmp_path / "d" / "val" / side).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, top, (SIDE, SIDE)).astype(dtype)).save(
                tmp_path / "d" / "val" / side / f"{i}.tif"
            )
    with torch.random.fork_rng(devices=[]):
        network = build_network("unet64", width=4, in_bands=1, out_bands=1)
    made = Bundle.of(
        network, "unet64", source=Bands(names=("grey",)), size=SIDE,
        target=Bands(names=("height",), dtype="uint16", low=0.0, high=4000.0),
    )  # fmt: skip
    found = evaluate(Model(made, device="cpu"), tmp_path / "d", out=tmp_path / "out", save_predictions=True)
    assert len(found["floor_colour"]["value"]) == 1
    assert 0 < found["rmse"] < 255
    assert (tmp_path / "out" / "predictions" / "0.tif").is_file()


def test_predictions_of_pairs_in_folders_keep_their_paths(pairs: Path, tmp_path: Path) -> None:
    for folder in ("north", "south"):
        shutil.copytree(pairs / "val", tmp_path / "d" / "val" / folder)
    evaluate(Model(bundle(), device="cpu"), tmp_path / "d", out=tmp_path / "out", save_predictions=True)
    made = (tmp_path / "out" / "predictions").rglob("*.png")
    names = {path.relative_to(tmp_path / "out" / "predictions").as_posix() for path in made}
    assert names == {f"{folder}/p{i}.png" for folder in ("north", "south") for i in range(5)}
    assert "south/p4," in (tmp_path / "out" / "per_image.csv").read_text()


def test_bad_pairs_are_named_or_skipped_and_listed(tmp_path: Path) -> None:
    make_pairs(tmp_path / "data", "val", 3)
    (tmp_path / "data" / "val" / "p1.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match="p1"):
        evaluate(Model(bundle(), device="cpu"), tmp_path / "data", out=tmp_path / "out")
    found = evaluate(Model(bundle(), device="cpu"), tmp_path / "data", out=tmp_path / "out", skip_bad=True)
    assert found["n"] == 2
    assert len(found["dataset"]["skipped"]) == 1
    assert "Left out" in (tmp_path / "out" / "report.html").read_text()


def test_what_does_not_fit_is_refused(pairs: Path, tmp_path: Path) -> None:
    four = Bands(names=("red", "green", "blue", "nir"))
    with pytest.raises(DatasetError, match="must have 4 bands of uint8"):
        evaluate(Model(bundle(target=four), device="cpu"), pairs, out=tmp_path)
    with pytest.raises(DatasetError, match="no split 'test'"):
        evaluate(Model(bundle(), device="cpu"), pairs, split="test", out=tmp_path)
    with pytest.raises(InputError, match="got 0"):
        evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path, limit=0)


def test_the_report_says_what_the_bundle_notes(pairs: Path, tmp_path: Path) -> None:
    evaluate(Model(bundle(note="Trained on images of nobody."), device="cpu"), pairs, out=tmp_path / "out")
    assert "Trained on images of nobody." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_recorded_scores_are_in_the_bundle_and_others_are_not(pairs: Path, tmp_path: Path) -> None:
    path = bundle().save(tmp_path / "model.safetensors")
    scores = evaluate(path, pairs)
    assert load_bundle(path).header.scores == {}
    record_scores(own_bundle(path), "val", {key: scores[key] for key in METRICS})
    recorded = load_bundle(path).header.scores
    assert recorded["val psnr"] == pytest.approx(scores["psnr"])
    assert recorded["val lpips"] is None
