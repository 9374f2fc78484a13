"""The verbs at work: train, stop, resume, evaluate, translate, info, import, export, recalibrate, demo."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import load_bundle
from terramorph.cartography import classify
from terramorph.cli import demo
from terramorph.cli.reporting import TrainingReporter
from terramorph.raster import read_image

from ..interop.reference import PublicUNet, scrambled
from ..processes import wait_until
from .conftest import TINY, Cli, start


def test_a_dry_run_needs_no_folder(cli: Cli, town_pairs: Path, tmp_path: Path) -> None:
    done = cli("train", town_pairs, "--cache", tmp_path / "cache", "--dry-run", *TINY)
    assert done.code == 0
    assert "run.html" not in done.out + done.err
    wrong = cli("train", town_pairs, "--direction", "XtoY", "--dry-run")
    assert wrong.code == 2
    assert "Value error" not in wrong.err


def test_train_dry_run_prints_the_configuration_and_trains_nothing(cli: Cli, town_pairs: Path, tmp_path: Path) -> None:
    outcome = cli(
        "train", town_pairs, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--dry-run", *TINY, "--seed", 7
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"^  generator\.width +4$", outcome.out, re.MULTILINE)
    assert re.search(r"^  seed +7$", outcome.out, re.MULTILINE)
    assert re.search(r"^  pairs +12 from ", outcome.out, re.MULTILINE)
    assert "Dry run" in outcome.out
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_train_evaluate_translate(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    assert (trained / "model.safetensors").is_file()
    bundle = trained / "model.safetensors"

    outcome = cli(
        "evaluate",
        bundle,
        town_pairs,
        "--split",
        "val",
        "--out",
        tmp_path / "val",
        "--save-predictions",
        "--precision",
        "fp32",
    )
    assert outcome.code == 0, outcome.err
    assert "Mean IoU of classes" in outcome.out
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert metrics["n"] == 4
    assert set(metrics["floor"]) >= {"psnr", "ssim", "miou"}
    assert (tmp_path / "val" / "report.html").is_file()
    assert len(list((tmp_path / "val" / "predictions").glob("*.png"))) == 4

    image = np.asarray(Image.open(next((town_pairs / "val").iterdir())))[:100, :90]
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n400001\n5000001\n")
    outcome = cli("translate", bundle, tmp_path / "a.png", tmp_path / "b.tif", "--precision", "bf16")
    assert outcome.code == 0, outcome.err
    made = read_image(tmp_path / "b.tif")
    assert made.pixels.shape == (3, 100, 90)
    assert made.grid.affine == read_image(tmp_path / "a.png").grid.affine
    assert outcome.out == f"{tmp_path / 'b.tif'} written.\n"

    outcome = cli("translate", bundle, tmp_path / "a.png", tmp_path / "many", "--mode", "paper", "--samples", 2)
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "many").glob("*.png"))) == 2


def test_evaluate_of_a_missing_split_is_bad_input(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    outcome = cli("evaluate", trained, town_pairs, "--split", "test", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "test" in outcome.err
    assert outcome.err.count("\n") == 1


def test_info(cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = cli("info", trained)
    assert table.code == 0
    assert re.search(r"^  network +unet64$", table.out, re.MULTILINE)
    assert re.search(r"^  recipe: generator\.width +4$", table.out, re.MULTILINE)
    document = json.loads(cli("info", trained / "model.safetensors", "--json").out)
    assert document["architecture"]["name"] == "unet64"
    assert len(document["source"]["names"]) == 3
    assert document["direction"] == "AtoB"
    assert document["parameters"] > 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(trained / "model.safetensors", tmp_path / "models" / "town.safetensors")
    assert cli("info", "town").code == 0
    wrong = cli("info", "twon")
    assert wrong.code == 2
    assert "town" in wrong.err


def test_a_damaged_bundle_is_one_sentence(cli: Cli, trained: Path, tmp_path: Path) -> None:
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    outcome = cli("info", tmp_path / "half.safetensors")
    assert outcome.code == 2
    assert "half.safetensors" in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_a_bundle_says_does_not_steer_the_terminal(cli: Cli, trained: Path, tmp_path: Path) -> None:
    bundle, said = load_bundle(trained), "\x1b[2J\x1b]0;mine\x07\nfree\u202e"
    for name, change in (("own", {"note": said}), ("newer", {"made_by": said, "format": 99})):
        replace(bundle, header=bundle.header.model_copy(update=change)).save(tmp_path / f"{name}.safetensors")
        outcome = cli("info", tmp_path / f"{name}.safetensors")
        assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", outcome.out + outcome.err) is None
        assert "free" in outcome.out + outcome.err


def test_a_second_run_does_not_replace_the_first(cli: Cli, trained: Path, town_pairs: Path) -> None:
    outcome = cli("train", town_pairs, "--out", trained, *TINY)
    assert outcome.code == 2
    assert "--resume" in outcome.err


def test_recalibrate(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.safetensors"
    outcome = cli("recalibrate", trained, town_pairs, "--out", out, "--images", 4, "--cache", tmp_path / "cache")
    assert outcome.code == 0, outcome.err
    assert any((tmp_path / "cache").iterdir())
    assert json.loads(cli("info", out, "--json").out)["recalibrated"] is True


def test_recalibrate_leaves_bad_pairs_out_if_told(cli: Cli, trained: Path, town_pairs: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(town_pairs, pairs)
    min((pairs / "train").iterdir()).write_bytes(b"no image")
    words = ["recalibrate", trained, pairs, "--out", tmp_path / "b.safetensors", "--cache", tmp_path / "cache"]
    assert cli(*words).code == 2
    outcome = cli(*words, "--skip-bad")
    assert outcome.code == 0, outcome.err


def test_export(cli: Cli, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "net.onnx"
    outcome = cli("export", trained, out, "--mode", "raster")
    assert outcome.code == 0, outcome.err
    assert out.is_file()
    assert cli("export", trained, tmp_path / "net.pt").code == 2


def test_skip_bad_lists_what_it_skips(cli: Cli, town_pairs: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(town_pairs, pairs)
    bad = sorted((pairs / "train").iterdir())[0]
    bad.write_bytes(b"no image")
    words = ["train", pairs, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--dry-run", *TINY]
    refused = cli(*words)
    assert refused.code == 2
    assert bad.name in refused.err
    skipped = cli(*words, "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert bad.name in skipped.err
    assert "1 pair skipped, 11 used" in skipped.err


@pytest.mark.kills
def test_a_signal_writes_a_checkpoint_and_resume_goes_on(cli: Cli, town_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--cache", tmp_path / "cache", "--max-steps", 100000, *TINY, "--set", "log.scalars=1"]
    process = start("train", town_pairs, "--out", run, *words)
    log = run / "log.jsonl"
    wait_until(lambda: process.poll() is not None or (log.is_file() and '"step": 2' in log.read_text()))
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 143, err
    assert f"terramorph train --resume {run}" in out
    assert "Traceback" not in err
    assert "\x1b" not in out + err
    assert not (run / "model.safetensors").exists()

    assert "Stopping after this step" in err
    stopped = int(re.search(r"Stopped after step (\d+) of", out)[1])  # type: ignore[index]
    outcome = cli("train", "--resume", run, "--cache", tmp_path / "cache", "--max-steps", stopped + 2)
    assert outcome.code == 0, outcome.err
    assert (run / "model.safetensors").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_pairs_are_decoded_stops_at_once(
    cli: Cli, town_pairs: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        real, seen = TrainingReporter.decoding, []

        def interrupted(self: TrainingReporter, done: int, total: int) -> None:
            seen.append(done)
            if done == 3:
                signal.raise_signal(number)
            real(self, done, total)

        patch.setattr(TrainingReporter, "decoding", interrupted)
        outcome = cli("train", town_pairs, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *TINY)
    assert outcome.code == code
    assert outcome.err.startswith("terramorph: Stopped before the first step: nothing was trained")
    assert outcome.err.count("\n") == 1
    assert seen == [1, 2, 3]
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_import_names_the_mode(cli: Cli, tmp_path: Path) -> None:
    torch.save(scrambled(PublicUNet(3, 3, 6, 3, "batch")).state_dict(), tmp_path / "latest_net_G.pth")
    out = tmp_path / "edges.safetensors"
    outcome = cli("import", tmp_path / "latest_net_G.pth", out)
    assert outcome.code == 0, outcome.err
    assert "Default mode: raster" in outcome.out
    assert "--mode paper" in outcome.out
    outcome = cli("import", tmp_path / "latest_net_G.pth", out, "--mode", "paper", "--direction", "BtoA")
    assert "Default mode: paper" in outcome.out
    document = json.loads(cli("info", out, "--json").out)
    assert (document["mode"], document["direction"]) == ("paper", "BtoA")


@pytest.mark.usefixtures("without_charts")
def test_demo_at_a_small_scale(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--out", out, "--size", 512, "--steps", 1]
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    assert re.search(r"mean IoU of classes on the held-out map: \d+\.\d %$", outcome.out, re.MULTILINE)
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/') == 4  # aerial, made here, made by the published model, true
    assert 'href="evaluation/report.html"' in page
    assert (out / "evaluation" / "report.html").is_file()
    made, aerial = read_image(out / "map.tif"), read_image(out / "aerial.tif")
    assert made.grid == aerial.grid
    assert made.grid.crs is not None
    published = read_image(out / "map_town-sat2map.tif")
    assert published.grid == aerial.grid
    right = classify(published.pixels) == classify(read_image(out / "map_true.tif").pixels)
    assert right.mean() > 0.85
    assert 'href="draw.html"' in (out / "index.html").read_text(encoding="utf-8")
    assert (out / "draw.html").stat().st_size < 12e6
    # An earlier demo is replaced; a town that the published model was trained on shows nothing of it.
    monkeypatch.setattr(demo, "_write_draw_page", lambda out: False)  # as where it is impossible
    assert cli(*words, "--seed", 1).code == 0
    assert not (out / "map_town-sat2map.tif").exists()
    assert (out / "index.html").read_text().count('<img src="data:image/') == 3
    assert not (out / "draw.html").exists()
    assert "draw.html" not in (out / "index.html").read_text()


def test_demo_without_the_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo._published(0) is not None
    assert demo._published(1) is None  # it was trained on that town
    monkeypatch.setattr("terramorph.models.places", lambda entry: [])
    assert demo._published(0) is None


def test_demo_leaves_other_peoples_folders_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    outcome = cli("demo", "--out", tmp_path)
    assert outcome.code == 2
    assert (tmp_path / "letter.txt").is_file()
