"""The switches of the recipe: each changes what it says and nothing else, and survives an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from terramorph.bundle import load_bundle
from terramorph.errors import ConfigError, InputError
from terramorph.pixels import Batch
from terramorph.training import TrainConfig, resume, train
from terramorph.training.pix2pix import Pix2Pix
from terramorph.training.terms import Features

from .conftest import Tiny, losses_of, same_weights

SWITCHES: dict[str, dict[str, Any]] = {
    "hinge with spectral norm": {
        "loss__adversarial": "hinge",
        "discriminator__spectral_norm": True,
        "discriminator__norm": "none",
    },
    "two scales and feature matching": {"discriminator__scales": 2, "loss__feature_matching": 10.0},
    "r1, accumulated": {"loss__r1": 1.0, "loss__r1_every": 2, "accumulate": 2},
    "r1 with spectral norm": {"loss__r1": 1.0, "loss__r1_every": 3, "discriminator__spectral_norm": True},
    "unconditional, augmented": {"discriminator__conditional": False, "data__diffaugment": "color,translation,cutout"},
    "no discriminator": {"loss__adversarial": "none", "loss__l2_weight": 10.0, "loss__l1_weight": 0.0},
    "without skips": {"generator__skips": False, "generator__upsampling": "pixelshuffle"},
    "resized": {"generator__upsampling": "resize", "discriminator__layers": 0},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_stopping_and_resuming_changes_nothing(name: str, town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(**{"max_steps": 3, "precision": "auto", "log__sheet": 0, "ema": 0.9, **SWITCHES[name]})
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    steps = iter([False, True])
    assert not train(town_pairs, tmp_path / "parts", config, should_stop=lambda: next(steps), cache=tmp_path).finished
    assert resume(tmp_path / "parts", cache=tmp_path).finished
    for file in ("model.safetensors", "checkpoint.safetensors"):
        assert same_weights(tmp_path / "whole" / file, tmp_path / "parts" / file)
    bundle = load_bundle(tmp_path / "parts")
    assert bundle.header.recalibrated
    assert bool(torch.isfinite(bundle.network(torch.zeros(1, 3, 64, 64))).all())


def test_what_each_switch_tells(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    told = {}
    for name in ("no discriminator", "two scales and feature matching", "r1 with spectral norm"):
        config = tiny(**{"max_steps": 4, "log__sheet": 0, "log__scalars": 1, **SWITCHES[name]})
        result = train(town_pairs, tmp_path / name, config, cache=tmp_path)
        assert result.cost is not None
        told[name] = losses_of(tmp_path / name), result.cost.parameters
    lines, parameters = told["no discriminator"]
    assert lines[0].keys() - {"event", "step", "time", "images per second", "wait share"} == {"l1", "l2"}
    assert parameters.keys() == {"generator"}
    lines, _ = told["two scales and feature matching"]
    assert lines[0]["features"] > 0.0
    assert 0.3 < lines[0]["discriminator"] < 1.5, "the mean over scales, so that a guess is log 2 whatever their number"
    lines, _ = told["r1 with spectral norm"]
    told_of = [line["r1"] for line in lines]
    assert told_of[0] == told_of[1] == told_of[2] != told_of[3], "made at every third step, the first included"


def _recipe(config: TrainConfig) -> Pix2Pix:
    return Pix2Pix(config, 3, 3, Fabric(accelerator="cpu", devices=1))


def _batch(*, masked: bool = False) -> Batch:
    random = torch.Generator().manual_seed(5)
    source, target = (torch.rand(2, 3, 64, 64, generator=random) * 2 - 1 for _ in range(2))
    if not masked:
        return Batch(source, target)
    mask = torch.ones(2, 1, 64, 64)
    mask[..., :20] = 0.0
    return Batch(source * mask, target * mask, mask)


def _first_layer(recipe: Pix2Pix) -> nn.Module:
    return recipe.networks["discriminator"].get_submodule("layers.0")


def _discriminator(recipe: Pix2Pix) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in recipe.networks["discriminator"].state_dict().items()}


def test_r1_is_lazy(tiny: Tiny) -> None:
    """Between its steps nothing differs from a run without it; at them the discriminator does."""
    after: dict[tuple[float, int], dict[str, Tensor]] = {}
    for gamma in (0.0, 5.0):
        for number in (16, 17):
            recipe = _recipe(tiny(loss__r1=gamma, discriminator__norm="none"))
            recipe.noise.manual_seed(0)
            losses = recipe.step([_batch()], number)
            assert ("r1" in losses) == (gamma > 0.0 and number == 16)
            after[gamma, number] = _discriminator(recipe)
    assert all(torch.equal(after[0.0, 17][key], value) for key, value in after[5.0, 17].items())
    assert any(not torch.equal(after[0.0, 16][key], value) for key, value in after[5.0, 16].items())


def test_r1_adds_its_gradient_times_gamma_and_interval(tiny: Tiny) -> None:
    """The discriminator's gradient is that of its loss and of gamma times the interval times the penalty."""
    from terramorph.losses import r1_penalty

    def gradients(gamma: float) -> list[Tensor]:
        recipe = _recipe(tiny(loss__r1=gamma, loss__r1_every=4, discriminator__norm="none", precision="fp32"))
        kept: list[Tensor] = []
        optimizer = recipe.optimizers["discriminator"]
        parameters = list(recipe.networks["discriminator"].parameters())
        optimizer.step = lambda: kept.extend(p.grad.clone() for p in parameters)  # type: ignore[method-assign]
        recipe.noise.manual_seed(0)
        recipe.step([_batch()], 0)
        return kept

    judge, batch = _recipe(tiny(discriminator__norm="none")).networks["discriminator"], _batch()
    penalty = 3.0 * 4 * r1_penalty(judge, torch.cat([batch.source, batch.target], dim=1))
    extra = torch.autograd.grad(penalty, list(judge.parameters()), allow_unused=True)
    for without, having, more in zip(gradients(0.0), gradients(3.0), extra, strict=True):
        torch.testing.assert_close(having, without if more is None else without + more)


