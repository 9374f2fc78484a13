"""Effects and verdicts: against scipy, by hand, and their error rates by simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from terramorph.evaluation.statistics import holm
from terramorph.study.statistics import Effect, effects, verdict


@dataclass(frozen=True)
class Measured:
    """A metric on the procedural town: preset demo at 64 px, 2400 training images, and half as many; 64 pairs, 5 seeds.

    `seed` is the deviation of a run's mean, `rest` what image and seed do together, `by_image` that of the effect.
    """

    effect: float
    seed: float
    seed_of_half: float
    rest: float
    by_image: float
    images: int = 64


TOWN = {
    "miou": Measured(-0.222, 0.0335, 0.0135, 0.0, 0.0, 1),
    "psnr": Measured(-2.47, 0.41, 0.13, 1.06, 2.40),
    "ssim": Measured(-0.054, 0.0113, 0.0124, 0.016, 0.024),
    "rmse": Measured(5.48, 1.15, 0.40, 2.56, 6.06),
}
HIGHER = {"miou": True, "psnr": True, "ssim": True, "rmse": False}

STORED = {
    (3, 40): {
        "a": [0.622329484640736, -0.15588151539810557, 1.4005404846795777, 0.09959892269486018],
        "b": [-0.22767082053103066, -1.2764506097187074, 0.821108968656646, 0.6379782214348676],
    },
    (3, 1): {
        "a": [0.8702751466338832, -1.4355981428621343, 3.1761484361299006, 0.37651487607208123],
        "b": [-0.7845968204562084, -4.651488289715713, 3.0822946488032965, 0.6242377734305729],
    },
    (1, 25): {
        "a": [0.7962516114848257, 0.1190066645960054, 1.473496558373646, None],
        "b": [-0.6521657854494943, -1.6711696359886306, 0.366838065089642, None],
    },
    (4, 1500): {
        "a": [0.7429627931141964, 0.38988469676210313, 1.0960408894662899, 0.0012062332308068941],
        "b": [-0.2663235608047823, -0.5515368906443667, 0.018889769034802162, 0.06389216262192737],
    },
}
"""(seeds, images) -> variant -> difference, low, high, p."""


def arm(
    rng: np.random.Generator, metric: Measured, seeds: int, deviation: float, effect: float = 0.0
) -> NDArray[np.float64]:
    """Scores of one variant, (seeds, images); what images have in common cancels and is left out."""
    of_seeds = rng.normal(0, deviation, (seeds, 1))
    by_image = rng.normal(effect, metric.by_image if effect else 0.0, metric.images)
    return of_seeds + by_image + rng.normal(0, metric.rest, (seeds, metric.images))


def judge(found: dict[tuple[str, str], Effect]) -> dict[tuple[str, str], str]:
    """Verdicts after the correction over all of them."""
    corrected = holm([effect.p or 0.0 for effect in found.values()])
    return {key: verdict(effect, p, HIGHER[key[1]]) for (key, effect), p in zip(found.items(), corrected, strict=True)}


def study(
    rng: np.random.Generator, arms: dict[str, tuple[float, bool]], metrics: tuple[str, ...] = tuple(TOWN)
) -> dict[tuple[str, str], str]:
    """A base and variants, three seeds each: (factor on the deviation of seeds, whether they have half the budget)."""
    found: dict[tuple[str, str], Effect] = {}
    for name in metrics:
        metric = TOWN[name]
        scores = {"base": arm(rng, metric, 3, metric.seed)}
        for variant, (factor, half) in arms.items():
            deviation = metric.seed_of_half if half else metric.seed * factor
            scores[variant] = arm(rng, metric, 3, deviation, metric.effect if half else 0.0)
        for variant, effect in effects(scores, "base", rng, draws=200).items():
            found[variant, name] = effect
    return judge(found)


def test_half_a_budget_is_worse_and_another_seed_is_no_difference() -> None:
    """The metrics are drawn independently, which is the hardest case for the rate of false verdicts."""
    rng = np.random.default_rng(0)
    repetitions = [study(rng, {"half": (1.0, True), "other seed": (1.0, False)}) for _ in range(200)]
    worse = {name: np.mean([found["half", name] == "worse" for found in repetitions]) for name in TOWN}
    false = np.mean([any(found["other seed", name] != "no difference shown" for name in TOWN) for found in repetitions])
    assert min(worse[name] for name in ("miou", "psnr", "rmse")) >= 0.9
    assert false <= 0.1
    assert not any(word == "better" for found in repetitions for (name, _), word in found.items() if name == "half")


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_many_changes_that_do_nothing_have_no_verdict(spread: float) -> None:
    """Eleven changes; the deviations of their seeds differ by factors of exp(spread * normal)."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(100):
        arms = {f"change {n}": (float(np.exp(rng.normal(0, spread))), False) for n in range(11)}
        false += any(word != "no difference shown" for word in study(rng, arms, metrics=("miou", "psnr")).values())
    assert false / 100 <= 0.1


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    metric = TOWN["psnr"]
    held = 0
    for _ in range(400):
        scores = {"base": arm(rng, metric, 3, metric.seed), "half": arm(rng, metric, 3, metric.seed, metric.effect)}
        effect = effects(scores, "base", rng, draws=200)["half"]
        held += effect.low <= metric.effect <= effect.high
    assert held / 400 >= 0.93


