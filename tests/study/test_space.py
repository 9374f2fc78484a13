"""Spaces, rungs, and which pairs tuning looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from terramorph.errors import ConfigError, DatasetError
from terramorph.pairs import load_manifest, open_pairs
from terramorph.pairs.manifest import AreaRecord, Manifest, SideRecord
from terramorph.study.definition import stretched
from terramorph.study.plan import rungs_of
from terramorph.study.space import RATIO, Space, changed, load_space
from terramorph.study.splits import Splits, choose_splits, link_pairs
from terramorph.training import PRESETS, load_config

optuna = pytest.importorskip("optuna")

PRESET = load_config("demo")


def _space(folder: Path, text: str) -> Space:
    path = folder / "space.toml"
    path.write_text(text)
    return load_space(path)


@pytest.mark.parametrize("name", PRESETS)
def test_the_default_space_fits_every_preset(name: str) -> None:
    preset = load_config(name)
    space = load_space().fitted(preset)
    space.check(preset, "The default space")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    tried = [space.suggest(study.ask(), preset) for _ in range(20)]
    assert len({changed(preset, values).model_dump_json() for values in tried}) == 20


def test_keys_may_be_quoted_or_tables(tmp_path: Path) -> None:
    quoted = _space(tmp_path, '"loss.l1_weight" = { low = 1, high = 9 }\nema = { choices = [0.0, 0.9] }')
    tables = _space(tmp_path, "[loss.l1_weight]\nlow = 1\nhigh = 9\n[ema]\nchoices = [0.0, 0.9]")
    assert quoted == tables


def test_a_parameter_is_tried_only_where_its_condition_holds(tmp_path: Path) -> None:
    space = _space(
        tmp_path,
        """
        "discriminator.layers" = { low = 1, high = 3, when = { "loss.adversarial" = "bce", ema = [0.0, 0.9] } }
        "loss.adversarial" = { choices = ["bce", "lsgan"] }
        ema = { choices = [0.0, 0.9, 0.99] }
        "discriminator.width" = { choices = [4, 8], when = { "discriminator.network" = "pixelgan" } }
        """,
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    tried = [space.suggest(study.ask(), PRESET) for _ in range(60)]
    for values in tried:
        assert ("discriminator.layers" in values) == (values["loss.adversarial"] == "bce" and values["ema"] != 0.99)
        assert "discriminator.width" not in values
    assert 0 < sum("discriminator.layers" in values for values in tried) < 60
    assert {type(values.get("discriminator.layers")) for values in tried} == {int, type(None)}


def test_the_ratio_sets_the_rate_of_the_discriminator() -> None:
    config = changed(PRESET, {"optimizer.learning_rate": 0.002, RATIO: 0.5})
    assert config.optimizer.discriminator_learning_rate == 0.001
    assert changed(PRESET, {}) == PRESET


def test_lists_are_choices_too(tmp_path: Path) -> None:
    space = _space(tmp_path, '"optimizer.betas" = { choices = [[0.5, 0.999], [0.0, 0.99]] }')
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    tried = [changed(PRESET, space.suggest(study.ask(), PRESET)).optimizer.betas for _ in range(20)]
    assert set(tried) == {(0.5, 0.999), (0.0, 0.99)}


def test_the_presets_own_values_are_left_out_where_the_space_does_not_reach(tmp_path: Path) -> None:
    space = _space(tmp_path, '"loss.l1_weight" = { low = 1, high = 9 }\nema = { choices = [0.0, 0.99] }')
    assert space.values_of(PRESET) == {"ema": 0.99}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; give a key"),
        ('"loss.l1_wieght" = { low = 1, high = 9 }', "no setting 'loss.l1_wieght'; did you mean 'loss.l1_weight'"),
        ("ema = { low = 0.9, high = 0.1 }", "ema: .*low must be < high, got 0.9 and 0.1"),
        ("ema = { low = 0.0, high = 0.9, log = true }", "ema: .*low of a logarithmic range must be > 0, got 0.0"),
        ("ema = { low = 0.1 }", "ema: .*give { low = ..., high = ... } or"),
        ("ema = { choices = [] }", "ema: choices cannot be"),
        ("ema = { choices = [0.5, 0.5] }", "ema: .*choices must differ"),
        ("ema = { choices = [0.5], log = true }", "ema: .*choices exclude a range"),
        ('ema = { low = "a", high = 1 }', "ema: low.* cannot be 'a'"),
        ("ema = 0.5", "ema: .*cannot be 0.5"),
        ('ema = { choices = [0.5], when = { "los.l1_weight" = 1 } }', "did you mean 'loss.l1_weight'"),
        (
            "ema = { choices = [0.5], when = { batch_size = 1 } }\n"
            "batch_size = { choices = [1], when = { ema = 0.5 } }",
            "the conditions of batch_size and ema are circular",
        ),
        (
            f'"{RATIO}" = {{ low = 1, high = 2 }}\n"optimizer.discriminator_learning_rate" = {{ choices = [1e-3] }}',
            "has both",
        ),
        ("ema = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_space_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _space(tmp_path, text)


def test_a_choice_that_the_configuration_refuses_is_named(tmp_path: Path) -> None:
    space = _space(tmp_path, '"loss.adversarial" = { choices = ["bce", "wasserstein"] }')
    with pytest.raises(ConfigError, match=r"The space x, loss\.adversarial: .*'wasserstein'"):
        space.check(PRESET, "The space x")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_space(tmp_path / "nowhere.toml")


def test_what_a_condition_asks_for_is_set_before_a_value_is_checked(tmp_path: Path) -> None:
    plain = load_config("demo", {"loss.adversarial": "none", "data.diffaugment": ""})
    text = """
        "loss.adversarial" = { choices = ["none", "bce"] }
        "loss.r1" = { choices = [0.0, 10.0], when = { "loss.adversarial" = ["none", "bce"] } }
        "loss.r1_every" = { choices = [4], when = { "loss.r1" = 10.0 } }
        "loss.feature_matching" = { choices = [5.0], when = { "loss.adversarial" = "bce" } }
        "discriminator.layers" = { choices = [77], when = { "discriminator.network" = "pixelgan" } }
        """
    with pytest.raises(ConfigError, match=r"x, loss\.r1: .*loss\.adversarial=none has none"):
        _space(tmp_path, text).check(plain, "x")  # the condition holds for the preset as it is
    _space(tmp_path, text.replace('["none", "bce"] } }', '"bce" } }')).check(plain, "x")
    with pytest.raises(ConfigError, match=r"x, loss\.feature_matching: .*cannot be -5"):
        _space(tmp_path, text.replace("5.0", "-5.0").replace('["none", "bce"] } }', '"bce" } }')).check(plain, "x")


def test_the_default_space_leaves_out_what_a_preset_cannot_be_trained_with() -> None:
    whole = dict(load_space().parameters)
    plain = load_config("demo", {"loss.adversarial": "none", "data.diffaugment": ""})
    found = dict(load_space().fitted(plain).parameters)
    assert {"optimizer.learning_rate", "loss.l1_weight", "generator.width"} < found.keys()
    assert not [key for key in found if "discriminator" in key or "adversarial" in key or "r1" in key]
    small = load_config("demo", {"data.crop_size": 32, "data.load_size": 36})
    found = dict(load_space().fitted(small).parameters)
    assert {key for key in whole if found[key] != whole[key]} == {"discriminator.layers"}
    assert found["discriminator.layers"].ends == (1, 3)
    graph = load_config("demo", {"launch": "graph"})
    found = dict(load_space().fitted(graph).parameters)
    assert whole.keys() - found.keys() == {"loss.r1", "loss.r1_every"}


def test_a_range_with_fractions_is_no_range_of_a_whole_number(tmp_path: Path) -> None:
    space = _space(tmp_path, "batch_size = { low = 1.0, high = 3.0 }")
    with pytest.raises(ConfigError, match=r"x, batch_size: the range from 1\.0 to 3\.0 .* low = 1, high = 3\.$"):
        space.check(PRESET, "x")


def test_rungs_end_at_the_whole_length_and_are_thirds() -> None:
    assert rungs_of(4000, 3) == (444, 1333, 4000)
    assert rungs_of(4000, 1) == (4000,)
    with pytest.raises(ConfigError, match="8 images are too few for 3 rungs"):
        rungs_of(8, 3)


def test_a_stretched_schedule_keeps_the_share_of_its_decay() -> None:
    for steps in (1, 333, 999):
        schedule = stretched(PRESET, steps).schedule
        assert schedule.constant + schedule.decay == steps
        before = PRESET.schedule
        assert schedule.decay == pytest.approx(steps * before.decay / (before.constant + before.decay), abs=1)
    epochs = stretched(load_config("pix2pix"), 1000)
    assert (epochs.schedule.constant, epochs.schedule.decay) == (500, 500)


def _pairs(root: Path, **splits: int) -> Path:
    for name, count in splits.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(b"")
            (root / name / f"{number}.pgw").write_bytes(b"")
    return root


def test_with_val_and_test_tuning_looks_at_val(tmp_path: Path) -> None:
    splits = choose_splits(_pairs(tmp_path, train=3, val=300, test=2), seed=0)
    assert (splits.tuning_split, splits.confirmation) == ("val", "test")
    assert (len(splits.train), len(splits.tuning)) == (3, 200)


@pytest.mark.parametrize("other", ["val", "test"])
def test_with_one_other_split_a_part_of_train_is_held_out(tmp_path: Path, other: str) -> None:
    root = _pairs(tmp_path / "pairs", train=20, **{other: 3})
    splits = choose_splits(root, seed=0)
    assert (splits.tuning_split, splits.confirmation) == ("train", other)
    assert len(splits.tuning) == 3
    assert sorted((*splits.train, *splits.tuning), key=int) == [str(n) for n in range(20)]
    assert splits == choose_splits(root, seed=0) != choose_splits(root, seed=1)

    link_pairs(root, splits, tmp_path / "tuning")
    assert open_pairs(tmp_path / "tuning", "val").ids == splits.tuning
    assert (tmp_path / "tuning" / "train" / f"{splits.train[0]}.pgw").is_file()


def test_twins_are_linked_as_twins(tmp_path: Path) -> None:
    root = _pairs(tmp_path / "pairs", **{"trainA": 6, "trainB": 6, "valA": 1, "valB": 1})
    splits = choose_splits(root, seed=0)
    link_pairs(root, splits, tmp_path / "tuning")
    found = open_pairs(tmp_path / "tuning", "train")
    assert found.ids == splits.train
    assert all(len(files) == 2 for files in found.files)


def test_a_pair_brings_no_files_of_one_whose_name_begins_alike(tmp_path: Path) -> None:
    (tmp_path / "pairs" / "train").mkdir(parents=True)
    for name in ("a.png", "a.pgw", "a.png.aux.xml", "a.1.png", "a.1.pgw", "b.png"):
        (tmp_path / "pairs" / "train" / name).write_bytes(b"")
    for train, tuning in ((("a",), ("a.1",)), (("a", "a.1"), ("b",))):
        link_pairs(tmp_path / "pairs", Splits(train, tuning, "train", "val"), tmp_path / "tuning", anew=True)
        assert open_pairs(tmp_path / "tuning", "train").ids == train
        assert open_pairs(tmp_path / "tuning", "val").ids == tuning
        assert len(list((tmp_path / "tuning" / "train").glob("a.p*"))) == 3


def test_of_a_prepared_dataset_the_southern_end_is_held_out(tmp_path: Path) -> None:
    root = _pairs(tmp_path / "pairs", train=30, val=1)
    places = {str(n): (0, 5 * (n // 3), 10 * (n % 3)) for n in range(30)}  # ten rows of three; neighbours overlap
    side = SideRecord(path="a.tif", fingerprint="0", bands=("red", "green", "blue"), dtype="uint8")
    area = AreaRecord(name="a", source=side, target=side, grid=None)
    Manifest(
        terramorph="0", settings={}, ground_resolution=None, tile=10, areas=(area,), counts={}, pairs={"train": places}
    ).save(root)
    splits = choose_splits(root, seed=0)
    held_out, kept = ({places[pair][1] for pair in ids} for ids in (splits.tuning, splits.train))
    assert min(held_out) >= max(kept) + 10
    link_pairs(root, splits, tmp_path / "tuning")
    manifest = load_manifest(tmp_path / "tuning")
    assert manifest is not None
    assert manifest.pairs["val"] == {pair: places[pair] for pair in splits.tuning}


def test_without_pairs_to_confirm_on_there_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs a split besides train"):
        choose_splits(_pairs(tmp_path / "one", train=9), seed=0)
    with pytest.raises(DatasetError, match="3 pairs, too few"):
        choose_splits(_pairs(tmp_path / "two", train=3, val=1), seed=0)
