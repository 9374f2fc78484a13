"""Windows cover everything once, and their outputs become one image again."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.seams import borders_of

from terramorph.errors import ConfigError
from terramorph.geo.cover import Cover, Window


def noise(bands: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((bands, height, width), np.float32)


def joined(cover: Cover, image: NDArray[Any], missing: tuple[int, ...] = ()) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image that went through the windows unchanged, and the weights."""
    out, share = np.full_like(image, np.nan), np.full(image.shape[1:], np.nan, np.float32)
    for rows, values, weight in cover.join(
        lambda w: None if w.number in missing else image[:, *w.seen][:, *w.inner], len(image)
    ):
        out[:, rows], share[rows] = values, weight
    return out, share


@pytest.mark.parametrize("length", [1, 100, 256, 257, 300, 511, 512, 1000, 1543])
@pytest.mark.parametrize("halo", [None, 12, 60])
@pytest.mark.parametrize("offset", [0, 4, 64, 180, 1000])
def test_shares_add_up_to_one(length: int, halo: int | None, offset: int) -> None:
    cover = Cover(length, 1, 256, halo=halo, overlap=64, align=4, offset=(offset, 0))
    total = np.zeros(length)
    shared = 64 if halo is None else 2 * halo
    assert min(length, shared + 1) <= cover.rows[-1].stop - cover.rows[-1].start <= 256
    for span in cover.rows:
        assert span.start % 4 == 0
        if span is not cover.rows[-1]:
            assert span.stop - span.start == 256
        total[span.start : span.stop] += span.weights
        used = span.weights.nonzero()[0] + span.start
        assert (int(used[0]), int(used[-1]) + 1) == (span.first, span.last)
        if halo is not None:
            assert span.first - span.start >= halo or span.start == 0
            assert span.stop - span.last >= halo or span.stop == length
    assert np.allclose(total, 1.0, atol=1e-6)
    assert cover.rows[0].start == 0
    assert cover.rows[-1].stop == length


def test_the_lattice_begins_at_minus_the_offset() -> None:
    plain, moved = (Cover(1000, 1000, 256, overlap=56, align=4, offset=o) for o in ((0, 0), (100, 240)))
    assert [span.start for span in plain.rows] == [0, 200, 400, 600, 800]
    assert [span.start for span in moved.rows] == [0, 100, 300, 500, 700, 900]
    assert [span.start for span in moved.columns] == [0, 160, 360, 560, 760]  # 240 is a step and 40


def test_neighbours_share_what_is_asked_for() -> None:
    cover = Cover(5000, 1, 512, overlap=100, align=32)
    assert all(before.stop - after.start >= 100 for before, after in pairwise(cover.rows))
    first, second = cover.rows[:2]
    middle = (first.stop + second.start) // 2
    shares = [span.weights[middle - span.start] for span in (first, second)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.01)
    assert (np.diff(first.weights) <= 0).all()


def test_a_cover_is_a_value() -> None:
    cover, same = (Cover(1000, 700, 256, overlap=64) for _ in range(2))
    assert len(cover.rows) == 5
    assert cover == same
    assert hash(cover) == hash(same)
    assert cover != Cover(1000, 700, 256, overlap=64, offset=(1, 0))
    assert pickle.loads(pickle.dumps(cover)) == cover
    with pytest.raises(ValueError, match="read-only"):
        cover.rows[0].weights[0] = 2.0


def test_windows_are_numbered_row_by_row() -> None:
    cover = Cover(300, 500, 128, halo=10, align=4)
    windows = list(cover.windows())
    assert [window.number for window in windows] == list(range(len(cover)))
    assert windows == sorted(windows, key=lambda w: (w.down.start, w.across.start))
    covered = np.zeros((300, 500), np.int64)
    for window in windows:
        covered[window.core] += 1
        part = np.arange(300 * 500).reshape(300, 500)
        assert np.array_equal(part[window.seen][window.inner], part[window.core])
        assert part[window.seen].shape == (window.height, window.width)
    assert (covered == 1).all()


