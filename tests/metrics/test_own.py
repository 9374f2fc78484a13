"""What a metric from outside the package may give, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from terramorph.bundle import Bands, Bundle
from terramorph.errors import ConfigError, InputError
from terramorph.evaluation import evaluate
from terramorph.metrics import Metric
from terramorph.networks import build_network


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(7):
            pixels = rng.integers(0, 200, (64, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rgb = Bands(names=("red", "green", "blue"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Bundle.of(build_network("unet64", width=4), "unet64", source=rgb, target=rgb, size=64)
    return made.save(tmp_path_factory.mktemp("bundle") / "model.safetensors")


def total(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    """Sums of red in prediction and truth, (N, 2)."""
    return torch.stack([side[:, 0].sum(dim=(1, 2)) for side in (prediction, truth)], dim=1)


def test_a_figure_of_the_set_is_made_from_sums_and_has_an_interval(pairs: Path, bundle: Path) -> None:
    ratio = Metric("red", "share of red", True, total, lambda sums: sums[..., 0] / sums[..., 1], format=".1%")
    found = evaluate(bundle, pairs, metrics=[ratio])
    interval = found["against_floor"]["red"]
    assert interval["difference"] == pytest.approx(found["red"] - found["floor"]["red"])
    assert interval["low"] < interval["difference"] < interval["high"]


def test_a_metric_without_a_value_for_some_images_is_the_mean_of_the_others(pairs: Path, bundle: Path) -> None:
    def some(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        values = truth.double().mean(dim=(1, 2, 3))
        return torch.where(values > values.mean(), values, torch.nan) if len(values) > 1 else values * torch.nan

    def none(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return torch.full((len(truth),), torch.nan)

    found = evaluate(bundle, pairs, metrics=[Metric("some", "some", True, some), Metric("none", "none", True, none)])
    truths = [np.asarray(Image.open(file).crop((64, 0, 128, 64))).mean() for file in (pairs / "val").iterdir()]
    assert np.mean(truths) < found["some"] < max(truths)
    assert found["none"] is None
    assert "No image" in found["reasons"]["none"]


def test_what_is_no_metric_is_refused(pairs: Path, bundle: Path) -> None:
    def flat(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return prediction.double().mean()

    for metrics, sentence in (
        ([Metric("ssim", "another", True, flat)], "metric 'ssim' already"),
        ([Metric("floor", "floor", True, flat)], "'floor' of a metric has another meaning"),
        ([flat], "is not a metric"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            evaluate(bundle, pairs, metrics=metrics)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="metric flat must return a tensor"):
        evaluate(bundle, pairs, metrics=[Metric("flat", "flat", True, flat)])
    with pytest.raises(ConfigError, match="The metric fails failed: TypeError"):
        evaluate(bundle, pairs, metrics=[Metric("fails", "fails", True, len)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Python name"):
        Metric("not a name", "name", True, flat)
    with pytest.raises(ConfigError, match="format 'bad' of the metric flat fits no number"):
        Metric("flat", "flat", True, flat, format="bad")


def test_a_metric_that_writes_into_its_images_changes_no_other(pairs: Path, bundle: Path) -> None:
    def blacken(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return (prediction.zero_() + truth.zero_()).double().mean(dim=(1, 2, 3))

    plain, found = evaluate(bundle, pairs), evaluate(bundle, pairs, metrics=[Metric("black", "black", True, blacken)])
    assert found["psnr"] == plain["psnr"]
    assert found["floor"]["psnr"] == plain["floor"]["psnr"]
