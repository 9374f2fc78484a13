from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics import frechet_distance, kernel_distance


def normal(seed: int, n: int, d: int = 12) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_equals_scipy() -> None:
    a, b = normal(0, 60), normal(1, 40) @ normal(2, 12) + 0.5
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(scipy.linalg.sqrtm((cov_a @ cov_b).numpy()).real.copy())
    gap = (a.mean(0) - b.mean(0)).square().sum()
    expected = gap + cov_a.trace() + cov_b.trace() - 2 * root.trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_of_a_shift_is_its_square() -> None:
    a = normal(3, 50)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, a + 2.0) == pytest.approx(4.0 * 12, rel=1e-9)


def test_frechet_with_more_dimensions_than_images_and_with_a_constant() -> None:
    a = normal(4, 5, 20)
    constant = torch.ones(5, 20)
    expected = (a.mean(0) - 1).square().sum() + torch.cov(a.T).trace()
    assert frechet_distance(a, constant) == pytest.approx(expected.item(), rel=1e-6)


def test_kernel_distance_equals_the_sum_written_out() -> None:
    a, b = normal(5, 7), normal(6, 9) + 0.3
    k = lambda x, y: ((x @ y).item() / 12 + 1) ** 3  # noqa: E731
    within_a = sum(k(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_b = sum(k(b[i], b[j]) for i in range(9) for j in range(9) if i != j) / 72
    across = sum(k(x, y) for x in a for y in b) / 63
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_about_zero() -> None:
    same = kernel_distance(normal(7, 400), normal(8, 400))
    other = kernel_distance(normal(7, 400), normal(8, 400) + 1)
    assert abs(same) < 0.05 < other


def test_wrong_features_are_refused() -> None:
    with pytest.raises(InputError, match="two images"):
        frechet_distance(normal(0, 1), normal(0, 5))
    with pytest.raises(InputError, match="two images"):
        kernel_distance(normal(0, 5, 3), normal(0, 5, 4))
    with pytest.raises(InputError, match="finite"):
        frechet_distance(normal(0, 5) / 0, normal(0, 5))