@pytest.mark.parametrize("offset", [(0, 0), (12, 28)])
@pytest.mark.parametrize("halo", [None, 8])
def test_an_image_goes_through_unchanged(halo: int | None, offset: tuple[int, int]) -> None:
    image = noise(2, 203, 150)
    cover = Cover(203, 150, 64, halo=halo, overlap=16, align=4, offset=offset)
    out, weight = joined(cover, image)
    assert np.allclose(out, image, atol=1e-6)
    assert np.allclose(weight, 1.0, atol=1e-6)
    if halo is not None:
        assert np.array_equal(out, image)


def test_rows_come_from_the_top_without_waiting() -> None:
    cover = Cover(1000, 300, 128, overlap=32)
    asked: list[Window] = []
    bottom = 0

    def part(window: Window) -> NDArray[np.float32]:
        asked.append(window)
        rows, columns = window.core
        return np.ones((1, rows.stop - rows.start, columns.stop - columns.start), np.float32)

    for rows, values, _ in cover.join(part, 1, rows=32):
        assert rows.start == bottom
        assert values.shape == (1, rows.stop - rows.start, 300)
        # Whole rows of windows have been asked for, and none that these rows do not touch.
        assert len(asked) % len(cover.columns) == 0
        assert asked[-1].down.first < rows.stop <= asked[-1].down.last
        bottom = rows.stop
    assert bottom == 1000
    assert asked == list(cover.windows())


def test_missing_windows_leave_their_share_to_the_others() -> None:
    image = noise(3, 200, 200)
    cover = Cover(200, 200, 128, overlap=56)
    assert len(cover) == 4
    out, weight = joined(cover, image, missing=(0,))
    lost = np.s_[:86, :86]  # seen by the first window alone
    assert not out[:, *lost].any()
    assert not weight[lost].any()
    rest = weight > 0
    assert rest.sum() == 200 * 200 - 86 * 86
    assert np.allclose(out[:, rest], image[:, rest], atol=1e-5)
    assert 0.4 < weight[100, 20] < 0.6  # the middle of an overlap with one of two windows
    out, weight = joined(Cover(200, 200, 128, halo=28), image, missing=(3,))
    assert not weight[100:, 100:].any()
    assert np.array_equal(out, np.where(weight > 0, image, 0.0))
    assert not joined(cover, image, missing=(0, 1, 2, 3))[1].any()


def test_integers_are_joined_as_numbers() -> None:
    image = np.full((1, 90, 90), 250, np.uint8)
    for _, values, _ in Cover(90, 90, 40, overlap=10).join(lambda w: image[:, *w.core], 1):
        assert values.dtype == np.float32
        assert np.allclose(values, 250.0, atol=1e-3)


def test_borders_lie_where_windows_meet() -> None:
    assert borders_of(Cover(300, 128, 128, halo=10, align=4)) == ((118, 226), ())
    assert borders_of(Cover(200, 100, 128, overlap=56)) == ((86, 100, 114), ())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"100 pixels is too small for 100 shared .* make it 104"):
        Cover(1000, 10, 100, halo=50, align=4)
    Cover(100, 10, 100, halo=50, align=4)  # one window needs no step
    with pytest.raises(ConfigError, match="multiples of 4 pixels"):
        Cover(1000, 1000, 256, align=4, offset=(2, 0))
    with pytest.raises(ConfigError, match="must be >= 1 pixel"):
        Cover(0, 10, 100)
    with pytest.raises(ValueError, match=r"window 0 is \(1, 3, 3\), but its core is \(1, 5, 5\)"):
        next(Cover(5, 5, 8).join(lambda w: np.zeros((1, 3, 3)), 1))


@pytest.mark.parametrize("halo", [None, 20])
def test_cells_blended_one_by_one_are_what_is_joined(halo: int | None) -> None:
    cover = Cover(500, 330, 128, halo=halo, overlap=32, align=4)
    image = noise(2, 500, 330)
    parts = [(window, image[:, *window.seen][:, *window.inner] + window.number) for window in cover.windows()]
    whole = np.concatenate([values for _, values, _ in cover.join(lambda w: parts[w.number][1], 2)], axis=1)
    count = np.zeros((500, 330), int)
    for rows in cover.cells[0]:
        for columns in cover.cells[1]:
            values, _ = cover.blend(parts, rows, columns, 2)
            assert np.array_equal(values, whole[:, rows, columns])
            count[rows, columns] += 1
    assert (count == 1).all()
    assert len(cover.cells[0]) * len(cover.cells[1]) == len(cover)
