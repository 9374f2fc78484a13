"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from terramorph.bundle import Bands, Bundle
from terramorph.geo import Grid
from terramorph.networks import build_network, initialize
from terramorph.raster import Raster
from terramorph.training import load_config, train
from terramorph.translate import Model

from ..conftest import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_TINY = {**TINY, "max_steps": 6, "device": "cuda", "generator.width": 8, "discriminator.width": 8, "log.scalars": 1}


def test_a_graph_takes_the_steps_that_eager_takes(town_pairs: Path, tmp_path: Path) -> None:
    for launch in ("eager", "graph"):
        config = load_config("pix2pix", {**_TINY, "launch": launch, "precision": "fp32", "generator.dropout": 0.0})
        train(town_pairs, tmp_path / launch, config, cache=tmp_path)
    eager, graph = (load_file(tmp_path / name / "model.safetensors") for name in ("eager", "graph"))
    for key in eager:
        torch.testing.assert_close(eager[key], graph[key], atol=2e-3, rtol=0)


@pytest.mark.parametrize("preset", ["sat2map", "map2sat"])
def test_a_step_with_all_terms_is_one_graph(preset: str, town_pairs: Path, tmp_path: Path) -> None:
    """Palette, backbone, projected discriminators and noise take the steps that eager takes."""
    small = {"data.load_size": 72, "data.crop_size": 64, "generator.width": 25, "generator.encoder": "none"}
    small |= {"loss.backbone": "none", "discriminator.width": 8, "batch_size": 2, "max_steps": 4, "recalibrate": 4}
    for launch in ("eager", "graph"):
        settings = {**small, "launch": launch, "precision": "fp32", "log.scalars": 1, "device": "cuda"}
        train(town_pairs, tmp_path / launch, load_config(preset, settings), cache=tmp_path)
    one, other = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("eager", "graph")
    )
    for here, there in zip(one, other, strict=True):
        for name in ("l1", "features", "backbone features", "discriminator"):
            if here["event"] == "step":
                assert there[name] == pytest.approx(here[name], rel=0.02), name


def test_auto_is_a_graph_where_the_losses_allow_it(town_pairs: Path, tmp_path: Path) -> None:
    for name, more in {"graph": {}, "eager": {"loss.r1": 1.0}}.items():
        train(town_pairs, tmp_path / name, load_config("pix2pix", {**_TINY, **more}), cache=tmp_path)
        started = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])
        assert started["launch"] == name


def test_dropout_differs_from_replay_to_replay(town_pairs: Path, tmp_path: Path) -> None:
    from terramorph.networks import NoiseDropout

    layer, noise = NoiseDropout(0.5).train(), torch.Generator("cuda")
    layer.generator = noise
    x = torch.ones(64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(noise)
    layer(x)
    with torch.cuda.graph(graph):
        y = layer(x)
    drawn = []
    for seed in (1, 2, 1):
        noise.manual_seed(seed)
        graph.replay()
        drawn.append(y.clone())
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_the_whole_set_stays_on_the_device(town_pairs: Path, tmp_path: Path) -> None:
    from terramorph.data import Augmentation, TrainingBatches, decode
    from terramorph.pairs import open_pairs
    from terramorph.pixels import BYTE

    pairs = decode(open_pairs(town_pairs, "train"), size=72, cache=tmp_path)
    batches = [
        TrainingBatches(pairs, pairs.a, pairs.b, (BYTE, BYTE), Augmentation(64, eightfold=True), 0, torch.device(name))
        for name in ("cpu", "cuda")
    ]
    assert batches[1].resident is not None
    here, there = (b.batch(5, 8) for b in batches)
    torch.testing.assert_close(here.source, there.source.cpu(), atol=1e-6, rtol=0)
    torch.testing.assert_close(here.target, there.target.cpu(), atol=1e-6, rtol=0)


def test_sixteen_bits_are_cut_on_the_device(town_pairs: Path) -> None:
    from terramorph.data.batches import Augmentation, draw, gather

    images = torch.arange(2 * 72 * 72 * 3, dtype=torch.int32).remainder(65536).to(torch.uint16).view(2, 72, 72, 3)
    draws = [draw(Augmentation(64, eightfold=True), (72, 72), 0, n) for n in range(8)]
    index = [0, 1] * 4
    here, there = gather(images, index, draws, 64), gather(images.cuda(), index, draws, 64)
    assert torch.equal(here.float(), there.float().cpu())


def test_bf16_training_with_a_graph_learns(town_pairs: Path, tmp_path: Path) -> None:
    config = load_config(
        "pix2pix",
        {**_TINY, "launch": "graph", "precision": "bf16", "max_steps": 60, "optimizer.learning_rate": 2e-3},
    )
    assert train(town_pairs, tmp_path / "run", config, cache=tmp_path).finished


def test_windows_of_several_threads_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("unet64", width=8)
    initialize(network, torch.Generator().manual_seed(3))
    side = Bands(names=("red", "green", "blue"))
    model = Model(Bundle.of(network, "unet64", source=side, target=side, size=64, ground_resolution=1.0), device="cuda")
    grid, values = Grid.pixels(64, 64), np.random.default_rng(0).integers(0, 256, (12, 3, 64, 64), np.uint8)
    rasters = [Raster(one, np.ones((64, 64), bool), grid, side.names) for one in values]
    expected = model.predict(rasters)
    passes, predict = [], model.gather._predict
    monkeypatch.setattr(model.gather, "_predict", lambda *how: passes.append(how) or predict(*how))
    with ThreadPoolExecutor(12) as pool:
        with model.turn:
            asked = [pool.submit(model.predict_one, raster) for raster in rasters]
            time.sleep(1.0)
        found = np.stack([one.result() for one in asked])
    assert len(passes) < 6
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_the_benchmark_runs() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    words = ["--seconds", "0.2", "--width", "8", "--rows", "eager", "graph"]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("batch") == 10
