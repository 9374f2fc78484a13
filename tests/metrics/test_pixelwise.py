from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from terramorph.errors import InputError
from terramorph.metrics import METRICS, PSNR_CAP, accuracy_within, psnr, rmse, ssim

acc5, acc10 = METRICS["acc5"].compute, METRICS["acc10"].compute


def images(seed: int, n: int = 2, c: int = 3, h: int = 33, w: int = 41) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=generator)


def test_identical_images_are_perfect_and_finite() -> None:
    a = images(0)
    assert psnr(a, a).tolist() == [PSNR_CAP, PSNR_CAP]
    assert rmse(a, a).tolist() == [0.0, 0.0]
    assert acc5(a, a).tolist() == [1.0, 1.0]
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shift", "within5", "within10"), [(4, 1.0, 1.0), (5, 0.0, 1.0), (9, 0.0, 1.0), (10, 0.0, 0.0)]
)
def test_constant_shift(shift: int, within5: float, within10: float) -> None:
    a = images(1).clamp(max=200)
    b = a + shift
    assert rmse(b, a).tolist() == [shift, shift]
    torch.testing.assert_close(psnr(b, a), torch.full((2,), 20 * math.log10(255 / shift), dtype=torch.float64))
    assert acc5(b, a).tolist() == [within5] * 2
    assert acc10(a, b).tolist() == [within10] * 2


def test_accuracy_looks_at_the_worst_channel() -> None:
    a = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    b = a.clone()
    b[0, 2, :4] = 200  # one channel of half the pixels
    assert acc5(b, a).item() == 0.5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ssim_equals_torchmetrics(channels: int) -> None:
    truth = images(2, c=channels)
    noise = images(3, c=channels) // 8
    prediction = truth // 2 + noise
    expected = structural_similarity_index_measure(
        prediction.double(), truth.double(), data_range=255.0, reduction="none"
    )
    torch.testing.assert_close(ssim(prediction, truth), expected, rtol=0, atol=1e-9)


def test_what_lies_under_the_mask_has_no_influence() -> None:
    truth, prediction = images(4), images(5)
    mask = torch.ones(2, 1, 33, 41, dtype=torch.bool)
    mask[:, :, 10:20, 5:15] = False
    other = torch.where(mask, prediction, images(6))
    for metric in (psnr, rmse, acc5, acc10, ssim):
        torch.testing.assert_close(metric(prediction, truth, mask), metric(other, truth, mask), msg=str(metric))
        full = torch.ones_like(mask)
        torch.testing.assert_close(metric(prediction, truth, full), metric(prediction, truth))


def test_masked_pixels_do_not_count() -> None:
    truth = images(7, n=1).clamp(max=200)
    prediction = truth + 3
    prediction[..., :20] = 255
    mask = torch.ones(1, 1, 33, 41, dtype=torch.bool)
    mask[..., :20] = False
    assert rmse(prediction, truth, mask).item() == 3.0
    assert acc5(prediction, truth, mask).item() == 1.0
    assert ssim(prediction, truth, mask).item() > 0.99


def test_nothing_valid_is_nan() -> None:
    mask = torch.zeros(2, 1, 33, 41, dtype=torch.bool)
    mask[0] = True
    for metric in (psnr, rmse, acc5, ssim):
        values = metric(images(8), images(9), mask)
        assert values.isnan().tolist() == [False, True]


def test_no_images_no_values() -> None:
    assert ssim(images(0, n=0), images(0, n=0)).shape == (0,)


def test_wrong_inputs_are_named() -> None:
    a = images(0)
    with pytest.raises(InputError, match="uint8"):
        psnr(a.float(), a.float())
    with pytest.raises(InputError, match="one shape"):
        rmse(a, a[:1])
    with pytest.raises(InputError, match="mask must be bool"):
        ssim(a, a, torch.ones(2, 1, 33, 41))
    with pytest.raises(InputError, match="windows of 11"):
        ssim(a[..., :5], a[..., :5])
    with pytest.raises(InputError, match="threshold"):
        accuracy_within(a, a, threshold=0)
