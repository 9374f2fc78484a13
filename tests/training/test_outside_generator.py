"""A generator from outside the package: trained, resumed, evaluated, translated and exported, where it is allowed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import load_bundle
from terramorph.cli.app import run
from terramorph.errors import BundleError, ConfigError
from terramorph.evaluation import evaluate
from terramorph.extensions import resolve
from terramorph.interop import export_onnx
from terramorph.networks import build_network
from terramorph.networks.inference import per_image_statistics
from terramorph.training import load_config, resume, train
from terramorph.translate import load

from ..conftest import TINY
from .conftest import same_weights

OUTSIDE = """
import torch
from torch import nn


class Small(nn.Module):
    stride, halo = 4, 4

    def __init__(self, in_bands, out_bands, width=8):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(in_bands, width, 4, 4), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.25))
        self.up = nn.Sequential(nn.ConvTranspose2d(width, width, 4, 4), nn.ReLU(), nn.Conv2d(width, out_bands, 1))

    def forward(self, source):
        return torch.tanh(self.up(self.down(source)))


class NoStride(nn.Module):
    halo = None

    def __init__(self, in_bands, out_bands):
        super().__init__()
"""
SETTINGS = {**{key: value for key, value in TINY.items() if not key.startswith("generator.")}, "max_steps": 2}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder of a module that Python finds only from there."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_generators.py").write_text(OUTSIDE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path / "own")
    yield "my_generators"
    sys.modules.pop("my_generators", None)


def test_from_the_command_line(
    outside: str, town_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cache = str(tmp_path / "run"), ["--cache", str(tmp_path / "cache")]
    named = {**SETTINGS, "generator.network": f"{outside}:Small", "generator.settings.width": 6}
    words = [word for key, value in named.items() for word in ("--set", f"{key}={value}")]
    assert run(["train", str(town_pairs), "--out", folder, *cache, *words]) == 0
    architecture = load_bundle(folder, [outside]).header.architecture
    assert (architecture.name, architecture.settings) == (
        f"{outside}:Small",
        {"in_bands": 3, "out_bands": 3, "width": 6},
    )
    picture = tmp_path / "aerial.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(picture)
    verbs = (
        ["train", "--resume", folder, *cache, "--max-steps", "3"],
        ["evaluate", folder, str(town_pairs), "--limit", "2"],
        ["translate", folder, str(picture), str(tmp_path / "map.png")],
        ["export", folder, str(tmp_path / "model.onnx")],
        ["recalibrate", folder, str(town_pairs), *cache, "--out", str(tmp_path / "again.safetensors")],
    )
    for verb in verbs:
        assert run(verb) == 2, verb
        assert f"allow the module {outside}" in capsys.readouterr().err.replace("\n", " ")
        assert run([*verb, "--allow", outside]) == 0, verb
    with Image.open(tmp_path / "map.png") as made:
        assert made.size == (70, 50)
    x = torch.rand(1, 3, 37, 50) * 2 - 1
    ours = load(folder, allowed=[outside], precision="fp32", device="cpu")
    assert torch.allclose(load(tmp_path / "model.onnx").translate_batch(x), ours.translate_batch(x), atol=1e-4)


def test_from_python(outside: str, town_pairs: Path, tmp_path: Path) -> None:
    generator = resolve(f"{_found(outside)}:Small", [outside])
    config = load_config("pix2pix", {**SETTINGS, "max_steps": 4})
    train(town_pairs, tmp_path / "whole", config, generator=generator, cache=tmp_path)
    train(town_pairs, tmp_path / "run", config, generator=generator, cache=tmp_path, should_stop=lambda: True)
    with pytest.raises(ConfigError, match="allow the module"):
        resume(tmp_path / "run", cache=tmp_path)
    resume(tmp_path / "run", cache=tmp_path, allowed=[outside])
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "run" / "model.safetensors")
    with pytest.raises(BundleError, match="allow the module"):
        load(tmp_path / "run")
    model = load(tmp_path / "run", allowed=[outside])
    assert evaluate(model, town_pairs, limit=2)["n"] == 2
    export_onnx(load_bundle(tmp_path / "run", [outside]), tmp_path / "model.onnx", mode="paper")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["generator"]
    assert recorded == {"network": f"{outside}:Small", "settings": {}}
    config = load_config(tmp_path / "run" / "config.json", {"start.model": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match="allow the module"):
        train(town_pairs, tmp_path / "tuned", config, cache=tmp_path)
    assert train(town_pairs, tmp_path / "tuned", config, cache=tmp_path, allowed=[outside]).finished


def test_a_study_compares_it_with_another(outside: str, town_pairs: Path, tmp_path: Path) -> None:
    _found(outside)
    base = "".join(f"settings.{key} = {json.dumps(value)}\n" for key, value in TINY.items())
    (tmp_path / "study.toml").write_text(
        f'seeds = 1\nmetrics = ["psnr"]\n[base]\n{base}[budget]\nimages = 4\n'
        f'[[change]]\nname = "small"\nsettings.generator.network = "{outside}:Small"\n'
    )
    words = ["compare", str(town_pairs), "--study", str(tmp_path / "study.toml"), "--cache", str(tmp_path / "cache")]
    assert run([*words, "--out", str(tmp_path / "made"), "--allow", outside]) == 0
    variants = json.loads((tmp_path / "made" / "comparison.json").read_text())["variants"]
    assert [(one["name"], one["done"]) for one in variants] == [("base", 1), ("small", 1)]
    assert variants[1]["parameters"]["generator"] < variants[0]["parameters"]["generator"]
    assert (tmp_path / "made" / "runs" / "small-seed0" / "examples").is_dir()
    run([*words, "--out", str(tmp_path / "refused")])
    small = json.loads((tmp_path / "refused" / "comparison.json").read_text())["variants"][1]
    assert small["done"] == 0
    assert f"allow the module {outside}" in small["refused"]


def test_dropout_can_be_repeated_and_is_live_in_paper_mode(outside: str) -> None:
    network = build_network(f"{_found(outside)}:Small", allowed=[outside])
    again = build_network(f"{outside}:Small", allowed=[outside])
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    noisy, x = per_image_statistics(network, dropout=True), torch.rand(2, 3, 32, 32)
    assert not torch.equal(noisy(x), noisy(x))
    quiet = per_image_statistics(network, dropout=False)
    assert torch.allclose(quiet(x)[:1], quiet(x[:1]), atol=1e-6)
    assert quiet(x[..., :30, :7]).shape == (2, 3, 30, 7)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("NoStride", {}, "stride must be an int"),
        ("Small", {"wide": 3}, "cannot be built .*wide=3 .*unexpected keyword"),
        ("torch", {}, "cannot be built"),
        ("Absent", {}, "holds no Absent"),
    ],
)
def test_what_a_generator_must_be(outside: str, name: str, settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_network(f"{_found(outside)}:{name}", allowed=[outside], **settings)


def _found(module: str) -> str:
    """The module, from now on found from its folder."""
    sys.path.append(str(Path.cwd()))
    return module