def test_unconditional_is_blind_to_the_source(tiny: Tiny) -> None:
    first = {}
    for conditional in (True, False):
        recipe = _recipe(tiny(discriminator__conditional=conditional))
        seen: list[Tensor] = []
        _first_layer(recipe).register_forward_hook(lambda _m, inputs, _o, seen=seen: seen.append(inputs[0]))
        batch = _batch()
        recipe.step([batch])
        first[conditional] = seen[0]
    assert torch.equal(first[True], torch.cat([batch.source, batch.target], dim=1))
    assert torch.equal(first[False], batch.target)


def test_augmentation_is_the_same_for_real_and_made_pairs(tiny: Tiny) -> None:
    """The source is in both, so it shows that it is one change; the generator's turn has another."""
    recipe = _recipe(tiny(data__diffaugment="translation,cutout"))
    seen: list[Tensor] = []
    _first_layer(recipe).register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()))
    recipe.noise.manual_seed(0)
    recipe.step([_batch()])
    real, made, judged = (pair[:, :3] for pair in seen)
    assert torch.equal(real, made)
    assert not torch.equal(real, judged)
    assert not torch.equal(real, _batch().source)


@pytest.mark.parametrize("name", SWITCHES)
def test_what_lies_under_the_mask_is_not_learnt_from(name: str, tiny: Tiny) -> None:
    """The truth there, if it could be seen, would change nothing."""
    recipe = _recipe(tiny(**{"precision": "fp32", **SWITCHES[name]}))
    recipe.noise.manual_seed(0)
    batch = _batch(masked=True)
    made: list[Tensor] = []
    recipe.networks["generator"].register_forward_hook(lambda _m, _i, output: made.append(output))
    output = recipe._generate(batch)
    features = Features(batch, output.image, output.scores, recipe._change(batch))
    slope = torch.autograd.grad(sum(t.weight * t.value(batch, output.image, features) for t in recipe.terms), made[0])[
        0
    ]
    assert not slope[..., :20].any()
    assert slope[..., 20:].any()


def test_a_perceptual_loss_pulls_towards_the_truth(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, feature_weights: Path
) -> None:
    settings = {
        "loss__adversarial": "none",
        "loss__l1_weight": 0.0,
        "log__scalars": 1,
        "optimizer__learning_rate": 2e-3,
    }
    config = tiny(max_steps=12, loss__perceptual=1.0, loss__perceptual_weights=str(feature_weights), **settings)
    result = train(town_pairs, tmp_path / "run", config, cache=tmp_path)
    told = [line["perceptual"] for line in losses_of(tmp_path / "run")]
    assert sum(told[-3:]) < 0.9 * sum(told[:3])
    assert result.model is not None
    assert not any("squeeze" in key for key in load_file(result.model)), "feature weights are not bundled"
    moved = json.loads((tmp_path / "run" / "config.json").read_text())
    moved["config"]["loss"]["perceptual_weights"] = str(feature_weights / "." / "")
    (tmp_path / "run" / "config.json").write_text(json.dumps(moved))
    assert resume(tmp_path / "run", cache=tmp_path).finished, "where the weights lie is no setting of the training"


def test_a_perceptual_loss_without_weights_or_colours(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, feature_weights: Path
) -> None:
    config = tiny(loss__perceptual=1.0, loss__perceptual_weights=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"There is no lpips_squeeze_v01\.pth in .*nowhere"):
        train(town_pairs, tmp_path / "run", config, cache=tmp_path)
    (tmp_path / "grey" / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((128, 256), np.uint8)).save(tmp_path / "grey" / "train" / "1.png")
    config = tiny(loss__perceptual=1.0, loss__perceptual_weights=str(feature_weights))
    with pytest.raises(ConfigError, match="needs a target of red, green and blue, got 1 band"):
        train(tmp_path / "grey", tmp_path / "run", config, cache=tmp_path)
    assert not (tmp_path / "run").exists()
