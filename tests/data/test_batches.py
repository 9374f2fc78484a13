"""The cache of decoded pairs, and batches cut from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.data import Augmentation, DecodedPairs, TrainingBatches, decode
from terramorph.data.batches import Draw, cut, draw, gather, jitter_colours
from terramorph.errors import DatasetError
from terramorph.pairs import open_pairs
from terramorph.pixels import BYTE
from terramorph.raster import Raster, write_image


def _batches(pairs: DecodedPairs, **augmentation: object) -> TrainingBatches:
    changes = Augmentation(**{"crop": 64, "mirror": False, **augmentation})  # type: ignore[arg-type]
    return TrainingBatches(pairs, pairs.a, pairs.b, (BYTE, BYTE), changes, seed=7)


@pytest.fixture(scope="module")
def decoded(town_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> DecodedPairs:
    return decode(open_pairs(town_pairs, "train"), size=72, cache=tmp_path_factory.mktemp("cache"))


def test_pixels_are_pil_bicubic(decoded: DecodedPairs, town_pairs: Path) -> None:
    whole = Image.open(town_pairs / "train" / f"{decoded.ids[0]}.png").convert("RGB")
    half = whole.crop((128, 0, 256, 128)).resize((72, 72), Image.Resampling.BICUBIC)
    assert np.array_equal(decoded.b.images[0], np.asarray(half))


def test_the_second_time_nothing_is_decoded(town_pairs: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    pairs = open_pairs(town_pairs, "val")
    first = decode(pairs, size=64, cache=tmp_path, progress=lambda done, total: calls.append(done))
    assert calls == list(range(1, len(pairs) + 1))
    calls.clear()
    second = decode(pairs, size=64, cache=tmp_path, progress=lambda done, total: calls.append(done))
    assert calls == []
    assert all(np.array_equal(x, y) for x, y in zip(first.a.images, second.a.images, strict=True))


def test_bad_pairs_are_an_error_or_listed(town_pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    for file in sorted((town_pairs / "train").glob("*.png"))[:3]:
        (root / "train" / file.name).write_bytes(file.read_bytes())
    broken = root / "train" / "zz.png"
    broken.write_bytes(broken.with_name(file.name).read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"zz\.png"):
        decode(open_pairs(root, "train"), size=64, cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"], "a failed build leaves its lock alone"
    pairs = decode(open_pairs(root, "train"), size=64, cache=tmp_path / "cache", skip_bad=True)
    assert len(pairs) == 3
    assert len(pairs.skipped) == 1
    with pytest.raises(DatasetError, match=r"None of the 4 pairs .* can be used; the first: "):
        decode(open_pairs(root, "train"), size=None, at_least=200, cache=tmp_path / "small", skip_bad=True)


def test_a_pair_too_small_for_the_crop(town_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="128x128 px and crops of 200 px"):
        decode(open_pairs(town_pairs, "val"), size=None, at_least=200, cache=tmp_path)


def test_nodata_becomes_a_mask_and_ranges_ignore_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1000, 2000, (1, 40, 40)).astype(np.uint16)
    mask = np.ones((40, 40), bool)
    mask[:, :10] = False
    values[:, ~mask] = 65535
    for side in "AB":
        (tmp_path / "train" / side).mkdir(parents=True)
        write_image(Raster.from_pixels(values, mask=mask), tmp_path / "train" / side / "x.tif")
    pairs = decode(open_pairs(tmp_path, "train"), size=None, cache=tmp_path / "cache")
    assert pairs.masks is not None
    assert np.array_equal(pairs.masks[0] > 0, mask)
    assert pairs.a.limits == (values[:, mask].min(), values[:, mask].max())
    scaling = pairs.b.scaling()
    batch = TrainingBatches(pairs, pairs.a, pairs.b, (scaling, scaling), Augmentation(40, mirror=False), seed=0).batch(
        0, 2
    )
    assert batch.mask is not None
    assert batch.mask[0, 0, :, :10].sum() == 0
    assert batch.mask[0, 0, :, 10:].min() == 1


def test_batches_are_unit_range_channels_last(decoded: DecodedPairs) -> None:
    batch = _batches(decoded).batch(0, 3)
    for side in (batch.source, batch.target):
        assert side.shape == (3, 3, 64, 64)
        assert side.dtype == torch.float32
        assert side.is_contiguous(memory_format=torch.channels_last)
        assert side.min() >= -1
        assert side.max() <= 1
    assert batch.mask is None


def test_both_sides_get_the_same_crop_and_symmetry(decoded: DecodedPairs) -> None:
    batches = TrainingBatches(decoded, decoded.b, decoded.b, (BYTE, BYTE), Augmentation(64, eightfold=True), seed=3)
    batch = batches.batch(0, 16)
    assert torch.equal(batch.source, batch.target)


def test_an_epoch_sees_every_pair_once(decoded: DecodedPairs) -> None:
    batches = _batches(decoded)
    count = len(decoded)
    for epoch in range(2):
        assert sorted(batches._pair(epoch * count + n) for n in range(count)) == list(range(count))
    assert [batches._pair(n) for n in range(count)] != [batches._pair(count + n) for n in range(count)]


def test_batches_do_not_depend_on_how_they_are_asked_for(decoded: DecodedPairs) -> None:
    augmentation = {"eightfold": True, "jitter": 0.3}
    whole = _batches(decoded, **augmentation).batch(10, 4)
    parts = [_batches(decoded, **augmentation).batch(10 + n, 1) for n in range(4)]
    assert torch.equal(whole.target, torch.cat([part.target for part in parts]))
    torch.testing.assert_close(whole.source, torch.cat([part.source for part in parts]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_accelerator_path_cuts_what_the_cpu_path_cuts(decoded: DecodedPairs, dtype: str) -> None:
    augmentation = Augmentation(64, eightfold=True)
    images = torch.from_numpy(np.stack(decoded.a.images).astype(dtype))
    draws = [draw(augmentation, (72, 72), 5, n) for n in range(24)]
    assert len({(d.mirror, d.flip, d.transpose) for d in draws}) == 8
    index = [n % len(images) for n in range(24)]
    gathered = gather(images, index, draws, 64).numpy()
    for number, drawn in enumerate(draws):
        assert np.array_equal(gathered[number], cut(images[index[number]], drawn, 64).numpy())


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("shrink", [1.0, 0.8])
def test_values_of_16_bits_are_cut_as_others_are(bands: int, shrink: float) -> None:
    values = torch.randint(0, 32768, (1, 90, 90, bands), generator=torch.Generator().manual_seed(0))
    draws = [draw(Augmentation(64, eightfold=True, shrink=shrink), (90, 90), 5, n) for n in range(8)]
    unsigned, floats = (gather(values.to(dtype), [0] * 8, draws, 64) for dtype in (torch.uint16, torch.float32))
    assert unsigned.dtype == torch.uint16
    assert torch.equal(unsigned.int(), floats.round().clamp(0, 65535).int())


def test_mirror_happens_half_the_time_and_crops_reach_everywhere() -> None:
    draws = [draw(Augmentation(64), (72, 72), 0, n) for n in range(2000)]
    assert 0.46 < np.mean([d.mirror for d in draws]) < 0.54
    assert {d.y for d in draws} == {d.x for d in draws} == set(range(9))
    assert not any(d.flip or d.transpose for d in draws)
    assert not any(draw(Augmentation(64, mirror=False), (72, 72), 0, n).mirror for n in range(50))


def test_jitter_changes_the_source_only_and_can_be_nothing(decoded: DecodedPairs) -> None:
    plain, jittered = _batches(decoded).batch(0, 4), _batches(decoded, jitter=0.4).batch(0, 4)
    assert torch.equal(plain.target, jittered.target)
    assert not torch.allclose(plain.source, jittered.source, atol=0.02)
    still = jitter_colours(plain.source, [Draw(0, 0)] * 4)
    torch.testing.assert_close(still, plain.source, atol=1e-5, rtol=0)
    dark = jitter_colours(plain.source, [Draw(0, 0, brightness=0.5)] * 4)
    torch.testing.assert_close(dark, (plain.source + 1) * 0.5 - 1, atol=1e-5, rtol=0)
    grey = jitter_colours(plain.source, [Draw(0, 0, saturation=0.0)] * 4)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])


def test_a_cast_is_a_factor_of_each_band(decoded: DecodedPairs) -> None:
    plain, cast = _batches(decoded).batch(0, 4), _batches(decoded, cast=0.3).batch(0, 4)
    assert torch.equal(plain.target, cast.target)
    assert not torch.allclose(plain.source, cast.source, atol=0.02)
    warm = jitter_colours(plain.source, [Draw(0, 0, cast=(0.9, 0.5, 1.0))] * 4)
    wanted = (plain.source + 1) * torch.tensor([0.9, 0.5, 1.0])[:, None, None] - 1
    torch.testing.assert_close(warm, wanted, atol=1e-5, rtol=0)
    factors = [draw(Augmentation(64, cast=0.3), (72, 72), 0, n).cast[:3] for n in range(200)]
    assert 0.7 <= np.min(factors) < 0.72
    assert 1.28 < np.max(factors) <= 1.3
    assert np.std(factors, axis=1).mean() > 0.1


def test_a_random_scale_shows_the_same_ground_smaller() -> None:
    """A ramp of 0 to 90 over 90 px, shrunk to s of its size, rises by 1 / s a pixel; both sides alike."""
    ramp = torch.arange(90, dtype=torch.float32)[None, :, None].expand(90, 90, 1)
    augmentation = Augmentation(64, mirror=False, shrink=64 / 90)
    sides = set()
    for number in range(40):
        drawn = draw(augmentation, (90, 90), 0, number)
        rise = cut(ramp, drawn, 64)[8:-8, 8:-8, 0].diff(dim=1)
        torch.testing.assert_close(rise, torch.full_like(rise, drawn.side / 64), atol=0.1, rtol=0)
        assert rise.mean().item() == pytest.approx(drawn.side / 64, abs=5e-3)
        sides.add(drawn.side)
    assert min(sides) < 68
    assert max(sides) > 86
    assert {draw(Augmentation(64), (90, 90), 0, n).side for n in range(9)} == {64}


def test_a_shrunk_mask_is_one_where_all_that_goes_in_is(decoded: DecodedPairs) -> None:
    mask = torch.ones(90, 90, 1, dtype=torch.uint8)
    mask[:, 45:] = 0
    image = torch.where(mask.bool(), 200, 0).to(torch.uint8)
    drawn = Draw(0, 0, side=90)
    seen, valid = cut(image, drawn, 64), cut(mask, drawn, 64, mask=True).bool()
    assert seen.dtype == torch.uint8
    assert 25 < valid[0].sum() < 32
    assert ((seen[valid].int() - 200).abs() <= 1).all()


def test_the_accelerator_path_shrinks_as_the_cpu_path(decoded: DecodedPairs) -> None:
    images = torch.from_numpy(np.stack(decoded.a.images[:4]))
    draws = [draw(Augmentation(64, eightfold=True, shrink=0.9), images.shape[1:3], 0, n) for n in range(4)]
    one = torch.stack([cut(image, d, 64) for image, d in zip(images, draws, strict=True)])
    assert torch.equal(gather(images, range(4), draws, 64), one)
