"""`export --int8` and `doctor --bench`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terramorph.interop import INT8_LIMITS
from terramorph.translate import OnnxBackend
from terramorph.translate.backends import pytorch

from .conftest import Cli

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_eight_bits_say_what_they_cost(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model.onnx"
    words = ["export", trained, out, "--int8", "--calibrate", town_pairs, "--images", 4, "--cache", tmp_path / "cache"]
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    assert "Loss of quality by 8 bits: " in outcome.out
    assert "on 4 pairs of val" in outcome.out
    assert OnnxBackend(out, accept_quality_loss=True).quality in ("kept", "refused")
    assert list(out.parent.iterdir()) == [out]


def test_too_great_a_loss_is_refused(
    cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INT8_LIMITS, "miou", -1.0)
    out = tmp_path / "model.onnx"
    outcome = cli("export", trained, out, "--int8", "--calibrate", town_pairs, "--images", 2, "--cache", tmp_path / "c")
    assert outcome.code == 0
    assert "lost too much quality" in outcome.err
    outcome = cli("translate", out, next((town_pairs / "val").iterdir()), tmp_path / "out.png")
    assert outcome.code == 2
    assert "lost too much in 8 bits" in outcome.err
    image = next((town_pairs / "val").iterdir())
    assert cli("translate", out, image, tmp_path / "out.png", "--accept-quality-loss").code == 0
    outcome = cli("doctor", "--bench", out, "--seconds", 0)
    assert "int8, refused" in outcome.out
    assert "This 8-bit file lost too much" in outcome.out


def test_backends_are_asked_for_by_name(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    exported, image = tmp_path / "model.onnx", next((town_pairs / "val").iterdir())
    assert cli("export", trained, exported).code == 0
    for backend, bundle in (("torch", trained), ("onnxruntime", exported), ("openvino", exported)):
        words = [bundle, image, tmp_path / f"{backend}.png", "--backend", backend, "--precision", "fp32"]
        outcome = cli("translate", *words)
        assert outcome.code == 0, outcome.err
    made = [np.asarray(Image.open(tmp_path / f"{name}.png"), np.int16) for name in ("torch", "onnxruntime", "openvino")]
    assert max(int(np.abs(one - made[0]).max()) for one in made[1:]) <= 1
    assert np.ptp(made[0]) > 10
    outcome = cli("translate", trained, image, tmp_path / "out.png", "--backend", "openvino")
    assert outcome.code == 2
    assert "for openvino, export the bundle" in outcome.err
    outcome = cli("translate", exported, image, tmp_path / "out.png", "--backend", "torch")
    assert outcome.code == 2
    assert "use onnxruntime or openvino" in outcome.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--int8"], "belong together"),
        (["--calibrate", "nowhere"], "belong together"),
        (["--int8", "--calibrate", "nowhere", "--mode", "paper"], "mode raster"),
        (["--int8", "--calibrate", "nowhere"], "nowhere"),
        (["--int8", "--calibrate", "nowhere", "--images", "0"], "images"),
    ],
)
def test_what_eight_bits_refuse(cli: Cli, trained: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    outcome = cli("export", trained, tmp_path / "model.onnx", *words)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not list(tmp_path.iterdir())


def test_what_is_fastest_here(cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "TUNED", tmp_path / "tuned.json")
    outcome = cli("doctor", "--bench", trained, "--seconds", 0)
    assert outcome.code == 0, outcome.err
    for word in (
        "torch eager",
        "torch folded",
        "onnxruntime",
        "tiles / s",
        "Fastest here: ",
        "8 bits were not measured",
    ):
        assert word in outcome.out
    assert all(found.batch_size in (1, 2, 4, 8) for found in pytorch.notes_of_this_machine().values())
    outcome = cli("doctor")
    assert re.search(r"unet64, width \d+, 3 to 3 bands, fp32 +(rearranged|plain torch)", outcome.out)
    assert cli("doctor", "--bench", tmp_path / "none.onnx").code == 2
