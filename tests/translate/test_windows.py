"""Windows cover everything once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from terramorph.translate.windows import run_windows, spans


@pytest.mark.parametrize("length", [1, 100, 256, 257, 300, 511, 512, 1000, 1543])
@pytest.mark.parametrize("halo", [None, 12, 60])
def test_shares_add_up_to_one(length: int, halo: int | None) -> None:
    plan = spans(length, 256, halo=halo, align=4, overlap=64)
    total = torch.zeros(length)
    for span in plan:
        assert span.start % 4 == 0
        assert span.stop - span.start <= 256
        total[span.start : span.stop] += span.weights
        if halo is not None:
            used = span.weights.nonzero().flatten() + span.start
            assert int(used.min()) - span.start >= halo or span.start == 0
            assert span.stop - 1 - int(used.max()) >= halo or span.stop == length
    assert torch.allclose(total, torch.ones(length))
    assert plan[0].start == 0
    assert plan[-1].stop == length


def test_no_room() -> None:
    with pytest.raises(ValueError, match="too small"):
        spans(1000, 100, halo=50, align=4, overlap=10)


@pytest.mark.parametrize("halo", [None, 8])
def test_an_image_goes_through_unchanged(halo: int | None) -> None:
    image = torch.rand(2, 203, 150, generator=torch.Generator().manual_seed(0))
    out = torch.zeros_like(image)
    seen = []

    def run(rows: slice, columns: slice) -> Tensor:
        return image[:, rows, columns]

    def write(rows: slice, part: Tensor) -> None:
        seen.append((rows.start, rows.stop))
        out[:, rows] = part

    plans = [spans(n, 64, halo=halo, align=4, overlap=16) for n in (203, 150)]
    run_windows(*plans, 2, run, write)
    assert torch.allclose(out, image, atol=1e-6)
    assert seen[0][0] == 0
    assert seen[-1][1] == 203
    assert all(a[1] == b[0] for a, b in pairwise(seen))
