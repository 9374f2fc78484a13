from __future__ import annotations

import numpy as np
import pytest

from terramorph.cartography import CLASSES, PALETTE, classify
from terramorph.errors import RasterError


def test_palette_is_that_of_the_protocol():
    assert dict(zip(CLASSES, PALETTE.tolist(), strict=True)) == {
        "land": [232, 228, 220],
        "building": [242, 241, 235],
        "road": [254, 254, 253],
        "highway": [252, 164, 44],
        "arterial": [252, 228, 116],
        "park": [203, 223, 175],
        "water": [178, 209, 254],
    }


@pytest.mark.parametrize("size", [(50, 40), (3, 700), (70_000, 2)])
def test_classify_is_the_nearest_colour(size):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = ((rgb[:, :, None].astype(int) - PALETTE.astype(int)) ** 2).sum(-1).argmin(-1)
    assert np.array_equal(classify(rgb), expected)
    if size[0] != 3:
        assert np.array_equal(classify(rgb.transpose(2, 0, 1)), expected)
    assert classify(rgb).dtype == np.uint8


def test_palette_colours_are_their_own_classes():
    assert classify(PALETTE[None]).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_not_rgb_is_refused(bad):
    with pytest.raises(RasterError):
        classify(bad)
