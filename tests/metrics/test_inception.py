from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics import INCEPTION_FILE, METRICS, InceptionFeatures
from terramorph.metrics.inception import Block, average, maximum, resize


def random_state() -> dict[str, Tensor]:
    """Weights that keep the signal alive through all layers, and statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    state = dict(sorted(InceptionFeatures().trunk.state_dict().items()))
    for name, value in state.items():
        if name.endswith("conv.weight"):
            state[name] = torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel())
        elif name.endswith(("bn.weight", "running_var")):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif name.endswith(("bn.bias", "running_mean")):
            state[name] = torch.randn(value.shape, generator=generator) * 0.2
    return state


def waves(seed: int, count: int, height: int = 64, width: int = 64) -> Tensor:
    """Smooth images, uint8 ``(count, 3, height, width)``, each another."""
    r = torch.rand(3, count, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    y, x = torch.linspace(0, 20, height).view(-1, 1), torch.linspace(0, 20, width)
    return (127 + 127 * torch.sin(r[0] * y + r[1] * x + 6 * r[2])).byte()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder; the file has a classifier and no counters."""
    folder = tmp_path_factory.mktemp("inception")
    state = {name: value for name, value in random_state().items() if not name.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, folder / INCEPTION_FILE)
    return folder


@pytest.fixture(scope="module")
def inception(folder: Path) -> InceptionFeatures:
    return InceptionFeatures.from_folder(folder)


def test_the_architecture_is_inception_v3(inception: InceptionFeatures) -> None:
    # torchvision states 27,161,264 parameters for Inception-v3; without the auxiliary classifier and fc:
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 * 1000 + 1000)
    expected = 27_161_264 - auxiliary - (2048 * 1000 + 1000)
    assert sum(p.numel() for p in inception.parameters()) == expected == 21_785_568
    shapes = {name: tuple(value.shape) for name, value in inception.trunk.state_dict().items()}
    assert sum(name.endswith("conv.weight") for name in shapes) == 94
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6a.branch3x3dbl_3.bn.running_var"] == (96,)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert not inception.training


def test_features_are_those_of_torch_fidelity(inception: InceptionFeatures) -> None:
    # From torch-fidelity 0.3.0 (FeatureExtractorInceptionV3, another port) on these weights and images.
    found = inception(waves(0, 1, 80, 50))
    assert found.shape == (1, 2048)
    assert found.dtype == torch.float32
    assert found[0, [0, 500, 1000, 1500, 2047]].tolist() == pytest.approx(
        [1.168839, 4.143755, 0.0, 1.160344, 3.858028], rel=1e-4, abs=1e-4
    )
    assert found.mean().item() == pytest.approx(2.276019, rel=1e-4)


def test_the_last_block_stacks_its_branches_and_pools_by_maximum(inception: InceptionFeatures) -> None:
    x = torch.rand(1, 2048, 3, 3, generator=torch.Generator().manual_seed(1))
    for name, pool in (("Mixed_7b", average), ("Mixed_7c", maximum)):
        block = inception.trunk.get_submodule(name)
        assert isinstance(block, Block)
        child = block.get_submodule
        x = x[:, : 1280 if name == "Mixed_7b" else 2048]
        middle = child("branch3x3_1")(x)
        double = child("branch3x3dbl_2")(child("branch3x3dbl_1")(x))
        expected = (
            child("branch1x1")(x),
            child("branch3x3_2a")(middle),
            child("branch3x3_2b")(middle),
            child("branch3x3dbl_3a")(double),
            child("branch3x3dbl_3b")(double),
            child("branch_pool")(pool(x)),
        )
        x = block(x)
        torch.testing.assert_close(x, torch.cat(expected, dim=1))


def test_pools_do_not_count_padding() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3) - 20
    assert average(x)[0, 0].tolist() == [[-18.0, -17.5, -17.0], [-16.5, -16.0, -15.5], [-15.0, -14.5, -14.0]]
    assert maximum(x)[0, 0].tolist() == [[-16.0, -15.0, -15.0], [-13.0, -12.0, -12.0], [-13.0, -12.0, -12.0]]


@pytest.mark.parametrize(("height", "width", "side"), [(4, 7, 11), (9, 23, 6), (5, 5, 5), (1, 2, 3)])
def test_resizing_is_that_of_tensorflow_1(height: int, width: int, side: int) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (height, width))
    expected = np.empty((side, side))
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            corners = image[np.ix_([top, min(top + 1, height - 1)], [left, min(left + 1, width - 1)])]
            expected[i, j] = np.array([top + 1 - y, y - top]) @ corners @ np.array([left + 1 - x, x - left])
    found = resize(torch.from_numpy(image).float()[None, None], side)[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_fid_is_that_of_torchmetrics(inception: InceptionFeatures) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.image.fid import FrechetInceptionDistance

        theirs = FrechetInceptionDistance(feature=Few(inception))
    truth = waves(2, 3)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    noisy = (truth + 40 * noise).clamp(0, 255).byte()
    theirs.update(truth, real=True)
    theirs.update(noisy, real=False)
    fid = METRICS["fid"]
    assert fid.figure is not None
    features = Few(inception)(noisy), Few(inception)(truth)
    found = fid.figure(fid.compute(*features, None))
    assert found == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert found > 1
    with pytest.raises(InputError, match="two images"):
        fid.figure(fid.compute(features[0][:1], features[1][:1], None))


class Few(torch.nn.Module):
    """An eighth of the features, of which distances are quick to compute, as torchmetrics takes them."""

    num_features = 256

    def __init__(self, inception: InceptionFeatures) -> None:
        super().__init__()
        self.inception = inception

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inception(images)
        return found[:, ::8]


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_other_images_are_refused(inception: InceptionFeatures, images: Tensor) -> None:
    with pytest.raises(InputError, match="uint8 images"):
        inception(images)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_damaged_file_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / INCEPTION_FILE
    with pytest.raises(InputError, match="no pt_inception"):
        InceptionFeatures.from_folder(tmp_path)
    torch.save({"a": torch.zeros(50)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for damaged in (b"", whole[:60], whole[:-40], b"\x80\x02" + b"u" * 40, b"<html>not found</html>"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="or a damaged one; download it again") as caught:
            InceptionFeatures.from_folder(tmp_path)
        assert "weights_only" not in str(caught.value)  # torch's advice is to run the code in the file


def test_other_weights_are_refused(tmp_path: Path) -> None:
    # One number stands for all of a tensor, so that the files are small.
    own = {name: torch.ones(()).expand(v.shape) for name, v in InceptionFeatures().trunk.state_dict().items()}
    first = "Conv2d_1a_3x3.conv.weight"
    cases: dict[str, object] = {
        "not a state dict": [torch.zeros(1)],
        "lacks the tensor Mixed_7c.branch_pool.bn.bias": {
            k: v for k, v in own.items() if k != "Mixed_7c.branch_pool.bn.bias"
        },
        r"\(3, 32, 3, 3\) instead of .*\(32, 3, 3, 3\)": own | {first: torch.zeros(3, 32, 3, 3)},
        "not finite": own | {first: torch.full((32, 3, 3, 3), math.nan)},
        "holds a tensor AuxLogits.fc.bias": own | {"AuxLogits.fc.bias": torch.zeros(1000)},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / INCEPTION_FILE)
        with pytest.raises(InputError, match=message):
            InceptionFeatures.from_folder(tmp_path)
