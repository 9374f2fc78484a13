"""Stored values <-> [-1, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from terramorph.errors import InputError
from terramorph.pixels import BYTE, Scaling, image_to_unit, unit_to_image


def test_every_byte_survives_the_round_trip() -> None:
    stored = torch.arange(256, dtype=torch.uint8)
    unit = BYTE.to_unit(stored)
    assert unit.dtype == torch.float32
    assert unit[0] == -1.0
    assert unit[255] == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(BYTE.from_unit(unit), stored)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint16", 100.0, 3000.0), ("float32", -25.0, 5.0), ("int16", -500.0, 500.0)]
)
def test_other_ranges_are_scaled_and_clipped(dtype: str, low: float, high: float) -> None:
    scaling = Scaling(dtype, low, high)
    stored = (
        torch.tensor([low - 50.0, low, (low + high) / 2, high, high + 50.0]).clamp_min(-600).to(getattr(torch, dtype))
    )
    unit = scaling.to_unit(stored)
    assert unit.tolist() == pytest.approx([-1.0, -1.0, 0.0, 1.0, 1.0], abs=1e-5)
    assert scaling.from_unit(unit).tolist() == pytest.approx([low, low, (low + high) / 2, high, high], abs=1e-3)


def test_to_unit_leaves_its_argument_alone() -> None:
    stored = torch.tensor([0.0, 1.0])
    Scaling("float32", 0.0, 1.0).to_unit(stored)
    assert stored.tolist() == [0.0, 1.0]


def test_an_empty_range_and_an_unknown_dtype_are_refused() -> None:
    with pytest.raises(InputError, match="low must be under high"):
        Scaling("uint16", 5.0, 5.0)
    with pytest.raises(InputError, match="complex64 are not supported"):
        Scaling("complex64")


def test_an_image_of_the_wrong_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="uint16 and the model takes uint8"):
        image_to_unit(np.zeros((3, 4, 4), np.uint16))


def test_image_round_trip() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    assert np.array_equal(unit_to_image(image_to_unit(image)), image)


@pytest.mark.filterwarnings("error")
def test_an_array_that_may_not_be_written_is_read() -> None:
    pixels = np.frombuffer(bytes(range(12)), np.uint8).reshape(3, 2, 2)
    torch.set_warn_always(True)
    try:
        assert image_to_unit(pixels)[0, 0, 0, 0] == -1.0
    finally:
        torch.set_warn_always(False)
