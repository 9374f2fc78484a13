from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from terramorph.cartography import CLASSES
from terramorph.evaluation.discuss.content import (
    binned,
    content_section,
    content_tests,
    leading,
    map_covariates,
    on_border,
    score_columns,
    source_covariates,
    worst_section,
    worst_tests,
)
from terramorph.evaluation.discuss.section import Columns, Finding, correct
from terramorph.evaluation.discuss.shapes import road_widths
from terramorph.evaluation.pictures import View

SIDE = 16
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def look(row: int) -> View:
    image = np.zeros((1, SIDE, SIDE), np.uint8)
    return View(f"p{row}", image, image, image, EVERYWHERE)


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


def columns(count: int, effect: float) -> tuple[Columns, Columns]:
    """Water that matters as much as said, and brightness that does not."""
    rng = np.random.default_rng(1)
    covariates = {"water": rng.uniform(0, 1, count), "brightness": rng.normal(100, 10, count), "park": np.zeros(count)}
    rmse = 20 + effect * covariates["water"] + rng.normal(0, 1, count)
    return covariates, {"rmse": rmse, "psnr": -rmse}


def judged(covariates: Columns, scores: Columns) -> tuple[dict[tuple[str, ...], Finding], list[Finding]]:
    tests, _ = content_tests(covariates, scores, np.random.default_rng(0))
    tests += worst_tests(covariates, scores)
    correct(tests)
    return {(test.section, *test.subject): test for test in tests}, tests


def test_what_matters_is_shown_and_what_does_not_is_not() -> None:
    covariates, scores = columns(80, effect=5)
    found, tests = judged(covariates, scores)
    # PSNR would only repeat RMSE, and a constant content tells nothing.
    assert set(found) == {("content", "water", "rmse"), ("content", "brightness", "rmse"),
                          ("worst", "water"), ("worst", "brightness")}  # fmt: skip
    assert [key for key, test in found.items() if test.shown] == [("content", "water", "rmse"), ("worst", "water")]
    assert found["content", "water", "rmse"].sentence.startswith("Images with more water score worse in RMSE: ")
    _, bins = content_tests(covariates, scores, np.random.default_rng(0))
    section = content_section([test for test in tests if test.section == "content"], bins, 80, leading(scores))
    assert section.table is not None
    assert [(row[0].text, row[1].kind) for row in section.table.rows] == [
        ("Share of water", "strong"),
        ("Brightness", ""),
    ]
    assert len(section.charts) == 2
    assert set(section.data["bins"]["water"]) == {"rmse", "psnr"}


def test_tests_are_corrected_together() -> None:
    _, tests = judged(*columns(80, effect=5))
    least = min(tests, key=lambda test: test.p)
    assert least.corrected == pytest.approx(4 * least.p)


def test_higher_is_better_turns_the_sentence() -> None:
    covariates, scores = columns(80, effect=5)
    found, _ = judged(covariates, {"class_accuracy": scores["rmse"] / 100})
    assert found["content", "water", "class_accuracy"].text.startswith("Images with more water score better in class")


def test_the_worst_tenth_has_what_makes_it_worst() -> None:
    covariates, scores = columns(80, effect=20)
    found, tests = judged(covariates, scores)
    assert found["worst", "water"].effect > 0.9
    section = worst_section([test for test in tests if test.section == "worst"], scores, look)
    assert section.data["worst"] == len(section.gallery) == 8
    assert section.gallery[0][0].startswith(f"p{scores['rmse'].argmax()}: RMSE")
    assert [name for name, _ in section.gallery[0][1]] == ["input", "output", "truth", "error"]
    differences = section.data["differences"]
    assert differences["water"]["worst"] > differences["water"]["rest"]
    assert differences["brightness"]["p"] > 0.05


@pytest.mark.parametrize("count", [1, 2, 29])
def test_few_images_are_shown_without_a_test(count: int) -> None:
    _, scores = columns(count, effect=20)
    assert "under 30" in content_section([], {}, count, leading(scores)).facts[0]
    section = worst_section([], scores, look)
    assert section.table is None
    assert len(section.gallery) == max(1, round(count / 10))


def test_scores_of_images() -> None:
    confusion = np.zeros((7, 7), np.int64)
    confusion[0, 0], confusion[1, 0] = 30, 10
    found = score_columns({"rmse": [4.0], "lpips": [], "ssim": [0.1]}, confusion[None])
    assert list(found) == ["rmse", "class_accuracy", "miou"]
    assert found["class_accuracy"][0] == 0.75
    assert found["miou"][0] == 0.75 / 2
    assert leading(found).key == "rmse"
