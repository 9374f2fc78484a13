"""Distances between a set of predictions and the set of truths, behind FD, KD and FID.

FD and KD are computed on globally pooled SqueezeNet features (512-d, see `perceptual`), FID on those of `inception`. FD
has the formula of FID but not its features, its scale is another, and it is never to be called FID.
"""

from __future__ import annotations

import torch
from torch import Tensor

from terramorph.errors import InputError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance between normal distributions fitted to two sets of features.

    ``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` (Dowson and Landau 1982; as FID: Heusel et al.,
    arXiv:1706.08500, eq. 6), with unbiased covariances. The trace of the root is exact and needs no general
    matrix square root: ``S_a S_b`` has the eigenvalues of the symmetric ``S_a^(1/2) S_b S_a^(1/2)``.

    With fewer than about ten times as many images as dimensions the value is biased upwards: compare only
    values from sets of one size.

    Args:
        a: Float ``(N, D)``, N at least 2. Computed in float64 on the CPU.
        b: Float ``(M, D)``, M at least 2.

    Returns:
        0 or more.

    Raises:
        InputError: A shape is not as above, or a value is not finite.
    """
    a, b = _features(a, b)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    product = root_a @ cov_b @ root_a
    # Symmetric up to rounding; eigh reads one triangle only, so make both the same.
    root_trace = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0.0).sqrt().sum()
    distance = (a.mean(dim=0) - b.mean(dim=0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under the cubic kernel ``k(x, y) = (x.y / D + 1)^3``.

    The estimator of KID (Binkowski et al., arXiv:1801.01401, eq. 4) on every image once, without random subsets.
    Unbiased whatever the size of the sets, so it can be slightly negative.

    Args:
        a: Float ``(N, D)``, N at least 2. Computed in float64 on the CPU.
        b: Float ``(M, D)``, M at least 2.

    Returns:
        The squared discrepancy, zero in expectation for two samples of one distribution.

    Raises:
        InputError: A shape is not as above, or a value is not finite.
    """
    a, b = _features(a, b)
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - float(_cubic((a * a).sum(dim=1), a.shape[1]).sum())) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - float(_cubic((b * b).sum(dim=1), b.shape[1]).sum())) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def _features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(
            f"A distance between sets needs features (N, D) and (M, D) of two images or more each, but got "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise InputError("A feature is not a finite number, so the distance between the sets is not defined.")
    return a, b


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    """Sum k over all pairs, a thousand rows at a time so that memory stays bounded."""
    blocks = (a[start : start + 1024] for start in range(0, len(a), 1024))
    return sum((float(_cubic(rows @ b.T, a.shape[1]).sum()) for rows in blocks), 0.0)


def _cubic(products: Tensor, dimensions: int) -> Tensor:
    return (products / dimensions + 1.0) ** 3
