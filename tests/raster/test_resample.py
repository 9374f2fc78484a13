"""Resizing pixels of which some hold no data."""

from __future__ import annotations

import numpy as np
import pytest

from terramorph.raster.resample import resize_masked, resize_pixels

METHODS = ("bicubic", "bilinear", "nearest")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("size", [(20, 30), (64, 64), (40, 40)])
def test_a_constant_with_a_hole_stays_that_constant(method, dtype, size):
    pixels = np.full((2, 40, 40), 97, dtype)
    pixels[1] = 5
    mask = np.ones((40, 40), bool)
    mask[:, :11], mask[20, 25] = False, False
    pixels[:, ~mask] = np.nan if dtype == "float32" else np.iinfo(dtype).max
    resized, valid = resize_masked(pixels, mask, *size, method)
    assert resized.dtype == dtype
    assert resized.shape == (2, *size)
    assert valid.dtype == np.bool_
    assert np.array_equal(resized, np.broadcast_to(np.array([97, 5], dtype)[:, None, None], resized.shape))
    assert 0.5 < valid.mean() < 0.75
    assert not valid[:, : size[1] // 5].any()
    assert valid[:, size[1] // 3].all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_without_a_hole_it_is_the_plain_resize(method, dtype):
    pixels = RNG.integers(0, 256, (3, 33, 41)).astype(dtype)
    resized, valid = resize_masked(pixels, np.ones((33, 41), bool), 20, 50, method)
    assert np.array_equal(resized, resize_pixels(pixels, 20, 50, method))
    assert valid.shape == (20, 50)
    assert valid.all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_far_from_a_hole_it_is_the_plain_resize(dtype):
    pixels = RNG.integers(0, 256, (1, 60, 60)).astype(dtype)
    mask = np.ones((60, 60), bool)
    mask[:, :10] = False
    resized, valid = resize_masked(pixels, mask, 30, 30)
    plain = resize_pixels(pixels, 30, 30)
    assert valid[:, 12:].all()
    assert np.abs(resized.astype(float) - plain.astype(float))[:, :, 12:].max() <= (1 if dtype == "uint8" else 0.01)


def test_a_speck_in_a_large_footprint_does_not_make_a_hole_and_does_not_count():
    pixels, mask = np.full((1, 256, 256), 10, np.uint8), np.ones((256, 256), bool)
    mask[100, 100], pixels[0, 100, 100] = False, 255
    resized, valid = resize_masked(pixels, mask, 8, 8)
    assert valid.all()
    assert (resized == 10).all()


def test_of_the_same_size_only_the_hole_changes():
    pixels = RNG.normal(size=(2, 9, 9)).astype(np.float32)
    mask = RNG.random((9, 9)) > 0.4
    resized, valid = resize_masked(pixels, mask, 9, 9)
    assert np.array_equal(valid, mask)
    assert np.array_equal(resized[:, mask], pixels[:, mask])
    for band in range(2):
        assert np.allclose(resized[band, ~mask], pixels[band, mask].mean(dtype=np.float64))


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_the_highest_integer_does_not_turn_over(dtype):
    full = np.full((1, 4, 4), np.iinfo(dtype).max, dtype)
    assert (resize_pixels(full, 8, 8) == full[0, 0, 0]).all()


def test_nothing_real_is_zeros_and_no_warning():
    resized, valid = resize_masked(np.full((1, 8, 8), np.nan, np.float32), np.zeros((8, 8), bool), 5, 5)
    assert not valid.any()
    assert (resized == 0).all()
