from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from terramorph.cartography import CLASSES
from terramorph.evaluation.discuss.content import binned, content_section
from terramorph.evaluation.discuss.covariates import map_covariates, on_border, source_covariates
from terramorph.evaluation.discuss.roads import road_widths
from terramorph.evaluation.discuss.scores import leading, score_columns
from terramorph.evaluation.discuss.views import View
from terramorph.evaluation.discuss.worst import worst_section

SIDE = 16
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def look(row: int) -> View:
    image = np.zeros((1, SIDE, SIDE), np.uint8)
    return View(f"p{row}", image, image, image, EVERYWHERE, None, None)


def test_covariates_of_a_source_by_hand() -> None:
    source = np.zeros((1, SIDE, SIDE), np.uint8)
    source[:, :, 8:] = 100
    found = source_covariates(source, EVERYWHERE)
    assert found == {"edges": 2 / SIDE, "brightness": 50, "contrast": 50}
    right = EVERYWHERE.copy()
    right[:, :10] = False
    assert source_covariates(source, right) == {"edges": 0, "brightness": 100, "contrast": 0}


def test_covariates_of_a_map_by_hand() -> None:
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[:, 4:6] = CLASSES.index("road")
    classes[:, 10:] = CLASSES.index("water")
    assert on_border(classes)[0].tolist() == [3 <= x <= 6 or 9 <= x <= 10 for x in range(SIDE)]
    found = map_covariates(classes, EVERYWHERE, road_widths(classes, EVERYWHERE))
    assert (found["road"], found["water"], found["park"]) == (2 / 16, 6 / 16, 0)
    assert found["thin_roads"] == 2 / 16
    assert found["borders"] == 6 / 16


def test_many_images_without_a_class_are_the_first_group() -> None:
    rng = np.random.default_rng(0)
    share = np.concatenate((np.zeros(50), rng.uniform(0.1, 1, 50)))
    bins = binned(share, share * 10, rng)
    assert (bins[0].low, bins[0].high, bins[0].count, bins[0].score.mean) == (0, 0, 50, 0)
    assert [one.count for one in bins[1:]] == [13, 12, 12, 13]
    assert all(a.high < b.low for a, b in pairwise(bins))
    assert [one.count for one in binned(np.arange(100.0), share, rng)] == [20] * 5
    assert len(binned(np.ones(40), np.ones(40), rng)) == 1
    assert sum(one.count for one in binned(np.repeat([0.0, 1, 2], (5, 90, 5)), share, rng)) == 100


def columns(count: int, effect: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Water that matters as much as said, and brightness that does not."""
    rng = np.random.default_rng(1)
    covariates = {"water": rng.uniform(0, 1, count), "brightness": rng.normal(100, 10, count), "park": np.zeros(count)}
    rmse = 20 + effect * covariates["water"] + rng.normal(0, 1, count)
    return covariates, {"rmse": rmse, "psnr": -rmse}


def test_what_matters_is_said_and_what_does_not_is_not() -> None:
    covariates, scores = columns(80, effect=5)
    section = content_section(covariates, scores, np.random.default_rng(0))
    said = [sentence.text for sentence in section.sentences]
    assert said[0].startswith("Images with more water score worse in RMSE: ")
    assert "after Holm's correction for 2 tests" in said[0]
    assert said[1].startswith("No dependence of RMSE is shown on brightness: ")
    findings = {(f["covariate"], f["score"]): f["shown"] for f in section.data["findings"]}
    assert findings == {("water", "rmse"): True, ("brightness", "rmse"): False}  # PSNR would only repeat it
    assert set(section.data["bins"]["water"]) == {"rmse", "psnr"}


def test_higher_is_better_turns_the_sentence() -> None:
    covariates, scores = columns(80, effect=5)
    section = content_section(covariates, {"class_accuracy": scores["rmse"] / 100}, np.random.default_rng(0))
    assert section.sentences[0].text.startswith("Images with more water score better in class accuracy")


def test_the_worst_tenth_has_what_makes_it_worst() -> None:
    covariates, scores = columns(80, effect=20)
    section = worst_section(covariates, scores, look)
    said = [sentence.text for sentence in section.sentences]
    assert said[0].startswith("The worst 8 of 80 images in RMSE have at least ")
    assert said[1].startswith("Share of water: the worst have more of it")
    assert said[2].startswith("No difference is shown in brightness")
    assert len(section.figures[-1].gallery) == 8
    assert section.figures[-1].gallery[0].title.startswith(f"p{scores['rmse'].argmax()}: RMSE")


def test_where_nothing_matters_no_difference_is_shown() -> None:
    section = worst_section(*columns(80, effect=0), look)
    assert section.sentences[1].text.startswith("No difference is shown in water and brightness")


@pytest.mark.parametrize("count", [1, 2, 29])
def test_few_images_are_told_apart_by_no_test(count: int) -> None:
    covariates, scores = columns(count, effect=20)
    for section in (
        content_section(covariates, scores, np.random.default_rng(0)),
        worst_section(covariates, scores, look),
    ):
        assert len(section.sentences) == 1
        assert re.match(rf"{count} images?, under 30: no", section.sentences[0].text)


def test_scores_of_images() -> None:
    confusion = np.zeros((7, 7), np.int64)
    confusion[0, 0], confusion[1, 0] = 30, 10
    found = score_columns({"rmse": [4.0], "lpips": [], "ssim": [0.1]}, [confusion])
    assert list(found) == ["rmse", "class_accuracy", "miou"]
    assert found["class_accuracy"][0] == 0.75
    assert found["miou"][0] == 0.75 / 2
    assert leading(found).key == "rmse"
