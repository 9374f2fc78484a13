"""Configurations: presets, overrides and what is refused; and the schedule they ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from terramorph.errors import ConfigError
from terramorph.training import PRESETS, known_keys, load_config, parse_assignments, parse_config
from terramorph.training.config import ScheduleConfig
from terramorph.training.optimizer import rate_factor, total_steps


@pytest.mark.parametrize("name", PRESETS)
def test_presets_resolve_and_survive_json(name: str) -> None:
    config = load_config(name)
    assert parse_config(config.model_dump(mode="json")) == config


def test_pix2pix_is_the_paper() -> None:
    config = load_config("pix2pix")
    assert (config.batch_size, config.data.load_size, config.data.crop_size) == (1, 286, 256)
    assert (config.optimizer.learning_rate, config.optimizer.betas) == (2e-4, (0.5, 0.999))
    assert (config.loss.l1_weight, config.loss.discriminator_scale, config.generator.dropout) == (
        100,
        0.5,
        0.5,
    )
    assert total_steps(config.schedule, 1096, 1) == 219_200


def test_the_tutorial_takes_40000_steps_at_a_constant_rate() -> None:
    config = load_config("pix2pix-tf")
    assert total_steps(config.schedule, 400, 1) == 40_000
    assert {rate_factor(config.schedule, step, 400, 1) for step in (0, 20_000, 39_999)} == {1.0}
    assert config.loss.discriminator_scale == 1.0


def test_the_rate_falls_as_in_the_public_code() -> None:
    schedule = ScheduleConfig(unit="epochs", constant=100, decay=100)
    by_epoch = [rate_factor(schedule, epoch * 10, 10, 1) for epoch in range(200)]
    assert by_epoch[:100] == [1.0] * 100
    assert by_epoch[100] == pytest.approx(1 - 1 / 101)
    assert by_epoch[199] == pytest.approx(1 / 101)


def test_the_rate_by_steps_ends_near_zero() -> None:
    schedule = ScheduleConfig(unit="steps", constant=10, decay=10)
    assert [rate_factor(schedule, s, 5, 1) for s in (0, 10, 15, 19)] == pytest.approx([1.0, 1.0, 0.5, 0.1])


def test_max_steps_cuts_short() -> None:
    assert total_steps(ScheduleConfig(unit="epochs", constant=1, decay=1), 10, 4) == 5
    assert total_steps(ScheduleConfig(unit="epochs", constant=1, decay=1), 10, 4, max_steps=3) == 3


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'loss\.l1_wieght'; did you mean 'loss\.l1_weight'"):
        load_config("pix2pix", {"loss.l1_wieght": 10})


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'pix2pics'; did you mean 'pix2pix'"):
        load_config("pix2pics")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, "batch_size cannot be 0"),
        ("optimizer.learning_rate", -1, r"optimizer\.learning_rate cannot be -1"),
        ("optimizer.learning_rate", float("inf"), r"optimizer\.learning_rate cannot be inf: .*finite"),
        ("optimizer.betas", [0.5, 1.0], r"optimizer\.betas\.1 cannot be 1\.0: .*less than 1"),
        ("data.source_range", [5, 3], r"data\.source_range cannot be \[5, 3\]: the first value must be less"),
        ("data.crop_size", 300, "crop_size must be <= load_size, got 300 px and 286 px"),
        ("loss.adversarial", "wgan", "loss.adversarial cannot be 'wgan'"),
        ("batch_size.x", 1, "'batch_size' is a value, not a section"),
        ("loss.perceptual", 1.0, r"loss cannot be used: loss\.perceptual needs a folder .*loss\.perceptual_weights\.$"),
        ("loss.r1_every", 0, r"loss\.r1_every cannot be 0"),
        ("discriminator.scales", 0, r"discriminator\.scales cannot be 0"),
        ("discriminator.layers", 7, r"discriminator\.layers cannot be 7"),
        ("generator.upsampling", "bilinear", r"generator\.upsampling cannot be 'bilinear'"),
        ("data.diffaugment", "color,blur", r"data\.diffaugment cannot be 'color,blur': 'blur' is unknown"),
    ],
)
def test_values_that_do_not_fit(key: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config("pix2pix", {key: value})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"generator.network": "resnet9", "generator.skips": False},
            r"no setting 'generator\.skips' for the generator resnet9",
        ),
        ({"loss.adversarial": "none", "loss.r1": 1.0}, r"loss\.r1 needs a discriminator"),
        ({"loss.adversarial": "none", "loss.feature_matching": 10}, r"loss\.feature_matching needs a discriminator"),
        ({"loss.adversarial": "none", "loss.l1_weight": 0}, "the loss has no terms"),
        ({"loss.adversarial": "none", "data.diffaugment": "color"}, "diffaugment needs a discriminator"),
        ({"launch": "graph", "loss.r1": 1.0}, r"loss\.r1 changes some steps; set launch=auto"),
        ({"launch": "graph", "loss.perceptual": 1.0, "loss.perceptual_weights": "w"}, "set launch=auto"),
        (
            {"generator.network": "lite-unet", "generator.encoder": "none", "data.crop_size": 32, "batch_size": 1},
            r"crop_size must be over 32 px for lite-unet at batch_size=1.*got 32",
        ),
        ({"loss.projected": 1.0, "data.crop_size": 24}, r"crop_size must be >= 32 px with loss\.projected, got 24"),
        (
            {"discriminator.layers": 6, "discriminator.scales": 2},
            "crop_size must be >= 384 px for a discriminator of 6 layers and 2 scale.*got 256",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as told:
        load_config("pix2pix", changes)
    assert "{" not in str(told.value), "a sentence, not a dump of the section"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("loss.feature_matchin", "loss.feature_matching"),
        ("loss.perceptual_weight", "loss.perceptual_weights"),
        ("discriminator.spectralnorm", "discriminator.spectral_norm"),
        ("discriminator.scale", "discriminator.scales"),
        ("generator.upsample", "generator.upsampling"),
        ("generator.skip", "generator.skips"),
        ("data.diff_augment", "data.diffaugment"),
    ],
)
def test_the_switches_are_known_by_name(wrong: str, right: str) -> None:
    assert right in known_keys()
    with pytest.raises(ConfigError, match=rf"did you mean '{right}'"):
        load_config("pix2pix", {wrong: 1})


def test_switches_survive_json_and_their_absence_is_their_default() -> None:
    changes = {
        "generator.upsampling": "pixelshuffle",
        "generator.skips": False,
        "discriminator.conditional": False,
        "discriminator.scales": 2,
        "loss.feature_matching": 10,
        "loss.r1": 0.5,
        "data.diffaugment": "color, cutout",
    }
    config = load_config("pix2pix", changes)
    assert config.data.diffaugments == ("color", "cutout")
    values = config.model_dump(mode="json")
    assert parse_config(values) == config
    for key in changes:
        section, name = key.split(".")
        del values[section][name]
    assert parse_config(values) == load_config("pix2pix")


def test_assignments_are_json_or_text() -> None:
    assert parse_assignments(["a.b=1", "c=true", "d=[0.5, 0.9]", "e=lsgan"]) == {
        "a.b": 1,
        "c": True,
        "d": [0.5, 0.9],
        "e": "lsgan",
    }
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["oops"])


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[loss]\nl1_weight = 7\n")
    assert load_config(path).loss.l1_weight == 7
    path.write_text("[loss\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path)


def test_the_configuration_of_a_run_is_a_preset(tmp_path: Path) -> None:
    config = load_config("pix2pix", {"loss.l1_weight": 7.0, "seed": 3})
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps({"dataset": "data/maps", "config": config.model_dump(mode="json")}))
    assert load_config(saved) == config
    assert load_config(saved, {"seed": 4}).seed == 4
    for text in ("{}", "[]", "{", '{"config": 3}'):
        saved.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json (is not the config\.json of a run|holds no settings)"):
            load_config(saved)


def test_a_generator_of_another_kind_leaves_the_settings_of_the_preset_behind() -> None:
    small = {"generator.network": "unet64", "generator.width": 16}
    assert load_config("demo", {"generator.network": "unet128"}).generator.model_dump()["width"] == 32
    assert load_config(
        "demo", {**small, "generator.network": "lite-unet", "generator.width": 50}
    ).generator.arguments() == {"width": 50, "colours": 0, "residual": 0.25, "noise": 0, "encoder": "imagenet"}
    with pytest.raises(ConfigError, match=r"no setting 'generator\.norm' for the generator lite-unet"):
        load_config("demo", {"generator.network": "lite-unet", "generator.norm": "batch"})
    with pytest.raises(ConfigError, match=r"did you mean 'lite-unet'"):
        load_config("demo", {"generator.network": "lite-net"})


def test_the_rate_warms_up() -> None:
    schedule = ScheduleConfig(unit="steps", constant=10, decay=10, warmup=4)
    factors = [rate_factor(schedule, step, 100, 1) for step in (0, 1, 3, 4, 10, 15)]
    assert factors == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0, 0.5])
