"""A metric from outside the package: scored, shown, recorded and trained by."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from terramorph.bundle import Bands, Bundle
from terramorph.cli.app import app
from terramorph.errors import ConfigError, InputError
from terramorph.evaluation import evaluate
from terramorph.metrics import Metric
from terramorph.networks import build_network
from terramorph.training import load_config, train

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the metric of docs/extending.md, in a module that Python finds."""
    code = re.search(r"```python\n# my_metrics\.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) < 30
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "own_metric_of_a_test.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return "own_metric_of_a_test:BRIGHTNESS"


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


def test_it_is_scored_and_shown_by_its_name(own: str, pairs: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["evaluate", str(bundle), str(pairs), "--out", str(out), "--metric", own, "--record", "--save-predictions"]
    )
    assert done.exit_code == 0, done.output
    assert "Error of the brightness, grey levels" in done.output
    assert "Error of the brightness, grey levels" in (out / "report.html").read_text()
    document = json.loads((out / "metrics.json").read_text())
    wanted = []
    for file in sorted((pairs / "val").iterdir()):
        sides = [Image.open(out / "predictions" / file.name), Image.open(file).crop((64, 0, 128, 64))]
        made, truth = (np.asarray(side, float).mean() for side in sides)
        wanted.append(abs(made - truth))
    assert document["brightness"] == pytest.approx(np.mean(wanted), rel=1e-4)
    assert document["against_floor"]["brightness"]["verdict"] in ("better", "worse", "not shown")
    assert "brightness" in (out / "per_image.csv").read_text().splitlines()[0]


def test_it_stops_a_run(own: str, pairs: Path, tmp_path: Path) -> None:
    changes = {
        "stop.metric": own, "stop.patience": 1, "log.samples": 1, "max_steps": 20, "recalibrate": 0, "device": "cpu",
        "generator.network": "unet64", "generator.width": 2, "discriminator.width": 2, "optimizer.learning_rate": 0.05,
        "data.load_size": 64, "data.crop_size": 64,
    }  # fmt: skip
    config = load_config("pix2pix", changes)
    with pytest.raises(ConfigError, match="allow the module own_metric_of_a_test"):
        train(pairs, tmp_path / "refused", config, cache=tmp_path)
    result = train(pairs, tmp_path / "run", config, cache=tmp_path, allowed=["own_metric_of_a_test"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    values = [line["brightness"] for line in lines if line["event"] == "validation"]
    assert result.finished
    assert len(values) == result.step < 20
    assert all(later < earlier for earlier, later in pairwise(values[:-1]))
    assert values[-1] >= values[-2]
    assert "brightness" in (tmp_path / "run" / "run.html").read_text()


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


def test_what_is_no_metric_is_refused(own: str, pairs: Path, bundle: Path) -> None:
    def flat(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        return prediction.double().mean()

    for metrics, sentence in (
        ([Metric("ssim", "another", True, flat)], "metric 'ssim' already"),
        ([Metric("floor", "floor", True, flat)], "'floor' of a metric means something else"),
        ([flat], "is not a metric"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            evaluate(bundle, pairs, metrics=metrics)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flat gives"):
        evaluate(bundle, pairs, metrics=[Metric("flat", "flat", True, flat)])
    with pytest.raises(ConfigError, match="Python name"):
        Metric("not a name", "name", True, flat)
    done = CliRunner().invoke(
        app, ["evaluate", str(bundle), str(pairs), "--metric", own.replace("BRIGHTNESS", "nothing")]
    )
    assert done.exit_code != 0
