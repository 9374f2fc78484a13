from __future__ import annotations

import numpy as np
import pytest

from terramorph.bands import Units, band_order, colour_of, colours_first, unknown_bands


@pytest.mark.parametrize(
    ("name", "colour"),
    [("Red", "red"), ("B4 (Red)", "red"), ("Near Infrared", "nir"), ("near infra-red", "nir"), ("NIR08", "nir"),
     ("red edge 1", None), ("Red_Edge", None), ("shortwave infrared", None), ("red/green", None), ("B04", None)],
)  # fmt: skip
def test_the_colour_that_a_name_says(name, colour):
    assert colour_of(name) == colour


@pytest.mark.parametrize(
    ("have", "wanted", "order"),
    [
        ("red green blue", "red green blue", [0, 1, 2]),
        ("blue green red", "red green blue", [2, 1, 0]),
        ("red green blue", "blue green red", [2, 1, 0]),
        ("B2-Blue B3-Green B4-Red B8-NIR", "red green blue nir", [2, 1, 0, 3]),
        ("red green blue nir", "nir red green", [3, 0, 1]),
        ("red green blue nir", "band1 band2 band3 band4", [0, 1, 2, 3]),
        ("blue green red band4", "red green blue band4", [2, 1, 0, 3]),
        ("VH VV", "vv vh", [1, 0]),
        ("a b", "c d", [0, 1]),
        ("red green blue", "nir red green", [0, 1, 2]),  # three bands without names are called so
        ("blue green nir", "red green blue", None),
        ("band1 band2 band3 band4", "band1", None),
        ("band1 band2 band3 band4", "red green blue", None),
        ("red green", "red green blue", None),
    ],
)
def test_names_decide_which_band_is_which(have, wanted, order):
    assert band_order(have.split(), wanted.split()) == order


@pytest.mark.parametrize(
    ("have", "wanted", "unknown"),
    [
        ("B02 B03 B04", "red green blue", "B02 B03 B04"),  # blue, green and red of Sentinel-2
        ("B3 B2 B1", "red green blue", "B3 B2 B1"),
        ("Band_1 Layer2 3", "red green blue", ""),
        ("band2 band1 band3", "red green blue", "band2 band1"),
        ("Blue Green Red VH", "red green blue vh", ""),
        ("B02 B03 B04", "b04 b03 b02", ""),
        ("B02 B03 B04 B08", "band1 band2 band3 band4", ""),
    ],
)
def test_names_that_say_nothing_of_the_bands_wanted(have, wanted, unknown):
    assert unknown_bands(have.split(), wanted.split()) == unknown.split()


def test_colours_come_first_in_pairs():
    assert colours_first(("blue", "green", "red", "nir")) == [2, 1, 0, 3]
    assert colours_first(("nir", "red", "green")) == [0, 1, 2]


def test_units_that_differ_by_whole_steps_convert_without_loss():
    new, old = Units((1e-4,) * 2, (-0.1,) * 2), Units((1e-4,) * 2, (0.0,) * 2)
    stored = np.array([[1000, 1001, 65535], [5000, 999, 0]], np.uint16)
    assert new.convert(stored, old).tolist() == [[0, 1, 64535], [4000, 0, 0]], "what is under 0 is cut off"
    floats = stored.astype(np.float32)
    assert Units((0.5, 0.5), (1, 1)).convert(floats, Units((1, 1), (0, 0)))[0].tolist() == [501, 501.5, 32768.5]
    assert Units.of((1, 1), (0, 0)) is None
