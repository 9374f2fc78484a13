"""`evaluate` with a discussion: both directions, and every kind of set that leaves something unsaid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import Bands, Bundle, Mode
from terramorph.cartography import CLASSES, PALETTE
from terramorph.errors import ConfigError, StorageError
from terramorph.evaluation import evaluate
from terramorph.networks import build_network
from terramorph.raster import Raster, write_image
from terramorph.translate import Model

pytestmark = pytest.mark.usefixtures("without_charts")  # but those of `whole`
SIDE = 64
RGB = Bands(names=("red", "green", "blue"))
GREY = Bands(names=("grey",))


def make_pairs(folder: Path, count: int, classes: int = 7) -> Path:
    """Noise of many brightnesses on the left, a map of blocks on the right."""
    rng = np.random.default_rng(0)
    (folder / "val").mkdir(parents=True)
    for i in range(count):
        blocks = PALETTE[rng.integers(0, classes, (8, 8))].repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        noise = rng.integers(0, 60 + 4 * i, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(np.concatenate((noise, blocks), axis=1)).save(folder / "val" / f"p{i}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("pairs"), 32)


def bundle(**header: Any) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bands = [header.get(side, RGB).count for side in ("source", "target")]
        network = build_network("unet64", width=4, in_bands=bands[0], out_bands=bands[1])
    return Bundle.of(network, "unet64", **({"source": RGB, "target": RGB, "size": SIDE, "direction": "AtoB"} | header))


def discussed(
    out: Path, pairs: Path, made: Bundle, mode: Mode = "raster", **settings: Any
) -> tuple[dict[str, Any], str]:
    """discussion.json and the page."""
    evaluate(Model(made, device="cpu", mode=mode), pairs, out, **({"discuss": 1} | settings))
    return json.loads((out / "discussion.json").read_text()), (out / "discussion.html").read_text()


@pytest.fixture(scope="module")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Folder, discussion.json and page of an evaluation from aerial to map."""
    out = tmp_path_factory.mktemp("whole")
    return out, *discussed(out, pairs, bundle())


def test_aerial_to_map_has_every_subject_and_a_dozen_sentences_at_most(whole: tuple[Path, dict[str, Any], str]) -> None:
    out, document, _ = whole
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(document["facts"]) == ["content", "confusions", "roads", "pieces", "places", "worst", "draws"]
    assert document["about"]["map_side"] == "truth"
    assert document["confusions"]["matrix"]["rows_are_truth"] == metrics["confusion"]["rows_are_truth"]
    assert document["content"]["n"] == document["worst"]["n"] == 32
    assert 5 <= len(document["sentences"]) <= 12
    assert {sentence["section"] for sentence in document["sentences"]} <= set(document["facts"])
    assert "mode paper" in document["facts"]["draws"][0]


def test_the_page_needs_no_network_opens_with_pictures_and_leads_to_its_parts(
    whole: tuple[Path, dict[str, Any], str],
) -> None:
    _, document, page = whole
    assert not re.search(r"https?:|src=\"(?!data:)|href=\"(?!#|data:)|@import|url\((?!#)", page)
    assert set(re.findall(r'href="#([\w-]+)"', page)) - set(re.findall(r'id="([\w-]+)"', page)) == set()
    order = [page.index(part) for part in (">input<", ">output<", ">truth<", 'class="card"', "<h2>Findings")]
    assert order == sorted(order)
    assert all(f'id="{section}"' in page for section in document["facts"])
    assert not re.search(
        r"\bnan\b|\bNone\b|\binf\b", re.sub(r"data:[^\"]*|<script>.*</script>", "", page, flags=re.DOTALL)
    )


def test_the_predictions_and_scores_are_those_without_a_discussion(pairs: Path, tmp_path: Path) -> None:
    plain = evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path / "a", limit=3)
    more = evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path / "b", limit=3, discuss=True)
    assert {k: v for k, v in plain.items() if k != "seconds"} == {k: v for k, v in more.items() if k != "seconds"}
    assert not (tmp_path / "a" / "discussion.html").exists()
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "discussion.html", "discussion.json", "metrics.json", "per_image.csv", "report.html",
    ]  # fmt: skip


def test_the_scores_are_safe_when_the_discussion_cannot_be_written(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "discussion.html").mkdir()
    with pytest.raises(StorageError, match=r"discussion\.html"):
        evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path, limit=1, discuss=True)
    assert json.loads((tmp_path / "metrics.json").read_text())["n"] == 1


