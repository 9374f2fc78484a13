"""What a study is bound to, when, and what of it is remembered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terramorph.errors import ConfigError, StorageError
from terramorph.pairs import open_pairs
from terramorph.study import StudyOptions, tune
from terramorph.study.plan import keep_plan, load_plan, make_plan
from terramorph.study.splits import choose_splits, link_pairs
from terramorph.town import Town, write_town_pairs
from terramorph.training import TrainConfig

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def other_pairs(small_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The town in fewer and other pairs."""
    folder = tmp_path_factory.mktemp("other_pairs")
    write_town_pairs(small_town, folder, tile=160)
    return folder


@pytest.fixture
def options(tune_space: Path) -> StudyOptions:
    return StudyOptions(trials=1, images=4, rungs=1, space=tune_space)


def test_a_call_that_comes_to_nothing_binds_the_folder_to_nothing(
    town_pairs: Path,
    other_pairs: Path,
    options: StudyOptions,
    tiny: Callable[..., TrainConfig],
    study_cache: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "study"
    with pytest.raises(ConfigError, match="The objective lpips cannot be computed here"):
        tune(other_pairs, out, tiny(), replace(options, objectives=("lpips",)), cache=study_cache)
    assert not out.exists()
    for url, kind in (("sqlite:////nowhere/at/all.db", StorageError), ("oracle+nothing://me@host/it", ConfigError)):
        with pytest.raises(kind, match="cannot be"):
            tune(other_pairs, out, tiny(), replace(options, storage=url), cache=study_cache)
        assert not (out / "study.json").exists()
    found = tune(town_pairs, out, tiny(), options, cache=study_cache)
    assert found.trials[0].state == "complete"
    linked = {path.resolve().parent for path in (out / "tuning").glob("*/*.png")}
    assert linked == {town_pairs.resolve() / "train"}


def test_pairs_in_folders_are_linked_by_their_paths(town_pairs: Path, tmp_path: Path) -> None:
    for folder in ("north", "south"):
        for side in "AB":
            shutil.copytree(town_pairs / "train", tmp_path / "d" / "train" / side / folder)
    shutil.copytree(town_pairs / "val", tmp_path / "d" / "val" / "east")
    splits = choose_splits(tmp_path / "d", 0)
    link_pairs(tmp_path / "d", splits, tmp_path / "tuning")
    linked = open_pairs(tmp_path / "tuning", "train")
    assert linked.ids == splits.train
    for index, pair in enumerate(linked.ids):
        assert [path.resolve() for path in linked.files[index]] == [
            (tmp_path / "d" / "train" / side / f"{pair}.png").resolve() for side in "AB"
        ]


def test_links_that_a_killed_call_left_are_made_again_and_those_of_a_study_stay(
    town_pairs: Path, other_pairs: Path, options: StudyOptions, tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    keep_plan(tmp_path, make_plan(other_pairs, tmp_path, tiny(), options))
    (tmp_path / "study.json").unlink()
    plan = make_plan(town_pairs, tmp_path, tiny(), options)
    keep_plan(tmp_path, plan)
    kept = open_pairs(tmp_path / "tuning", "train").files[0][0]
    assert kept.resolve().parent == town_pairs.resolve() / "train"
    kept.unlink()
    keep_plan(tmp_path, make_plan(town_pairs, tmp_path, tiny(), options))
    assert not kept.exists()
    with pytest.raises(ConfigError, match="holds another study: another preset"):
        keep_plan(tmp_path, plan.model_copy(update={"preset": tiny(ema=0.5)}))


def test_the_default_space_is_brought_to_the_preset(
    town_pairs: Path, options: StudyOptions, tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    small = tiny(data__crop_size=32, generator__network="resnet6")
    plan = make_plan(town_pairs, tmp_path, small, replace(options, images=99, space=None))
    assert plan.space.parameters["discriminator.layers"].ends == (1, 3)


def test_the_weights_that_were_given_last_are_remembered(
    town_pairs: Path,
    options: StudyOptions,
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def look(*words: Any, **named: Any) -> dict[str, Any]:
        seen.append(named["weights"])
        return {"lpips": 0.1 if named["weights"] else None, "miou": 0.1, "reasons": {"lpips": "Give --weights."}}

    monkeypatch.setattr("terramorph.study.plan.evaluate", look)
    plan = make_plan(town_pairs, tmp_path, tiny(), replace(options, weights=tmp_path / "weights"))
    keep_plan(tmp_path, plan)
    assert plan.objectives == ("lpips",)
    assert load_plan(tmp_path) == plan
    again = make_plan(town_pairs, tmp_path, tiny(), options)
    keep_plan(tmp_path, again)
    assert again == plan
    moved = make_plan(town_pairs, tmp_path, tiny(), replace(options, weights=tmp_path / "moved"))
    keep_plan(tmp_path, moved)
    assert load_plan(tmp_path).weights == tmp_path / "moved"
    assert seen == [tmp_path / "weights"] * 2 + [tmp_path / "moved"]
    keep_plan(tmp_path, plan)
    assert load_plan(tmp_path) == plan
    document = json.loads((tmp_path / "study.json").read_text())
    del document["weights"]  # as studies were written before
    (tmp_path / "study.json").write_text(json.dumps(document))
    assert load_plan(tmp_path).weights is None
