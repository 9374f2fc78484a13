"""Studies: what they may say."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from terramorph.cli import compare as command
from terramorph.errors import ConfigError
from terramorph.study import STUDIES, load_study
from terramorph.study.run import flat_settings
from terramorph.training import parse_assignments

WriteStudy = Callable[..., Path]

LSGAN = '[[change]]\nname = "lsgan"\nsettings.loss.adversarial = "lsgan"\nsource = "Mao et al."\n'


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"changes": ""}, "change is missing"),
        ({"changes": LSGAN + LSGAN}, "name 'lsgan' occurs twice"),
        ({"changes": LSGAN.replace('"lsgan"\nsettings', '"base"\nsettings')}, "name 'base' occurs twice"),
        ({"changes": '[[change]]\nname = "same"\nsettings.loss.l1_weight = 100.0\n'}, "same configuration as 'base'"),
        ({"changes": '[[change]]\nname = "a/b"\n'}, "names a folder"),
        ({"changes": "[[change]]\nsettings.ema = 0.9\n"}, "change.name is missing"),
        ({"changes": '[[change]]\nname = "x"\nsetings.ema = 0.9\n'}, "did you mean 'change.settings'"),
        ({"changes": '[[change]]\nname = "x"\nsettings = 3\n'}, "change.settings cannot be 3"),
        (
            {"changes": '[[change]]\nname = "x"\nsettings.loss.l1_wight = 3\n'},
            "change 'x': .* did you mean 'loss.l1_weight'",
        ),
        (
            {"changes": '[[change]]\nname = "x"\nadds_to = "lsgn"\n' + LSGAN},
            "'x' must add to an earlier change, got 'lsgn'",
        ),
        ({"changes": '[[change]]\nname = "x"\nshare = 0\n'}, "share cannot be 0"),
        ({"budget": "imags = 4"}, "did you mean 'budget.images'"),
        ({"budget": "images = 1"}, "must be >= 2 images, one step of 'base', got 1"),
        ({"budget": "images = 2.5"}, "budget.images cannot be 2.5"),
        ({"budget": "minutes = -1"}, "budget.minutes cannot be -1"),
        ({"budget": ""}, "either images or minutes"),
        ({"budget": "images = 4\nminutes = 4"}, "either images or minutes"),
        ({"head": "sedes = 3\n"}, "did you mean 'seeds'"),
        ({"head": "seeds = 0\n"}, "seeds cannot be 0"),
        ({"head": 'metrics = ["miuo"]\n'}, "did you mean 'miou'"),
        ({"head": 'metrics = ["miou", "miou"]\n'}, "metrics must differ, got miou, miou"),
        ({"head": 'metrics = ["lpips"]\n'}, "metric lpips needs feature weights"),
        ({"head": 'metrics = ["fd"]\n'}, "metric fd needs feature weights"),
        ({"base": '[base]\npreset = "pix2pixx"\n'}, "did you mean 'pix2pix'"),
        ({"base": "base = 3\n"}, "base cannot be 3"),
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
    assert "crop_size must be >= 96" in paper.left_out[0]
    better = load_study("improvements", settings={**small, "loss.adversarial": "lsgan"}, weights=tmp_path)
    assert better.left_out == (
        "lsgan is left out: it is the same configuration as base.",
        "added-4-lsgan is left out: it is the same configuration as added-3-resize.",
    )
    own = '[[change]]\nname = "patch-286"\nsettings.discriminator.layers = 5\n'
    with pytest.raises(ConfigError, match=r"change 'patch-286': .*crop_size must be >= 96"):
        load_study(write_study(own))
    needing = '[[change]]\nname = "seen"\nsettings.loss = { perceptual = 1.0, perceptual_weights = "{weights}" }\n'
    more = '[[change]]\nname = "more"\nadds_to = "seen"\nsettings.ema = 0.9\n'
    assert load_study(write_study(needing + more + LSGAN)).left_out == (
        "seen is left out: it needs feature weights; give their folder as `weights`.",
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
