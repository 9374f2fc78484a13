"""Studies: how they go through and go on, and what their page claims."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from terramorph.cli import compare as command
from terramorph.errors import ConfigError, InputError
from terramorph.study import compare, load_study
from terramorph.study.comparison import conclude, make_comparison
from terramorph.study.run import PeakMemory, read_record, seconds_per_image, write_record

WriteStudy = Callable[..., Path]

LSGAN = '[[change]]\nname = "lsgan"\nsettings.loss.adversarial = "lsgan"\nsource = "Mao et al."\n'
BROKEN = '[[change]]\nname = "broken"\nsettings.optimizer.learning_rate = 1e20\n'


@pytest.fixture(scope="module")
def made(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a study of the base, one change that works and one that diverges, with two seeds."""
    out = tmp_path_factory.mktemp("made")
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), out, cache=study_cache)
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
    assert page.count(" wraps") >= len(read(finished)["effects"]), "verdicts may wrap, so that none is cut off"
    anchors = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links
    assert links <= anchors
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Unfinished" not in page
    assert page.count("data:image/webp") == 4 * (2 + 2)  # input, truth, base, lsgan; the broken one has none
    for conclusion in conclude(read(finished)):
        assert conclusion.html in page
        assert "href" in conclusion.html
    texts = {conclusion.variant: conclusion.text for conclusion in conclude(read(finished))}
    assert texts["broken"].startswith("broken diverged with every seed so far, after step 0")
    row = read(finished)["effects"][0]
    assert f"PSNR ({row['difference']:+.3g}".replace("-", "−") in texts["lsgan"]


def test_nothing_is_done_twice_and_a_study_may_grow(
    finished: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path
) -> None:
    before = files(finished)
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=study_cache)
    assert files(finished) == before
    more = '[[change]]\nname = "more"\nadds_to = "lsgan"\nsettings.loss.l1_weight = 10.0\n'
    document = compare(town_pairs, load_study(write_study(LSGAN + BROKEN + more), seeds=1), finished, cache=study_cache)
    assert [run["state"] for run in document["runs"]] == ["done", "done", "diverged", "done"]
    assert {name: when for name, when in files(finished).items() if name in before} == before
    assert {row["verdict"] for row in document["effects"]} == {"one seed: no verdict"}
    assert document["comparisons"] == 0
    assert "One seed, so no verdicts" in (finished / "comparison.html").read_text()
    assert all(
        text.text.startswith("One seed, so no verdict on") for text in conclude(document) if text.variant == "more"
    )


def test_runs_that_are_done_keep_no_checkpoint(
    finished: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path
) -> None:
    assert not list(finished.glob("runs/*/checkpoint.safetensors"))
    before = files(finished)
    left = finished / "runs/base-seed0/checkpoint.safetensors"
    left.write_bytes(b"as after a kill")
    (finished / "runs/lsgan-seed0/record.json").unlink()
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=study_cache)
    assert not left.exists()
    after = files(finished)
    assert {name: when for name, when in after.items() if name.endswith("model.safetensors")} == {
        name: when for name, when in before.items() if name.endswith("model.safetensors")
    }
    assert read(finished)["finished"] is True


def test_what_was_stopped_goes_on_to_the_same_scores(
    made: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path
) -> None:
    study, asked = load_study(write_study(LSGAN), seeds=1), iter(range(10**6))
    stopped = compare(town_pairs, study, tmp_path, cache=study_cache, should_stop=lambda: next(asked) >= 5)
    assert stopped["finished"] is False
    assert "<b>Unfinished:</b>" in (tmp_path / "comparison.html").read_text()
    for run in tmp_path.glob("runs/*"):  # as after a kill between training and scoring
        shutil.rmtree(run / "scores", ignore_errors=True)
        (run / "record.json").unlink()
    again = compare(town_pairs, study, tmp_path, cache=study_cache)
    assert again["finished"] is True
    assert [run["scores"] for run in again["runs"]] == [run["scores"] for run in read(made)["runs"][:2]]


def test_a_study_that_changed_is_refused(
    finished: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path
) -> None:
    hinge = LSGAN.replace('= "lsgan"\nsource', '= "hinge"\nsource')
    with pytest.raises(ConfigError, match=r"lsgan-seed0 holds another run: loss\.adversarial is lsgan there and hinge"):
        compare(town_pairs, load_study(write_study(hinge)), finished, cache=study_cache)
    with pytest.raises(ConfigError, match="holds another study: images is 6 there and 8 here"):
        compare(town_pairs, load_study(write_study(LSGAN), images=8), finished, cache=study_cache)
    other = write_study(LSGAN, name="other.toml")
    with pytest.raises(ConfigError, match="holds another study: study is small there and other here"):
        compare(town_pairs, load_study(other), finished, cache=study_cache)
    (finished / "study.json").unlink()
    with pytest.raises(ConfigError, match="holds runs without a study"):
        compare(town_pairs, load_study(other), finished, cache=study_cache)


def test_scores_are_made_again_for_other_weights_but_nothing_is_trained(
    finished: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path
) -> None:
    before = files(finished)
    write_record(run := finished / "runs/base-seed0", read_record(run).model_copy(update={"weights": "/elsewhere"}))
    record = json.loads((finished / "runs/base-seed1/record.json").read_text())
    del record["scores"]  # as earlier versions kept it
    (finished / "runs/base-seed1/record.json").write_text(json.dumps(record))
    compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=study_cache)
    after = files(finished)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {f"runs/base-seed{n}/{file}" for n in (0, 1) for file in ("scores/metrics.json", "record.json")}
    assert read(finished)["finished"] is True


