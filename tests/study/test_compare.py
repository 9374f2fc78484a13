"""Studies: what they may say, how they go through and go on, and what their page claims."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from terramorph.atomic import locked
from terramorph.cli import compare as command
from terramorph.errors import ConfigError, DatasetError, InputError, StorageError
from terramorph.study import STUDIES, compare, load_study
from terramorph.study.compare_sentences import conclude
from terramorph.study.record import Record, read_record, write_record
from terramorph.study.run import flat_settings, seconds_per_image, train_to
from terramorph.training import TrainConfig, TrainResult, parse_assignments

WriteStudy = Callable[..., Path]

LSGAN = '[[change]]\nname = "lsgan"\nsettings.loss.adversarial = "lsgan"\nsource = "Mao et al."\n'
BROKEN = '[[change]]\nname = "broken"\nsettings.optimizer.learning_rate = 1e20\n'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of decoded pairs, for all studies here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of the base, one change that works and one that diverges, with two seeds."""
    out = tmp_path_factory.mktemp("made")
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), out, cache=cache)
    return out


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "out")


def read(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    return document


def files(out: Path) -> dict[str, int]:
    """What training and scoring made, and when."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for name in ("model.safetensors", "metrics.json", "record.json")
        for path in out.rglob(name)
    }


def test_a_study_goes_through(finished: Path) -> None:
    document = read(finished)
    assert document["finished"] is True
    assert [(run["variant"], run["seed"], run["state"]) for run in document["runs"]] == [
        ("base", 0, "done"),
        ("lsgan", 0, "done"),
        ("broken", 0, "diverged"),
        ("base", 1, "done"),
        ("lsgan", 1, "done"),
        ("broken", 1, "diverged"),
    ]
    configs = {
        run["variant"] + str(run["seed"]): json.loads((finished / run["folder"] / "config.json").read_text())["config"]
        for run in document["runs"]
    }
    assert [configs[name]["seed"] for name in ("base0", "lsgan0", "base1", "lsgan1")] == [0, 0, 1, 1]
    assert configs["lsgan0"]["loss"]["adversarial"] == "lsgan"
    assert [(row["variant"], row["metric"]) for row in document["effects"]] == [("lsgan", "psnr"), ("lsgan", "miou")]
    assert [row["over"] for row in document["effects"]] == ["seeds and images", "seeds"]
    variant = document["variants"][1]
    assert variant["settings"] == {"loss.adversarial": "lsgan"}
    assert variant["means"]["psnr"] == pytest.approx(
        sum(run["scores"]["psnr"] for run in document["runs"] if run["variant"] == "lsgan") / 2
    )
    difference = variant["means"]["psnr"] - document["variants"][0]["means"]["psnr"]
    assert document["effects"][0]["difference"] == pytest.approx(difference, rel=1e-3)
    assert variant["seconds_per_image"] > 0
    assert variant["parameters"].keys() == {"generator", "discriminator"}
    assert document["variants"][2]["diverged"][0]["step"] == 0
    assert "finite" in document["variants"][2]["diverged"][0]["reason"]


def test_the_page_claims_nothing_without_a_row(finished: Path) -> None:
    page = (finished / "comparison.html").read_text()
    anchors = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links
    assert links <= anchors
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Unfinished" not in page
    assert page.count("data:image/webp") == 4 * (2 + 2)  # source, truth, base, lsgan; the broken one has none
    for conclusion in conclude(read(finished)):
        assert conclusion.text in re.sub(r"<[^>]+>", "", page)
        assert conclusion.pieces[0][1] or conclusion.pieces[1][1]
    texts = {conclusion.variant: conclusion.text for conclusion in conclude(read(finished))}
    assert texts["broken"].startswith("broken diverged with every seed so far, after step 0")
    row = read(finished)["effects"][0]
    assert f"psnr ({row['difference']:+.3g}".replace("-", "−") in texts["lsgan"]


def test_nothing_is_done_twice_and_a_study_may_grow(
    finished: Path, write_study: WriteStudy, town_pairs: Path, cache: Path
) -> None:
    before = files(finished)
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=cache)
    assert files(finished) == before
    more = '[[change]]\nname = "more"\nadds_to = "lsgan"\nsettings.loss.l1_weight = 10.0\n'
    document = compare(town_pairs, load_study(write_study(LSGAN + BROKEN + more), seeds=1), finished, cache=cache)
    assert [run["state"] for run in document["runs"]] == ["done", "done", "diverged", "done"]
    assert {name: when for name, when in files(finished).items() if name in before} == before
    assert {row["verdict"] for row in document["effects"]} == {"one seed: no verdict"}
    assert document["comparisons"] == 0
    page = (finished / "comparison.html").read_text()
    assert "One seed: no verdicts." in page
    assert all(
        text.text.startswith("One seed, so no verdict on") for text in conclude(document) if text.variant == "more"
    )


def test_runs_that_are_done_keep_no_checkpoint(
    finished: Path, write_study: WriteStudy, town_pairs: Path, cache: Path
) -> None:
    assert not list(finished.glob("runs/*/checkpoint.safetensors"))
    before = files(finished)
    left = finished / "runs/base-seed0/checkpoint.safetensors"
    left.write_bytes(b"as after a kill")
    (finished / "runs/lsgan-seed0/record.json").unlink()
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=cache)
    assert not left.exists()
    after = files(finished)
    assert {name: when for name, when in after.items() if name.endswith("model.safetensors")} == {
        name: when for name, when in before.items() if name.endswith("model.safetensors")
    }
    assert read(finished)["finished"] is True


@pytest.mark.parametrize("steps", [1, 5])
def test_what_was_stopped_goes_on_to_the_same_scores(
    steps: int, write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    study = load_study(write_study(LSGAN), seeds=1)
    whole = compare(town_pairs, study, tmp_path / "whole", cache=cache)
    asked = iter(range(10**6))
    out = tmp_path / "out"
    stopped = compare(town_pairs, study, out, cache=cache, should_stop=lambda: next(asked) >= steps)
    assert stopped["finished"] is False
    assert "<b>Unfinished:</b>" in (out / "comparison.html").read_text()
    for run in out.glob("runs/*"):  # as after a kill between training and scoring
        shutil.rmtree(run / "scores", ignore_errors=True)
        (run / "record.json").unlink()
    again = compare(town_pairs, study, out, cache=cache)
    assert again["finished"] is True
    assert [run["scores"] for run in again["runs"]] == [run["scores"] for run in whole["runs"]]


def test_a_study_that_changed_is_refused(
    finished: Path, write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    hinge = LSGAN.replace('= "lsgan"\nsource', '= "hinge"\nsource')
    with pytest.raises(ConfigError, match=r"lsgan-seed0 holds a run with loss\.adversarial = 'lsgan', and 'hinge'"):
        compare(town_pairs, load_study(write_study(hinge)), finished, cache=cache)
    with pytest.raises(ConfigError, match="holds another study: its images is 6 and now is 8"):
        compare(town_pairs, load_study(write_study(LSGAN), images=8), finished, cache=cache)
    other = write_study(LSGAN, name="other.toml")
    with pytest.raises(ConfigError, match="holds another study: its study is 'small' and now is 'other'"):
        compare(town_pairs, load_study(other), finished, cache=cache)
    (finished / "study.json").unlink()
    with pytest.raises(ConfigError, match="holds runs that are not of a study"):
        compare(town_pairs, load_study(other), finished, cache=cache)


def test_scores_are_made_again_for_other_weights_but_nothing_is_trained(
    finished: Path, write_study: WriteStudy, town_pairs: Path, cache: Path
) -> None:
    before = files(finished)
    write_record(run := finished / "runs/base-seed0", Record(**{**vars(read_record(run)), "weights": "/elsewhere"}))
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=cache)
    after = files(finished)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"runs/base-seed0/scores/metrics.json", "runs/base-seed0/record.json"}
    assert read(finished)["finished"] is True


def test_scores_of_other_pairs_are_not_compared(
    finished: Path, write_study: WriteStudy, town_pairs: Path, cache: Path
) -> None:
    path = finished / "runs/lsgan-seed1/scores/per_image.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputError, match="lsgan-seed1 was scored on other pairs"):
        compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=cache)


def test_shares_of_the_budget_and_seeds_as_changes(
    write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    changes = '[[change]]\nname = "half"\nshare = 0.5\n[[change]]\nname = "seed"\nsettings.seed = 7\n'
    document = compare(town_pairs, load_study(write_study(changes), seeds=1), tmp_path / "out", cache=cache)
    assert [run["step"] for run in document["runs"]] == [3, 2, 3]
    assert seconds_per_image(tmp_path / "out/runs/half-seed0") is not None


def test_a_change_that_cannot_be_trained_is_a_row(
    write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(out: Path, dataset: Path, config: TrainConfig, **how: Any) -> TrainResult:
        if config.loss.adversarial == refused:
            raise ConfigError("These settings do not go together.")
        return train_to(out, dataset, config, **how)

    monkeypatch.setattr(sys.modules["terramorph.study.compare"], "train_to", refusing)
    study = load_study(write_study(LSGAN), seeds=1)
    refused = "lsgan"
    document = compare(town_pairs, study, tmp_path / "out", cache=cache)
    assert [run["state"] for run in document["runs"]] == ["done", "refused"]
    assert document["finished"] is True
    assert [said.text for said in conclude(document)] == [
        "lsgan could not be trained: These settings do not go together."
    ]
    refused = "bce"
    with pytest.raises(ConfigError, match="do not go together"):
        compare(town_pairs, study, tmp_path / "other", cache=cache)


def test_the_command(
    write_study: WriteStudy,
    town_pairs: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb = typer.Typer()
    verb.command(command.NAME, epilog=command.EXAMPLE)(command.run)
    out = tmp_path / "out"
    arguments = [str(town_pairs), "--study", str(write_study()), "--out", str(out), "--cache", str(cache)]
    arguments += ["--images", "4", "--seeds", "1", "--set", "loss.l1_weight=50", "--split", "train"]
    with monkeypatch.context() as stopped:
        stopped.setattr("terramorph.cli.interrupt.StopFlag.__call__", lambda flag: flag.stepping)
        with pytest.raises(SystemExit) as ended:
            verb(arguments)
    assert ended.value.code != 0
    assert "Stopped; 0 of 2 runs are over. Go on with: terramorph" in capsys.readouterr().out
    verb(arguments, standalone_mode=False)
    printed = capsys.readouterr().out
    assert "run 1 of 2: base-seed0" in printed
    assert "- One seed, so no verdict on lsgan" in printed
    assert str(out / "comparison.html") in printed
    config = json.loads((out / "runs/lsgan-seed0/config.json").read_text())["config"]
    assert (config["loss"]["l1_weight"], config["max_steps"]) == (50.0, 2)
    assert read(out)["split"] == "train"
    with pytest.raises(ConfigError, match="either --images or --minutes"):
        verb([*arguments, "--minutes", "3"], standalone_mode=False)


def test_runs_are_scored_on_val_or_on_test_without_val_or_on_what_is_asked_for(
    write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    pairs = shutil.copytree(town_pairs, tmp_path / "pairs")
    shutil.move(pairs / "val", pairs / "test")
    stop: dict[str, Any] = {"cache": cache, "should_stop": lambda: True}
    assert compare(town_pairs, load_study(write_study()), tmp_path / "a", **stop)["split"] == "val"
    assert compare(pairs, load_study(write_study()), tmp_path / "b", **stop)["split"] == "test"
    assert compare(pairs, load_study(write_study(), split="train"), tmp_path / "c", **stop)["split"] == "train"
    with pytest.raises(DatasetError, match="has no split 'val'"):
        compare(pairs, load_study(write_study(), split="val"), tmp_path / "d", **stop)
    with pytest.raises(ConfigError, match="its split is 'test' and now is 'train'"):
        compare(pairs, load_study(write_study(), split="train"), tmp_path / "b", **stop)


def test_a_budget_of_minutes(write_study: WriteStudy, town_pairs: Path, cache: Path, tmp_path: Path) -> None:
    study = load_study(write_study(LSGAN, budget="minutes = 1e-9"), seeds=1)
    document = compare(town_pairs, study, tmp_path / "out", cache=cache)
    assert document["budget"] == "1e-09 minutes"
    assert [run["step"] for run in document["runs"]] == [1, 1]


def test_bad_places(write_study: WriteStudy, town_pairs: Path, tmp_path: Path) -> None:
    study = load_study(write_study())
    with pytest.raises(DatasetError, match="has no split 'nowhere'"):
        compare(town_pairs, load_study(write_study(head='split = "nowhere"\n')), tmp_path / "out")
    with pytest.raises(InputError, match="weights"):
        compare(town_pairs, study, tmp_path / "out", weights=tmp_path / "weights")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        compare(town_pairs, study, tmp_path / "file")
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out/.lock", RuntimeError()),
        pytest.raises(ConfigError, match="Another process is at work"),
    ):
        compare(town_pairs, study, tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"changes": ""}, "nothing to compare"),
        ({"changes": LSGAN + LSGAN}, "name 'lsgan' stands twice"),
        ({"changes": LSGAN.replace('"lsgan"\nsettings', '"base"\nsettings')}, "name 'base' stands twice"),
        ({"changes": '[[change]]\nname = "same"\nsettings.loss.l1_weight = 100.0\n'}, "same configuration as 'base'"),
        ({"changes": '[[change]]\nname = "a/b"\n'}, "cannot name a folder"),
        ({"changes": "[[change]]\nsettings.ema = 0.9\n"}, "has no name"),
        ({"changes": '[[change]]\nname = "x"\nsetings.ema = 0.9\n'}, "did you mean 'change.settings'"),
        ({"changes": '[[change]]\nname = "x"\nsettings = 3\n'}, "must be a table"),
        (
            {"changes": '[[change]]\nname = "x"\nsettings.loss.l1_wight = 3\n'},
            "change 'x' .* did you mean 'loss.l1_weight'",
        ),
        (
            {"changes": '[[change]]\nname = "x"\nadds_to = "lsgn"\n' + LSGAN},
            "'x' .* adds to 'lsgn', which does not stand",
        ),
        ({"changes": '[[change]]\nname = "x"\nshare = 0\n'}, "is no part of a budget"),
        ({"budget": "imags = 4"}, "did you mean 'budget.images'"),
        ({"budget": "images = 1"}, "less than one step of 'base', which takes 2"),
        ({"budget": "images = 2.5"}, "cannot be 2.5"),
        ({"budget": "minutes = -1"}, "cannot be -1"),
        ({"budget": ""}, "either images or minutes"),
        ({"budget": "images = 4\nminutes = 4"}, "either images or minutes"),
        ({"head": "sedes = 3\n"}, "did you mean 'seeds'"),
        ({"head": "seeds = 0\n"}, "cannot be 0; give 1 or more"),
        ({"head": 'metrics = ["miuo"]\n'}, "did you mean 'miou'"),
        ({"head": 'metrics = ["miou", "miou"]\n'}, "list of different names"),
        ({"head": 'metrics = ["lpips"]\n'}, "metric lpips .* needs feature weights; give --weights"),
        ({"head": 'metrics = ["fd"]\n'}, "metric fd .* needs feature weights"),
        ({"base": '[base]\npreset = "pix2pixx"\n'}, "did you mean 'pix2pix'"),
        ({"base": "base = 3\n"}, "base in .* must be a table"),
        ({"head": "seeds = = 3\n"}, "not valid TOML"),
    ],
)
def test_studies_that_cannot_be(how: dict[str, str], message: str, write_study: WriteStudy) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(write_study(**how))
    assert "\n" not in str(caught.value)


def test_studies_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pix2pix-paper'"):
        load_study("pix2pix-papr")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "none.toml")


def test_the_studies_that_come_along(tmp_path: Path) -> None:
    assert STUDIES == ("improvements", "pix2pix-paper")
    for name in STUDIES:
        small = {"data.crop_size": 128, "generator.network": "unet128", "generator.width": 32}
        study = load_study(name, settings=small, images=4000, weights=tmp_path)
        assert not study.left_out
        assert all(variant.source for variant in study.variants[1:])
        assert all(variant.config.data.crop_size == 128 for variant in study.variants)
        for variant in study.variants:
            schedule = variant.config.schedule
            assert (schedule.unit, schedule.constant, schedule.decay) == ("steps", 2000, 2000)
    paper = {variant.name: variant.config for variant in load_study("pix2pix-paper").variants}
    assert [paper[name].discriminator.layers for name in ("patch-1", "patch-16", "base", "patch-286")] == [0, 1, 3, 5]
    assert paper["encoder-decoder-l1"].generator.skips is False
    assert paper["encoder-decoder-l1"].loss.adversarial == "none"
    without = load_study("improvements")
    assert [sentence.split()[0] for sentence in without.left_out] == ["perceptual", "added-8-perceptual"]
    last = flat_settings(without.variants[-1].config)
    assert (last["ema"], last["generator.upsampling"], last["discriminator.scales"]) == (0.999, "resize", 2)


def test_changes_of_a_study_that_comes_along_are_left_out_where_they_do_not_fit(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    small = {"data.load_size": 72, "data.crop_size": 64, "generator.network": "unet64"}
    paper = load_study("pix2pix-paper", settings=small)
    assert "patch-286" not in {variant.name for variant in paper.variants}
    assert [sentence.split(": ", 1)[0] for sentence in paper.left_out] == ["patch-286 is left out"]
    assert "needs images of 96 px" in paper.left_out[0]
    better = load_study("improvements", settings={**small, "loss.adversarial": "lsgan"}, weights=tmp_path)
    assert better.left_out == (
        "lsgan is left out: it is the same configuration as base.",
        "added-4-lsgan is left out: it is the same configuration as added-3-resize.",
    )
    own = '[[change]]\nname = "patch-286"\nsettings.discriminator.layers = 5\n'
    with pytest.raises(ConfigError, match=r"The change 'patch-286' of .* needs images of 96 px"):
        load_study(write_study(own))
    needing = '[[change]]\nname = "seen"\nsettings.loss = { perceptual = 1.0, perceptual_weights = "{weights}" }\n'
    more = '[[change]]\nname = "more"\nadds_to = "seen"\nsettings.ema = 0.9\n'
    assert load_study(write_study(needing + more + LSGAN)).left_out == (
        "seen is left out: it needs feature weights, given by --weights DIR.",
        "more is left out: it adds to seen.",
    )
    with pytest.raises(ConfigError, match=r"No change of .* can be made: seen is left out"):
        load_study(write_study(needing))


def test_the_example_of_the_help_asks_for_no_more_than_its_settings_can() -> None:
    words = shlex.split(command.EXAMPLE.rsplit("terramorph ", 1)[1])
    settings = parse_assignments([words[at + 1] for at, word in enumerate(words) if word == "--set"])
    config = load_study("improvements", settings=settings, images=4000).variants[0].config
    assert (config.data.load_size, config.data.crop_size) == (143, 128)
    assert config.generator.network == "unet128"
