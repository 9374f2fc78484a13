"""Parts from outside the package, those of docs/extending.md: trained, scored, compared, searched, served and exported
with, where they are allowed, and nowhere else."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import terramorph
from terramorph import api
from terramorph.bundle import load_bundle
from terramorph.cli.app import run
from terramorph.errors import BundleError, CheckpointError, ConfigError
from terramorph.imports import name_of, resolve
from terramorph.interop import export_onnx
from terramorph.metrics import METRICS, Metric, add_metrics
from terramorph.networks import build_network
from terramorph.networks.inference import per_image_statistics
from terramorph.serve import LayerSettings, Settings, open_server
from terramorph.study import StudyOptions, confirm_study, tune
from terramorph.town import make_town
from terramorph.training import Term, load_config, resume, train
from terramorph.training import loop as training

from .conftest import TINY, make_tiny, tiny_settings
from .training.conftest import losses_of, same_weights

CODE = re.findall(
    r"^```(python|sh)\n(.*?)^```", (Path(__file__).parents[1] / "docs/extending.md").read_text(), re.M | re.S
)
MODULES = {found[1]: code for _, code in CODE if (found := re.match(r"# (my_\w+)\.py\n", code))}
USE = [(kind, code) for kind, code in CODE if not code.startswith("# my_")]
BAD = """
from torch import nn

class NoStride(nn.Module):
    halo = None

    def __init__(self, in_bands, out_bands):
        super().__init__()

class Halves(nn.Module):
    stride, halo = 1, 0

    def __init__(self, in_bands, out_bands):
        super().__init__()

    def forward(self, source):
        return source[..., ::2]

class Fails(Halves):
    def forward(self, source):
        raise KeyError("key")

class Tied(nn.Module):
    stride, halo = 1, 0

    def __init__(self, in_bands, out_bands):
        super().__init__()
        self.one, self.other = nn.Conv2d(in_bands, out_bands, 1), nn.Conv2d(out_bands, out_bands, 1)
        self.other.bias = self.one.bias
        self.unused = nn.Conv2d(in_bands, out_bands, 1)

    def forward(self, source):
        return self.other(self.one(source)).tanh()

def patches(batch, output, features):
    return (output - batch.target).abs()
"""
OWN = ["my_generators", "my_losses", "my_metrics"]
SMALL = {
    **{key: value for key, value in TINY.items() if not key.startswith("generator.")},
    "generator.network": "my_generators:Small",
    "generator.settings.width": 6,
}
TERM = {"loss.terms.edges.function": "my_losses:edges", "loss.terms.edges.weight": 10}


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, town_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the modules, where the command line finds them and Python does not yet; data/maps are pairs."""
    folder = tmp_path / "own"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "maps").symlink_to(town_pairs)
    for name, code in {**MODULES, "my_mistakes": BAD}.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    before = dict(METRICS)
    yield folder
    METRICS.clear()
    METRICS.update(before)
    _forget()


def _forget() -> None:
    for name in [*OWN, "my_mistakes"]:
        sys.modules.pop(name, None)


@pytest.fixture
def found(outside: Path) -> None:
    """From now on Python finds the modules."""
    sys.path.append(str(outside))


