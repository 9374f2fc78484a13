"""Metrics that compare two images pixel by pixel, one value per image.

All functions take prediction and truth, uint8 tensors ``(N, C, H, W)`` in [0, 255], and an optional bool mask
``(N, 1, H, W)`` that is True where a pixel counts; another shape or dtype is an InputError. They return float64
``(N,)`` on the device of the input. An image without a single valid pixel gets ``nan``: leave such images out before
averaging.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from terramorph.errors import InputError

PEAK = 255.0
PSNR_CAP = 100.0
"""PSNR of two identical images is infinite and would make every mean infinite, so all values stop at this
many dB.

For scale: one channel of one pixel off by one level in a 256 x 256 RGB image is 101 dB.
"""

_SSIM_RADIUS = 5  # a window of 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = (0.01 * PEAK) ** 2
_SSIM_C2 = (0.03 * PEAK) ** 2


def rmse(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the root of the mean squared error over valid pixels and all channels, in grey levels.

    Returns:
        float64 ``(N,)`` in [0, 255].
    """
    return _mean_squared_error(prediction, truth, mask).sqrt()


def psnr(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio ``10 log10(255^2 / MSE)``, MSE over valid pixels and all channels.

    Values above `PSNR_CAP` (100 dB), infinity for identical images among them, are returned as `PSNR_CAP`.

    Returns:
        float64 ``(N,)`` in dB, at most 100.
    """
    error = _mean_squared_error(prediction, truth, mask)
    return (10.0 * torch.log10(PEAK**2 / error)).clamp(max=PSNR_CAP)


def accuracy_within(prediction: Tensor, truth: Tensor, mask: Tensor | None = None, *, threshold: int) -> Tensor:
    """Return the share of valid pixels whose largest channel error is strictly under ``threshold`` grey levels.

    With thresholds of 5 and 10 these are the published "pixel accuracy" figures, acc5 and acc10.

    Args:
        threshold: Grey levels, 1 or more.

    Returns:
        float64 ``(N,)`` in [0, 1].

    Raises:
        InputError: A shape or dtype is not as above, or the threshold is under 1.
    """
    if threshold < 1:
        raise InputError(f"threshold must be >= 1 grey level, got {threshold}.")
    check(prediction, truth, mask)
    largest = (prediction.to(torch.int16) - truth.to(torch.int16)).abs().amax(dim=1, keepdim=True)
    return _masked_mean((largest < threshold).to(torch.float64), mask)


def ssim(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return structural similarity (Wang et al., "Image Quality Assessment", IEEE TIP 2004, eq. 13), mean over
    channels.

    ``SSIM = (2 mu_p mu_t + C1)(2 s_pt + C2) / ((mu_p^2 + mu_t^2 + C1)(s_p^2 + s_t^2 + C2))`` with a Gaussian
    window of 11, sigma 1.5, ``C1 = (0.01 * 255)^2``, ``C2 = (0.03 * 255)^2`` and reflected borders: what
    torchmetrics' ``structural_similarity_index_measure`` gives for ``data_range=255``. Computed in float64.

    Under a mask the local means and variances are taken over the valid pixels of each window (the Gaussian
    weights of the others are zero, and the rest renormalised), and the map is averaged over valid pixels. So
    what lies under the mask has no influence at all.

    Height and width are 6 or more.

    Returns:
        float64 ``(N,)`` in [-1, 1].
    """
    check(prediction, truth, mask)
    if min(prediction.shape[-2:]) <= _SSIM_RADIUS:
        raise InputError(
            f"SSIM looks at windows of 11 pixels, but the images are {prediction.shape[-1]} x "
            f"{prediction.shape[-2]}; each side must be {_SSIM_RADIUS + 1} or more."
        )
    # Image by image: the five filtered float64 maps of one 256 px image take 8 MB, those of a batch would
    # not stay cached.
    values = [
        _ssim_one(prediction[i : i + 1], truth[i : i + 1], None if mask is None else mask[i : i + 1])
        for i in range(prediction.shape[0])
    ]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64, device=truth.device)


def _ssim_one(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    p, t = prediction.to(torch.float64), truth.to(torch.float64)
    weight: Tensor | None = None
    if mask is not None and not bool(mask.all()):
        valid = mask.to(torch.float64)
        p, t = p * valid, t * valid
        weight = _blur(valid).clamp(min=1e-12)
    moments = _blur(torch.cat((p, t, p * p, t * t, p * t)))
    if weight is not None:
        moments = moments / weight
    mean_p, mean_t, square_p, square_t, product = moments.chunk(5)
    var_p = (square_p - mean_p**2).clamp(min=0.0)
    var_t = (square_t - mean_t**2).clamp(min=0.0)
    covariance = product - mean_p * mean_t
    upper = (2 * mean_p * mean_t + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    lower = (mean_p**2 + mean_t**2 + _SSIM_C1) * (var_p + var_t + _SSIM_C2)
    return _masked_mean((upper / lower).mean(dim=1, keepdim=True), mask)


def _blur(images: Tensor) -> Tensor:
    """Blur with a Gaussian of 11, sigma 1.5, reflected borders, in two one-dimensional passes; float64 ``(N, C, H,
    W)``."""
    h, w = images.shape[-2:]
    weights = [math.exp(-((d / _SSIM_SIGMA) ** 2) / 2) for d in range(-_SSIM_RADIUS, _SSIM_RADIUS + 1)]
    weights = [weight / sum(weights) for weight in weights]
    padded = F.pad(images, (_SSIM_RADIUS,) * 4, mode="reflect")
    # Shifted sums: torch's float64 convolution on a CPU is several times slower than eleven multiply-adds.
    rows = padded[..., :h, :] * weights[0]
    for i, weight in enumerate(weights[1:], start=1):
        rows.add_(padded[..., i : i + h, :], alpha=weight)
    both = rows[..., :w] * weights[0]
    for i, weight in enumerate(weights[1:], start=1):
        both.add_(rows[..., i : i + w], alpha=weight)
    return both


def _mean_squared_error(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    check(prediction, truth, mask)
    difference = prediction.to(torch.float64) - truth.to(torch.float64)
    return _masked_mean(difference.square().mean(dim=1, keepdim=True), mask)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of float64 ``(N, 1, H, W)`` over the valid pixels of each image: ``(N,)``, nan without any."""
    if mask is None:
        return values.flatten(1).mean(dim=1)
    valid = mask.flatten(1)
    return torch.where(valid, values.flatten(1), 0.0).sum(dim=1) / valid.sum(dim=1)


def check(prediction: Tensor, truth: Tensor, mask: Tensor | None, dtype: torch.dtype = torch.uint8) -> None:
    """Refuse anything but two tensors of one shape (N, C, H, W) and of this dtype, and a mask that fits.

    Raises:
        InputError: A shape or dtype is not so.
    """
    if prediction.dtype != dtype or truth.dtype != dtype:
        raise InputError(f"This metric compares {dtype}, but got {prediction.dtype} and {truth.dtype}.")
    if prediction.ndim != 4 or prediction.shape != truth.shape:
        raise InputError(
            f"A metric needs two tensors of one shape (N, C, H, W), but got {tuple(prediction.shape)} and "
            f"{tuple(truth.shape)}."
        )
    expected = (prediction.shape[0], 1, *prediction.shape[2:])
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != expected):
        raise InputError(f"The mask must be bool {expected} beside these, but it is {mask.dtype} {tuple(mask.shape)}.")
