"""Held-out scores while a run trains, early stopping by them, and a run in a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from terramorph.bundle import load_bundle
from terramorph.errors import ConfigError, DatasetError
from terramorph.metrics import METRICS, psnr
from terramorph.training import resume, train
from terramorph.training.config import StopConfig
from terramorph.training.devices import make_fabric
from terramorph.training.inputs import Inputs
from terramorph.training.reporter import NotebookReporter, Silent, default_reporter
from terramorph.training.runlog import write_page
from terramorph.training.settings import parse_config
from terramorph.training.validation import EarlyStopping, Validator

from .conftest import Tiny, same_weights


def test_scores_are_means_over_the_pairs_where_they_hold_data() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(10, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    mask = torch.ones(10, 1, 32, 32, dtype=torch.bool)
    mask[0, :, :16] = False
    found = Validator(source, target, mask, sheet=4).validate(nn.Identity(), 7)
    stored = ((torch.stack((source, target)) + 1) * 127.5).round().to(torch.uint8)
    assert found.scores["psnr"] == pytest.approx(float(psnr(stored[0], stored[1], mask).mean()))
    assert found.step == 7
    assert found.sheet is not None
    assert found.sheet.shape == (4 * 32, 3 * 32, 3)


def test_early_stopping_counts_validations_without_a_better_score() -> None:
    stopping = EarlyStopping(StopConfig(patience=2))
    seen = []
    for score in (0.1, 0.3, 0.2, 0.3):
        seen.append((stopping.improved({"ssim": score}), stopping.over))
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    again = EarlyStopping(StopConfig(patience=2))
    again.restore(stopping.state())
    assert (again.best, again.over) == (0.3, True)


def test_early_stopping_by_a_metric_that_is_better_when_lower() -> None:
    stopping = EarlyStopping(StopConfig(patience=1, metric="rmse"))
    assert [stopping.improved({"rmse": score}) for score in (20.0, 12.0, 15.0)] == [True, True, False]
    with pytest.raises(ValidationError, match="pixel metric"):
        StopConfig(metric="lpips")


def test_a_run_stops_early_and_its_bundle_is_the_best(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    validate = Validator.validate

    def scripted(self: Validator, network: nn.Module, step: int) -> Any:
        found = validate(self, network, step)
        found.scores["ssim"] = next(scores)
        return found

    monkeypatch.setattr(Validator, "validate", scripted)
    monkeypatch.setattr("terramorph.training.loop._VALIDATION_IMAGES", 2)  # the bundle's statistics are of all
    config = tiny(max_steps=9, stop__patience=2, log__samples=1, log__checkpoint=2, recalibrate=40)
    result = train(town_pairs, tmp_path / "run", config, cache=tmp_path)
    assert (result.finished, result.step, result.total) == (True, 4, 9)
    assert result.model is not None
    assert load_bundle(result.model).header.data["steps"] == 2
    monkeypatch.undo()
    # Two steps without early stopping are the best weights of that run.
    same = train(town_pairs, tmp_path / "two", tiny(max_steps=2, log__samples=1, recalibrate=40), cache=tmp_path)
    assert same.model is not None
    assert same_weights(result.model, same.model)
    assert resume(tmp_path / "run", cache=tmp_path).step == 4  # over is over


def test_early_stopping_is_kept_in_the_checkpoint(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(max_steps=6, stop__patience=1, log__samples=1, log__checkpoint=1, recalibrate=4)
    whole = train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    steps = iter([False, True])
    train(town_pairs, tmp_path / "parts", config, cache=tmp_path, should_stop=lambda: next(steps, False))
    again = resume(tmp_path / "parts", cache=tmp_path)
    assert again.step == whole.step
    assert whole.model is not None
    assert again.model is not None
    assert same_weights(whole.model, again.model)


def test_early_stopping_without_held_out_pairs_is_refused(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="held-out"):
        parse_config({"stop": {"patience": 3}, "log": {"sheet": 0, "validation": 0}})
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "train").symlink_to(town_pairs / "train")
    with pytest.raises(DatasetError, match=r"stop\.patience needs held-out pairs.* no val and no test split"):
        train(tmp_path / "pairs", tmp_path / "run", tiny(stop__patience=3), cache=tmp_path)


def test_a_run_whose_held_out_score_is_never_a_number_ends_with_its_last_weights(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"log__samples": 1, "recalibrate": 4}
    plain = train(town_pairs, tmp_path / "plain", tiny(**config), cache=tmp_path)
    validate = Validator.validate

    def without(self: Validator, network: nn.Module, step: int) -> Any:
        found = validate(self, network, step)
        found.scores.pop("ssim")
        return found

    monkeypatch.setattr(Validator, "validate", without)
    result = train(town_pairs, tmp_path / "run", tiny(**config, stop__patience=9), cache=tmp_path)
    assert plain.model is not None
    assert result.model is not None
    assert same_weights(plain.model, result.model)


def test_crops_of_whole_files_are_validated_at_their_scale(tmp_path: Path, tiny: Tiny) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 64)
    for split, height in (("train", 128), ("val", 128)):
        (tmp_path / split).mkdir()
        for number in range(2):
            whole = np.repeat(np.broadcast_to(np.tile(stripes, 2), (height, 256))[..., None], 3, axis=2)
            Image.fromarray(np.ascontiguousarray(whole)).save(tmp_path / split / f"{number}.png")
    config = tiny(data__load_size=0, data__crop_size=64)
    inputs = Inputs(tmp_path, config, make_fabric(config), False, tmp_path / "cache", METRICS["ssim"], lambda *_: None)
    assert inputs.validator is not None
    for images in (inputs.validator.source, inputs.validator.target):
        assert images.shape == (2, 3, 64, 64)
        assert images.unique().tolist() == [-1.0, 1.0]


def test_a_run_has_a_page_from_its_first_sheet_on(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    run = tmp_path / "run"
    pages = []

    class Reader(Silent):
        def validated(self, validation: Any) -> None:
            pages.append((run / "run.html").read_text(encoding="utf-8"))

    train(town_pairs, run, tiny(log__samples=2, log__scalars=1), reporter=Reader(), cache=tmp_path)
    pages.append((run / "run.html").read_text(encoding="utf-8"))
    assert [page.count("http-equiv") for page in pages] == [1, 1, 0]  # reloaded while it trains
    assert "2 of 3 steps" in pages[0]
    assert "samples/step_0000002.png" in pages[0]
    assert "Finished: 3 of 3 steps." in pages[-1]
    for name in ("SSIM", "PSNR", "L1", "generator", "discriminator"):
        assert f'aria-label="{name}' in pages[-1]
    assert "http://" not in pages[-1]


def test_the_page_of_a_run_that_stopped_before_its_first_logged_step_says_where(tmp_path: Path) -> None:
    events = [{"event": "started", "step": 0, "total": 6}, {"event": "stopped", "step": 1}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    write_page(tmp_path)
    assert "1 of 6 steps" in (tmp_path / "run.html").read_text(encoding="utf-8")


class _Kernel:
    kernel = object()


def test_a_notebook_shows_a_run(town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    IPython = pytest.importorskip("IPython")
    display = pytest.importorskip("IPython.display")
    assert isinstance(default_reporter(), Silent)
    shown: list[Any] = []

    class Handle:
        def update(self, content: Any) -> None:
            shown.append(content)

    def show(content: Any, display_id: bool) -> Handle:
        shown.append(content)
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", lambda: _Kernel())
    monkeypatch.setattr(display, "display", show)
    assert isinstance(default_reporter(), NotebookReporter)
    train(town_pairs, tmp_path / "run", tiny(), cache=tmp_path)
    assert "step 3 of 3" in next(item for item in reversed(shown) if isinstance(item, display.HTML)).data
    sheet = next(item for item in shown if isinstance(item, display.Image))
    png = next((tmp_path / "run" / "samples").glob("*.png"))
    (tmp_path / "shown.png").write_bytes(sheet.data)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "shown.png")), np.asarray(Image.open(png)))
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["time"] > 1.7e9