def test_map_to_aerial_speaks_of_the_sources_classes(pairs: Path, tmp_path: Path) -> None:
    document, _ = discussed(tmp_path, pairs, bundle(direction="BtoA"))
    assert list(document["facts"]) == ["content", "places", "worst", "draws"]
    assert document["about"]["map_side"] == "source"
    assert "truth is no map" in document["limits"][-1]
    assert set(document["places"]["by_class"]) == set(CLASSES)
    assert any(f["covariate"] == "water" for f in document["content"]["findings"])


@pytest.mark.parametrize("bands", [RGB, GREY])
def test_where_neither_side_is_a_map(bands: Bands, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / "d" / "val" / side).mkdir(parents=True)
        for i in range(31):
            image = rng.integers(0, 60 + 5 * i, (SIDE, SIDE, bands.count), dtype=np.uint8)
            Image.fromarray(image.squeeze()).save(tmp_path / "d" / "val" / side / f"{i}.png")
    document, _ = discussed(tmp_path / "out", tmp_path / "d", bundle(source=bands, target=bands))
    assert document["about"]["map_side"] is None
    assert "Neither side is a map" in document["limits"][-1]
    assert {f["covariate"] for f in document["content"]["findings"]} == {"edges", "brightness", "contrast"}


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_pairs_are_shown_without_a_verdict(count: int, tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "d", count)
    document, page = discussed(tmp_path / "out", root, bundle(), mode="paper", discuss=2)
    assert document["about"]["n"] == count
    assert document["about"]["tests"] == 0
    assert "no score is tested" in document["facts"]["content"][0]
    assert "it takes 6 images" in document["facts"]["draws"][0]
    assert ">where<" in page


def test_a_map_of_one_class(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "d", 2, classes=1)
    document, _ = discussed(tmp_path / "out", root, bundle())
    assert "truths hold no road" in document["facts"]["roads"][0]
    assert "truths hold no roads" in document["facts"]["pieces"][0]
    assert list(document["places"]["by_class"]) == ["land"]


def test_draws_are_compared_in_paper_mode(pairs: Path, tmp_path: Path) -> None:
    document, page = discussed(tmp_path, pairs, bundle(), mode="paper", discuss=3, limit=6)
    alone = evaluate(Model(bundle(), device="cpu", mode="paper"), pairs, limit=6)
    assert json.loads((tmp_path / "metrics.json").read_text())["rmse"] == alone["rmse"]  # the first draw is scored
    assert document["draws"]["draws"] == document["about"]["samples"] == 3
    assert document["draws"]["mean_disagreement"] > 0
    assert "one draw" in page
    document, _ = discussed(tmp_path / "one", pairs, bundle(), mode="paper", limit=1)
    assert "draws" not in document


def test_a_map_in_another_style_has_no_roads(tmp_path: Path) -> None:
    (tmp_path / "d" / "val").mkdir(parents=True)
    pair = np.full((SIDE, 2 * SIDE, 3), (248, 249, 250), np.uint8)
    pair[:20, SIDE:] = (157, 192, 250)
    Image.fromarray(pair).save(tmp_path / "d" / "val" / "p.png")
    document, _ = discussed(tmp_path / "out", tmp_path / "d", bundle())
    assert document["about"]["map_side"] is None
    assert "roads" not in document["facts"]


def test_samples_that_make_no_sense_are_refused_before_any_work(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Mode raster has no noise"):
        evaluate(Model(bundle(), device="cpu"), pairs, out=tmp_path / "out", discuss=4)
    assert not (tmp_path / "out").exists()


def test_masked_pixels_are_in_no_count(tmp_path: Path) -> None:
    mask = np.ones((SIDE, SIDE), bool)
    mask[:, : SIDE // 2] = False
    for side in "AB":
        (tmp_path / "d" / "val" / side).mkdir(parents=True)
        pixels = PALETTE[np.where(mask, CLASSES.index("land"), CLASSES.index("water"))].transpose(2, 0, 1).copy()
        write_image(Raster.from_pixels(pixels, mask=mask), tmp_path / "d" / "val" / side / "x.tif")
    document, _ = discussed(tmp_path / "out", tmp_path / "d", bundle())
    assert {name: one["share"] for name, one in document["places"]["by_class"].items()} == {"land": 1.0}
    assert document["pieces"]["water"]["true_px"] == 0