def _set(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def test_all_three_from_the_command_line(town_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, pairs, cache = str(tmp_path / "run"), str(town_pairs), ["--cache", str(tmp_path / "cache")]
    named = {**SMALL, **TERM, "max_steps": 2, "log.scalars": 1}
    assert run(["train", pairs, "--out", folder, *cache, *_set(named)]) == 0
    assert all(line["edges"] > 0 for line in losses_of(Path(folder)))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save("aerial.png")
    _forget()
    assert run(["info", folder]) == 0
    assert "my_generators:Small" in capsys.readouterr().out
    assert "my_generators" not in sys.modules
    scored = ["--metric", "my_metrics:BRIGHTNESS", "--record", "--save-predictions"]
    for verb in (
        ["train", "--resume", folder, *cache, "--max-steps", "3", "--allow", "my_losses"],
        ["evaluate", folder, pairs, "--out", str(tmp_path / "scores"), *scored],
        ["translate", folder, "aerial.png", "map.png"],
        ["export", folder, "model.onnx"],
        ["recalibrate", folder, pairs, *cache, "--out", "again.safetensors"],
        ["doctor", "--bench", folder, "--seconds", "0"],
    ):
        assert run(verb) == 2, verb
        assert "allow the module my_generators" in capsys.readouterr().err.replace("\n", " ")
        assert run([*verb, "--allow", "my_generators"]) == 0, verb
    with Image.open("map.png") as made:
        assert made.size == (70, 50)
    ours = terramorph.load(folder, allowed=OWN, precision="fp32", device="cpu")
    x = torch.rand(1, 3, 37, 50) * 2 - 1
    assert torch.allclose(terramorph.load("model.onnx").translate_batch(x), ours.translate_batch(x), atol=1e-4)
    document = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    differences = []
    for file in sorted((town_pairs / "val").iterdir()):
        truth = np.asarray(Image.open(file), float)[:, 128:].mean()
        differences.append(abs(np.asarray(Image.open(tmp_path / "scores/predictions" / file.name)).mean() - truth))
    assert document["brightness"] == pytest.approx(np.mean(differences), rel=1e-4)
    assert document["against_floor"]["brightness"]["verdict"] in ("better", "worse", "no difference shown")
    assert "Error of the brightness, grey levels" in (tmp_path / "scores" / "report.html").read_text()
    assert ours.header.scores["val brightness"] == document["brightness"]


@pytest.mark.parametrize("kind", ["python", "sh"])
def test_what_the_page_says_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: None) -> None:
    assert len(MODULES) == 3
    assert max(code.count("\n") for _, code in CODE) <= 30
    monkeypatch.setattr(training, "TrainConfig", lambda: make_tiny(max_steps=2))
    monkeypatch.setattr(api, "_config", lambda *_: make_tiny(max_steps=2))
    train("data/maps", "runs/maps", cache=tmp_path)
    make_town(128, seed=1).aerial().save("aerial.tif")
    small = tiny_settings(max_steps=2, log__samples=1)
    more = {"train": [*small, "--cache", str(tmp_path)], "tune": [*small, "--cache", str(tmp_path)]}
    more["tune"] += ["--trials", "1", "--images", "8", "--rungs", "1"]
    names = {"terramorph": terramorph, **{key: value for name in OWN for key, value in vars(__import__(name)).items()}}
    for block in (code for this, code in USE if this == kind):
        if kind == "python":
            exec(block, names)
            continue
        for line in block.splitlines():
            words = shlex.split(line)[1:]
            own = "generator.network=" in line
            extra = [word for word in more.get(words[0], []) if not (own and word.startswith("generator."))]
            assert run(words + _paired(extra) * ("--resume" not in words)) == 0, line


def _paired(words: list[str]) -> list[str]:
    """Without a --set whose value was taken out."""
    return [word for word, after in pairwise([*words, ""]) if not (word == "--set" and after in ("--set", "--cache"))]


def test_a_term_is_what_is_learnt(town_pairs: Path, tmp_path: Path, found: None) -> None:
    alone = {"loss.adversarial": "none", "loss.l1_weight": 0.0, "optimizer.learning_rate": 1e-2}
    config = load_config("pix2pix", {**TINY, **TERM, **alone, "max_steps": 8, "log.scalars": 1})
    train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=OWN)
    told = [line["edges"] for line in losses_of(tmp_path / "run")]
    assert sum(told[-2:]) < 0.8 * sum(told[:2])


def test_from_python(town_pairs: Path, tmp_path: Path, found: None) -> None:
    generator, edges = resolve("my_generators:Small", OWN), resolve("my_losses:edges", OWN)
    config = load_config("pix2pix", {**TINY, "max_steps": 4})
    how = {"cache": tmp_path, "terms": [Term("edges", 10.0, edges)]}
    train(town_pairs, tmp_path / "whole", config, generator=generator, **how)
    train(town_pairs, tmp_path / "run", config, generator=generator, should_stop=lambda: True, **how)
    with pytest.raises(ConfigError, match="my_generators:Small is code from outside"):
        resume(tmp_path / "run", **how)
    with pytest.raises(ConfigError, match="my_losses:edges is code from outside"):
        resume(tmp_path / "run", cache=tmp_path, allowed=["my_generators"])
    with pytest.raises(CheckpointError, match=r"loss\.terms\.edges\.weight"):
        resume(tmp_path / "run", cache=tmp_path, terms=[Term("edges", 1.0, edges)], allowed=OWN)
    assert resume(tmp_path / "run", cache=tmp_path, allowed=OWN).finished
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "run" / "model.safetensors")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert recorded["generator"] == {"network": "my_generators:Small", "settings": {}}
    assert recorded["loss"]["terms"] == {"edges": {"function": "my_losses:edges", "weight": 10.0}}
    with pytest.raises(BundleError, match="allow the module"):
        terramorph.load(tmp_path / "run")
    export_onnx(load_bundle(tmp_path / "run", OWN), tmp_path / "model.onnx", mode="paper")
    config = load_config(tmp_path / "run" / "config.json", {"start.model": str(tmp_path / "run")})
    assert train(town_pairs, tmp_path / "tuned", config, cache=tmp_path, allowed=OWN).finished


