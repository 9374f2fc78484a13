from __future__ import annotations

import numpy as np
import pytest

from terramorph.errors import InputWarning
from terramorph.raster.values import Suspects, tell_suspects


def suspects(*parts: np.ndarray) -> list[float]:
    found = Suspects()
    for part in parts:
        found.add(part)
    return found.found()


HEIGHTS = np.linspace(120, 300, 99, dtype=np.float32)


@pytest.mark.parametrize("value", [-9999, -32768, -3.4028234663852886e38, 1e20, 9.969209968386869e36, -99999])
def test_usual_values_of_no_data_far_from_all_others_are_found(value):
    assert suspects(HEIGHTS, np.append(HEIGHTS, np.float32(value))) == [np.float32(value)]
    assert suspects(np.full(9, value, np.float32), HEIGHTS) == [np.float32(value)]


def test_two_of_them_are_found():
    assert suspects(np.concatenate([HEIGHTS, np.float32([-9999, 3.4e38, -9999])])) == [-9999, np.float32(3.4e38)]
    assert suspects(np.array([-32768, 3, 90], np.int16)) == [-32768]


def test_what_may_be_measured_is_not_found():
    assert suspects(np.linspace(-9999, 9999, 50, dtype=np.float32)) == []
    assert suspects(np.array([0, 3, 255], np.uint8)) == []
    assert suspects(np.full(9, -9999, np.float32)) == [], "nothing to compare it with"
    assert suspects(np.array([0, 100, 200, 5000], np.float32)) == []


def test_a_suspect_is_told():
    found = Suspects()
    found.add(np.append(HEIGHTS, np.float32(-9999)))
    with pytest.warns(InputWarning, match=r"the image are -9999, .*give it as nodata"):
        tell_suspects(found.found(), "the image")
