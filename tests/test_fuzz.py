"""Mutated files of our own: bundles, checkpoints, settings, records; read, or refused with an error of ours."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import load_bundle
from terramorph.data import decode
from terramorph.interop import import_checkpoint
from terramorph.pairs import open_pairs
from terramorph.pairs.manifest import load_manifest
from terramorph.study import load_study
from terramorph.study.run import first_warning, read_record, seconds_per_image
from terramorph.study.space import load_space
from terramorph.training import load_config, resume, train
from terramorph.training.runlog import read_log, write_page
from terramorph.training.state import read_position
from terramorph.translate.parts import Part, Parts

from .conftest import make_tiny
from .fuzz import MUTATIONS, mutations, only_ours

RECORD = json.dumps(
    {
        "state": "done",
        "verdict": "",
        "scores": {"ids": ["a"], "per_image": {"psnr": [2.5]}, "overall": {"psnr": 2.5}, "reasons": {"fd": "none"}},
    }
).encode()


@pytest.fixture(scope="module")
def run(town_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = make_tiny(max_steps=2, log__scalars=1, log__sheet=0, generator__width=2, discriminator__width=2)
    train(town_pairs, folder / "run", config, cache=folder / "cache")
    return folder / "run"


def _at(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read()

    return parse


def test_bundles(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    data = (run / "model.safetensors").read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")

    def parse(header: bytes) -> object:
        path.write_bytes(header + data[head:])
        return load_bundle(path)

    assert only_ours(parse, data[:head]) > MUTATIONS / 3
    assert only_ours(_at(path, lambda: load_bundle(path)), data, seed=1) > 0


def test_checkpoints(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "model.safetensors").unlink()
    data = (run / "checkpoint.safetensors").read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    path, cache = out / "checkpoint.safetensors", run.parent / "cache"

    def parse(header: bytes) -> object:
        path.write_bytes(header + data[head:])
        read_position(path)  # what this refuses needs no run to be made ready
        return resume(out, cache=cache, should_stop=lambda: True)

    assert only_ours(parse, data[:head]) > MUTATIONS / 3


def test_settings_of_a_run(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    data = (run / "config.json").read_bytes()
    assert only_ours(_at(path, lambda: load_config(path)), data) > MUTATIONS / 3


@pytest.mark.parametrize("name", ["settings", "study", "space"])
def test_toml(name: str, tmp_path: Path) -> None:
    texts = {
        "settings": b"batch_size = 4\nema = 0.9\n[data]\nload_size = 286\n[optimizer]\nbetas = [0.5, 0.999]\n",
        "study": b'seeds = 2\n[base]\npreset = "demo"\nsettings.data.crop_size = 64\n[budget]\nimages = 1600\n'
        b'[[change]]\nname = "half"\nshare = 0.5\n[[change]]\nname = "none"\nsettings.loss.adversarial = "none"\n',
        "space": b'"optimizer.learning_rate" = { low = 1e-5, high = 1e-2, log = true }\n'
        b'"batch_size" = { choices = [1, 2] }\n',
    }
    read: dict[str, Callable[[Path], object]] = {"settings": load_config, "study": load_study, "space": load_space}
    path = tmp_path / f"{name}.toml"
    assert only_ours(_at(path, lambda: read[name](path)), texts[name]) > MUTATIONS / 3


def test_manifests(tmp_path: Path) -> None:
    from terramorph.prepare import Inputs, Options, prepare
    from terramorph.raster import write_image
    from terramorph.town import make_town

    town = make_town(size_px=192, seed=5)
    write_image(town.aerial(), tmp_path / "ortho.tif")
    write_image(town.map(), tmp_path / "map.tif")
    prepare(tmp_path / "ds", [Inputs(str(tmp_path / "ortho.tif"), str(tmp_path / "map.tif"))], Options(tile=64))
    path = tmp_path / "ds" / "manifest.json"
    assert only_ours(_at(path, lambda: load_manifest(tmp_path / "ds")), path.read_bytes()) > MUTATIONS / 3


def test_the_cache_makes_damaged_entries_again(tmp_path: Path) -> None:
    (tmp_path / "pairs" / "val").mkdir(parents=True)
    Image.new("RGB", (16, 8)).save(tmp_path / "pairs" / "val" / "a.png")
    pairs = open_pairs(tmp_path / "pairs", "val")
    wanted = decode(pairs, size=8, cache=tmp_path)
    entry = next(path.parent for path in tmp_path.glob("*/index.json"))

    def parse(data: bytes) -> None:
        (entry / "index.json").write_bytes(data)
        assert decode(pairs, size=8, cache=tmp_path).ids == wanted.ids

    only_ours(parse, (entry / "index.json").read_bytes())


def test_what_a_run_has_written(run: Path, tmp_path: Path) -> None:
    def log() -> None:
        read_log(tmp_path)
        first_warning(tmp_path)
        seconds_per_image(tmp_path)
        write_page(tmp_path)

    only_ours(_at(tmp_path / "log.jsonl", log), (run / "log.jsonl").read_bytes())
    only_ours(_at(tmp_path / "record.json", lambda: read_record(tmp_path)), RECORD)


def test_parts_of_a_translation(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "map.tif", {"a": 1})
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 4, 4), np.uint8))

    def parse(data: bytes) -> None:
        parts.save(3, Part(np.zeros((3, 4, 4), np.uint8), None))
        (parts.folder / "000003.npy").write_bytes(data)
        found = parts.load(3, (3, 4, 4), "uint8")
        assert found is not None
        assert (found.shape, found.dtype) == ((3, 4, 4), np.uint8)

    assert only_ours(parse, stream.getvalue()) > MUTATIONS / 3


def test_checkpoints_of_others(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save({"model.model.0.weight": torch.zeros(2, 3, 4, 4)}, path)
    data = path.read_bytes()

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        if content != data:  # which is the state dict of no network
            import_checkpoint(path)

    unchanged = sum(content == data for content in mutations(data, 0))
    assert only_ours(parse, data) == MUTATIONS - unchanged