def test_scores_of_other_pairs_are_not_compared(
    finished: Path, write_study: WriteStudy, town_pairs: Path, study_cache: Path
) -> None:
    record = read_record(run := finished / "runs/lsgan-seed1")
    assert record.scores is not None
    write_record(
        run, record.model_copy(update={"scores": record.scores.model_copy(update={"ids": record.scores.ids[:-1]})})
    )
    with pytest.raises(InputError, match="lsgan-seed1 was scored on other pairs"):
        compare(town_pairs, load_study(write_study(LSGAN + BROKEN)), finished, cache=study_cache)


def test_shares_of_the_budget_and_seeds_as_changes(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path
) -> None:
    changes = '[[change]]\nname = "half"\nshare = 0.5\n[[change]]\nname = "seed"\nsettings.seed = 7\n'
    document = compare(town_pairs, load_study(write_study(changes), seeds=1), tmp_path / "out", cache=study_cache)
    assert [run["step"] for run in document["runs"]] == [3, 2, 3]
    assert seconds_per_image(tmp_path / "out/runs/half-seed0") is not None


def test_a_change_that_is_trained_on_a_metric_gets_no_verdict_on_it(
    finished: Path, write_study: WriteStudy, town_pairs: Path
) -> None:
    seen = LSGAN.replace(
        'settings.loss.adversarial = "lsgan"', 'settings.loss = { perceptual = 1.0, perceptual_weights = "{weights}" }'
    )
    study = load_study(write_study(seen, head='seeds = 2\nmetrics = ["lpips", "psnr"]\n'), weights=finished)
    records = {job: read_record(job.folder) for job in study.jobs(finished)}
    for number, (job, record) in enumerate(records.items()):
        assert record.scores is not None
        overall = record.scores.overall | {"lpips": 0.4 - 0.1 * (number % 2)}
        records[job] = record.model_copy(update={"scores": record.scores.model_copy(update={"overall": overall})})
    document = make_comparison(study, town_pairs, records)
    verdicts = {row["metric"]: (row["corrected"], row["verdict"]) for row in document["effects"]}
    assert verdicts["lpips"] == (None, "trained on this metric")
    assert verdicts["psnr"][0] == document["effects"][1]["p"]
    assert document["comparisons"] == 1
    (said,) = [conclusion.text for conclusion in conclude(document)]
    assert said.endswith("; on LPIPS (−0.1, −0.1 to −0.1) it is trained on this metric.")
    document["effects"] = document["effects"][:1]
    assert conclude(document)[0].text.startswith("lsgan has no verdict; on LPIPS (")


def test_a_loss_from_outside_is_a_change(write_study: WriteStudy, town_pairs: Path, tmp_path: Path) -> None:
    own = '[[change]]\nname = "own"\nsettings.loss.terms.own = { function = "mine:own", weight = 2.0 }\n'
    study = load_study(write_study(own))
    records = {job: read_record(job.folder) for job in study.jobs(tmp_path)}
    variant = make_comparison(study, town_pairs, records)["variants"][1]
    assert variant["settings"] == {"loss.terms.own.function": "mine:own", "loss.terms.own.weight": 2.0}


def test_metrics_that_are_secondary_cost_the_others_nothing(
    finished: Path, write_study: WriteStudy, town_pairs: Path
) -> None:
    study = load_study(write_study(LSGAN))
    records = {job: read_record(job.folder) for job in study.jobs(finished)}
    together = make_comparison(study, town_pairs, records)["effects"]
    apart = make_comparison(replace(study, metrics=("psnr",), secondary=("miou",)), town_pairs, records)["effects"]
    assert [row["p"] for row in apart] == [row["p"] for row in together]
    assert [row["corrected"] for row in apart] == [row["p"] for row in apart]
    assert min(row["corrected"] for row in together) == pytest.approx(min(1, 2 * min(row["p"] for row in together)))


def test_seconds_an_image_leave_out_the_first_step_and_memory_the_runs_before(finished: Path, tmp_path: Path) -> None:
    run = read(finished)["runs"][0]
    log = [json.loads(line) for line in (finished / run["folder"] / "log.jsonl").read_text().splitlines()]
    assert run["seconds_per_image"] == log[-1]["seconds_per_image"]
    assert run["train_seconds"] == pytest.approx(run["seconds_per_image"] * 6)
    held = torch.ones(2**26)  # 256 MiB
    peak = PeakMemory()
    taken = torch.ones(2**24)
    found = peak.bytes()
    if found is None:
        pytest.skip("this system does not tell")
    assert taken.nbytes <= found + 2**22 < held.nbytes


def test_the_command(
    write_study: WriteStudy,
    town_pairs: Path,
    study_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb = typer.Typer()
    verb.command(command.NAME, epilog=command.EXAMPLE)(command.run)
    out = tmp_path / "out"
    arguments = [str(town_pairs), "--study", str(write_study()), "--out", str(out), "--cache", str(study_cache)]
    arguments += ["--images", "4", "--seeds", "1", "--set", "loss.l1_weight=50", "--split", "train"]
    with monkeypatch.context() as stopped:
        stopped.setattr("terramorph.cli.reporting.StopFlag.__call__", lambda flag: flag.stepping)
        with pytest.raises(SystemExit) as ended:
            verb(arguments)
    assert ended.value.code != 0
    assert "Stopped; 0 of 2 runs are" in capsys.readouterr().out
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


def test_a_budget_of_minutes(write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path) -> None:
    study = load_study(write_study(LSGAN, budget="minutes = 1e-9"), seeds=1)
    document = compare(town_pairs, study, tmp_path / "out", cache=study_cache)
    assert document["budget"] == "1e-09 minutes"
    assert [run["step"] for run in document["runs"]] == [1, 1]
