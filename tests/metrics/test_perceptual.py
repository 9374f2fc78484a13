from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics import BACKBONE_FILE, HEADS_FILE, Lpips, perceptual

CHANNELS = (64, 128, 256, 384, 384, 512, 512)
SHARED_WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_have_the_documented_shapes(feature_weights: Path) -> None:
    found = Lpips.from_folder(feature_weights).look(uniform(0, 2, 3, 64, 48))
    assert [t.shape[1] for t in found.slices] == list(CHANNELS)
    assert [tuple(t.shape[2:]) for t in found.slices] == [
        (31, 23),
        (15, 11),
        (7, 5),
        (3, 2),
        (3, 2),
        (3, 2),
        (3, 2),
    ]
    assert found.pooled.shape == (2, 512)
    torch.testing.assert_close(found.pooled, found.slices[-1].mean(dim=(2, 3)))


def test_identical_is_zero_different_is_not(feature_weights: Path) -> None:
    lpips = Lpips.from_folder(feature_weights)
    a, b = uniform(1, 2, 3, 32, 32), uniform(2, 2, 3, 32, 32)
    assert lpips(a, a).tolist() == [0.0, 0.0]
    assert bool((lpips(a, b) > 0).all())
    torch.testing.assert_close(lpips(a, b), lpips(b, a))


def test_one_image_is_compared_with_all(feature_weights: Path) -> None:
    lpips = Lpips.from_folder(feature_weights)
    one, many = uniform(3, 1, 3, 32, 32), uniform(4, 3, 3, 32, 32)
    found = perceptual.lpips(lpips.look(one), lpips.look(many))
    torch.testing.assert_close(found, lpips(one.expand(3, -1, -1, -1), many))


def test_wrong_images_are_refused(feature_weights: Path) -> None:
    lpips = Lpips.from_folder(feature_weights)
    a = uniform(5, 1, 3, 32, 32)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        lpips(a * 255, a)
    with pytest.raises(InputError, match="float32"):
        lpips(a.byte(), a.byte())
    with pytest.raises(InputError, match="one shape"):
        lpips(a, a[..., :20])
    with pytest.raises(InputError, match="17 pixels"):
        lpips.look(a[..., :10])


def test_missing_and_wrong_files_are_named(feature_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=HEADS_FILE):
        Lpips.from_folder(tmp_path)
    (tmp_path / HEADS_FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="or a damaged one"):
        Lpips.from_folder(tmp_path)
    torch.save({"other": torch.zeros(1)}, tmp_path / HEADS_FILE)
    with pytest.raises(InputError, match="lacks the tensor lin0"):
        Lpips.from_folder(tmp_path)
    (tmp_path / HEADS_FILE).write_bytes((feature_weights / HEADS_FILE).read_bytes())
    with pytest.raises(InputError, match=BACKBONE_FILE):
        Lpips.from_folder(tmp_path)
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / BACKBONE_FILE)
    with pytest.raises(InputError, match=r"SqueezeNet 1\.1"):
        Lpips.from_folder(tmp_path)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_WEIGHTS.is_dir(), reason="no shared weights beside the project")
def test_the_documented_example_of_torchmetrics() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)  # the documented example draws from the global generator
        a = torch.rand(10, 3, 100, 100) * 2 - 1
        b = torch.rand(10, 3, 100, 100) * 2 - 1
    assert Lpips.from_folder(SHARED_WEIGHTS)(a, b).mean().item() == pytest.approx(0.1008, abs=5e-5)