def test_more_seeds_and_images_narrow_the_interval() -> None:
    def width(seeds: int, images: int) -> float:
        rng = np.random.default_rng(3)
        metric = Measured(-2.0, 0.4, 0.4, 1.0, 2.0, images)
        widths = []
        for _ in range(20):
            scores = {"base": arm(rng, metric, seeds, 0.4), "change": arm(rng, metric, seeds, 0.4, -2.0)}
            effect = effects(scores, "base", rng, draws=200)["change"]
            widths.append(effect.high - effect.low)
        return float(np.median(widths))

    assert width(12, 400) < 0.6 * width(3, 400)
    assert width(12, 400) < 0.8 * width(12, 25)


def test_one_seed_has_no_verdict() -> None:
    rng = np.random.default_rng(4)
    scores = {
        "base": rng.normal(0, 1, (1, 30)),
        "change": rng.normal(9, 1, (1, 30)),
        "three": rng.normal(9, 1, (3, 30)),
    }
    found = effects(scores, "base", rng)
    for effect in found.values():
        assert (effect.p, effect.over) == (None, "images")
        assert effect.low < effect.difference < effect.high
        assert verdict(effect, None, True) == "one seed: no verdict"
    of_the_set = effects({"base": np.array([[0.5]]), "change": np.array([[0.6]])}, "base", rng)["change"]
    assert of_the_set.over == "nothing"
    assert of_the_set.low == of_the_set.difference == pytest.approx(0.1)


def test_identical_runs_have_no_difference() -> None:
    same = np.tile(np.arange(10.0), (3, 1))
    effect = effects({"base": same, "change": same}, "base", np.random.default_rng(0))["change"]
    assert (effect.difference, effect.low, effect.high, effect.p) == (0.0, 0.0, 0.0, 1.0)
    shifted = effects({"base": same, "change": same + 1}, "base", np.random.default_rng(0))["change"]
    assert shifted.p is not None
    assert shifted.p < 1e-9


def test_a_set_metric_is_the_pooled_t_test() -> None:
    """With equal variances and two variants, Dunnett's pooled variance is that of the classic two-sample test."""
    base, change = np.array([[1.0], [2.0], [3.0]]), np.array([[4.0], [5.0], [6.0]])
    effect = effects({"base": base, "change": change}, "base", np.random.default_rng(0))["change"]
    expected = stats.ttest_ind(change[:, 0], base[:, 0])
    assert effect.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert [effect.low, effect.high] == pytest.approx([low, high])


def test_which_way_is_better() -> None:
    lower = Effect(-1.0, -2.0, -0.5, 0.001, "seeds", (3, 3))
    assert verdict(lower, 0.01, higher_is_better=True) == "worse"
    assert verdict(lower, 0.01, higher_is_better=False) == "better"
    assert verdict(lower, 0.06, higher_is_better=False) == "no difference shown"


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_effects_are_those_of_before() -> None:
    """Difference, interval and p as they were computed by an independent Student's t, to 1e-9."""
    rng = np.random.default_rng(7)
    for (seeds, images), expected in STORED.items():
        arms = {"base": rng.normal(20, 1, (seeds, images))}
        arms["a"] = rng.normal(20.6, 1, (seeds, images)) + rng.normal(0, 0.4, (seeds, 1))
        arms["b"] = rng.normal(19.7, 2, (max(1, seeds - 1), images))
        for name, effect in effects(arms, "base", np.random.default_rng(0)).items():
            found = [effect.difference, effect.low, effect.high, effect.p]
            assert found == pytest.approx(expected[name], abs=1e-9)