def test_a_study_compares_by_them(town_pairs: Path, tmp_path: Path, found: None) -> None:
    base = "".join(f"settings.{key} = {json.dumps(value)}\n" for key, value in TINY.items())
    (tmp_path / "study.toml").write_text(
        f'seeds = 1\nmetrics = ["psnr"]\n[base]\n{base}[budget]\nimages = 4\n'
        '[[change]]\nname = "small"\nsettings.generator.network = "my_generators:Small"\n'
    )
    words = ["compare", str(town_pairs), "--study", str(tmp_path / "study.toml"), "--cache", str(tmp_path / "cache")]
    assert run([*words, "--out", str(tmp_path / "made")]) == 0
    refused = json.loads((tmp_path / "made" / "comparison.json").read_text())["variants"][1]
    assert "allow the module my_generators" in refused["refused"]
    later = ["--allow", "my_generators", "--metric", "my_metrics:BRIGHTNESS"]
    assert run([*words, "--out", str(tmp_path / "made"), *later]) == 0
    document = json.loads((tmp_path / "made" / "comparison.json").read_text())
    variants = document["variants"]
    assert [(one["name"], one["done"]) for one in variants] == [("base", 1), ("small", 1)]
    assert variants[1]["parameters"]["generator"] < variants[0]["parameters"]["generator"]
    assert all(one["means"]["brightness"] is not None for one in variants)  # of what was scored before, too
    assert [(one["key"], one["secondary"]) for one in document["metrics"]] == [("psnr", False), ("brightness", True)]
    assert (tmp_path / "made" / "runs" / "small-seed0" / "examples").is_dir()


def test_a_search_ranks_by_them(town_pairs: Path, tmp_path: Path, found: None) -> None:
    add_metrics([resolve("my_metrics:BRIGHTNESS", OWN)])
    (tmp_path / "space.toml").write_text('"optimizer.learning_rate" = { low = 1e-4, high = 1e-2 }\n')
    options = StudyOptions(("brightness",), trials=2, images=4, rungs=1, jobs=2, space=tmp_path / "space.toml")
    preset, out = load_config("pix2pix", SMALL), tmp_path / "study"
    with pytest.raises(ConfigError, match="allow the module my_generators"):
        tune(town_pairs, out, preset, options, cache=tmp_path)
    made = tune(town_pairs, out, preset, options, cache=tmp_path, allowed=OWN)
    assert [trial.state for trial in made.trials] == ["complete"] * 2
    assert made.best is not None
    assert made.best.score("brightness") == min(trial.score("brightness") or 0.0 for trial in made.trials)
    assert not made.best.is_preset
    with pytest.raises(ConfigError, match="allow the module my_generators"):
        confirm_study(out, cache=tmp_path)
    assert confirm_study(out, cache=tmp_path, allowed=OWN, should_stop=lambda: True).best == made.best
    METRICS.pop("brightness")
    with pytest.raises(ConfigError, match="'brightness', which ranks the trials of "):
        confirm_study(out, cache=tmp_path, allowed=OWN)
    add_metrics(
        [
            Metric(
                "brightness", "a function inside a function", False, lambda *images: images[0].double().mean((1, 2, 3))
            )
        ]
    )
    with pytest.raises(ConfigError, match="brightness cannot be sent to other processes"):
        tune(town_pairs, out, preset, options, cache=tmp_path, allowed=OWN)


def test_a_server_opens_a_model_of_an_allowed_module(town_pairs: Path, tmp_path: Path, found: None) -> None:
    train(town_pairs, tmp_path / "run", load_config("pix2pix", {**SMALL, "max_steps": 1}), cache=tmp_path, allowed=OWN)
    make_town(256, seed=1).aerial().save(tmp_path / "aerial.tif")
    layer = LayerSettings(name="town", model=str(tmp_path / "run"), source=str(tmp_path / "aerial.tif"))
    with pytest.raises(BundleError, match="allow the module my_generators"):
        open_server(Settings(layers=(layer,)))
    assert open_server(Settings(layers=(layer,), allow=("my_generators",))) is not None


def test_a_metric_stops_a_run(town_pairs: Path, tmp_path: Path, found: None) -> None:
    stop = {"stop.metric": "my_metrics:BRIGHTNESS", "stop.patience": 1, "log.samples": 1, "max_steps": 20}
    config = load_config("pix2pix", {**TINY, **stop, "optimizer.learning_rate": 0.05})
    with pytest.raises(ConfigError, match="allow the module my_metrics"):
        train(town_pairs, tmp_path / "refused", config, cache=tmp_path)
    result = train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=OWN)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    values = [line["brightness"] for line in lines if line["event"] == "validation"]
    assert result.finished
    assert len(values) == result.step < 20
    assert all(later < earlier for earlier, later in pairwise(values[:-1]))
    assert values[-1] >= values[-2]
    assert "brightness" in (tmp_path / "run" / "run.html").read_text()


def test_dropout_can_be_repeated_and_is_live_in_paper_mode(outside: Path, found: None) -> None:
    (outside / "my_generators.py").write_text(MODULES["my_generators"].replace("nn.ReLU())", "nn.Dropout(0.25))", 1))
    network, again = (build_network("my_generators:Small", allowed=OWN) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    noisy, x = per_image_statistics(network, dropout=True), torch.rand(2, 3, 32, 32)
    assert not torch.equal(noisy(x), noisy(x))
    quiet = per_image_statistics(network, dropout=False)
    assert torch.allclose(quiet(x)[:1], quiet(x[:1]), atol=1e-6)
    assert quiet(x[..., :30, :7]).shape == (2, 3, 30, 7)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("my_mistakes:NoStride", {}, "stride must be an int"),
        ("my_mistakes:Halves", {}, r"makes \(1, 3, 256, 128\), not \(1, 3, 256, 256\)"),
        ("my_mistakes:Fails", {}, "my_mistakes:Fails failed: KeyError, 'key'"),
        ("my_generators:Small", {"wide": 3}, "cannot be built .*wide=3 .*unexpected keyword"),
        ("my_generators:torch", {}, "cannot be built"),
        ("my_generators:Absent", {}, "holds no Absent"),
    ],
)
def test_what_a_generator_must_be(name: str, settings: dict[str, int], said: str, found: None) -> None:
    with pytest.raises(ConfigError, match=said):
        build_network(name, allowed=[*OWN, "my_mistakes"], **settings)


def test_weights_that_are_shared_or_unused_are_kept_and_resumed(town_pairs: Path, tmp_path: Path, found: None) -> None:
    settings = {key: value for key, value in TINY.items() if not key.startswith("generator.")}
    config = load_config("pix2pix", {**settings, "generator.network": "my_mistakes:Tied", "max_steps": 2})
    allowed = ["my_mistakes"]
    whole = train(town_pairs, tmp_path / "whole", config, cache=tmp_path, allowed=allowed)
    train(town_pairs, tmp_path / "parts", config, cache=tmp_path, allowed=allowed, should_stop=lambda: True)
    parts = resume(tmp_path / "parts", cache=tmp_path, allowed=allowed)
    assert whole.model is not None
    assert parts.model is not None
    assert same_weights(whole.model, parts.model)


def test_what_a_term_must_be(town_pairs: Path, tmp_path: Path, found: None) -> None:
    config = make_tiny(loss__terms={"patches": "my_mistakes:patches"})
    with pytest.raises(ConfigError, match=r"patches must return a 0-d tensor, got a tensor of shape \(2, 3, 64, 64\)"):
        train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=["my_mistakes"])
    term = Term("l1", 1.0, resolve("my_losses:edges", OWN))
    with pytest.raises(ConfigError, match=r"loss\.terms\.l1 has the name of a built-in term"):
        train(town_pairs, tmp_path / "other", make_tiny(), cache=tmp_path, terms=[term])
    for wrong in (term.value, Term("three", 1.0, 3)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="A loss term must be a terramorph"):
            train(town_pairs, tmp_path / "wrong", make_tiny(), cache=tmp_path, terms=[wrong])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="The loss term fails failed: TypeError"):
        train(town_pairs, tmp_path / "fails", make_tiny(), cache=tmp_path, terms=[Term("fails", 1.0, len)])  # type: ignore[arg-type]


def test_what_a_notebook_defines_is_found_only_there(monkeypatch: pytest.MonkeyPatch, found: None) -> None:
    small = resolve("my_generators:Small", OWN)
    monkeypatch.setattr(small, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Small", small, raising=False)
    assert resolve(name_of(small), ["__main__"]) is small
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="The module __main__ holds no Small"):
        resolve("__main__:Small", ["__main__"])
