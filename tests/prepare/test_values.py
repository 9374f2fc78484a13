"""What the pixels of prepared pairs mean: bands, units, nodata and classes of their sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from scipy.ndimage import gaussian_filter

from terramorph.bands import Units
from terramorph.errors import ConfigError, DatasetError, InputWarning
from terramorph.pairs import open_pairs
from terramorph.pairs.manifest import SPLITS, Manifest
from terramorph.prepare import Inputs, Opening, Options, Scale, SplitRule, prepare
from terramorph.prepare.journal import Journal
from terramorph.raster import Raster, ReadOptions

SPLIT = SplitRule(fractions=(0.4, 0.3, 0.3))
BGR = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)


def noise(bands: int, dtype: str = "uint8", high: float = 250, seed: int = 0) -> NDArray[Any]:
    smooth = gaussian_filter(np.random.default_rng(seed).random((bands, 256, 256)), (0, 4, 4))
    return ((smooth - smooth.min()) / np.ptp(smooth) * (high - 5) + 5).astype(dtype)


def written(path: Path, pixels: NDArray[Any], step: float = 1, east: float = 500_000, **how: Any) -> str:
    about = {key: how.pop(key) for key in ("colorinterp", "descriptions", "scales", "offsets") if key in how}
    profile = {"driver": "GTiff", "height": pixels.shape[1], "width": pixels.shape[2], "count": len(pixels)}
    profile |= {"dtype": pixels.dtype.name, "crs": "EPSG:32633", "photometric": "minisblack"}
    profile["transform"] = rasterio.Affine(step, 0, east, 0, -step, 4_000_000)
    with rasterio.open(path, "w", **{**profile, **how}) as dataset:
        dataset.write(pixels)
        for key, value in about.items():
            setattr(dataset, key, value)
    return str(path)


def prepared(out: Path, areas: list[Inputs], **opening: Any) -> tuple[Manifest, list[tuple[Raster, Raster]]]:
    manifest = prepare(out, areas, Options(tile=64, split=SPLIT, opening=Opening(**opening)))
    found = [(split, pair) for split in SPLITS if manifest.counts.get(split) for pair in open_pairs(out, split)]
    return manifest, [(pair.a, pair.b) for split, pair in found]


def cut(manifest: Manifest, pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """A side's own pixels where the pairs lie."""
    places = [place for split in SPLITS for place in manifest.pairs.get(split, {}).values()]
    return [pixels[:, y : y + 64, x : x + 64] for _, y, x in places]


@pytest.fixture
def target(tmp_path: Path) -> str:
    return written(tmp_path / "map.tif", noise(3, seed=3), photometric="rgb")


def test_blue_green_red_becomes_red_green_blue(tmp_path: Path, target: str) -> None:
    pixels = noise(3)
    source = written(tmp_path / "a.tif", pixels[::-1], colorinterp=BGR)
    manifest, pairs = prepared(tmp_path / "ds", [Inputs(source, target)])
    assert manifest.areas[0].source.bands == ("red", "green", "blue")
    for (a, _), own in zip(pairs, cut(manifest, pixels), strict=True):
        assert np.array_equal(a.pixels, own)
    assert list((tmp_path / "ds").rglob("*.png"))


def test_bands_that_are_picked_keep_their_order_and_names(tmp_path: Path, target: str) -> None:
    pixels = noise(4)
    source = written(tmp_path / "a.tif", pixels, descriptions=("blue", "green", "red", "nir"))
    manifest, pairs = prepared(tmp_path / "ds", [Inputs(source, target)], source=ReadOptions(bands=(4, 3, 2)))
    for (a, _), own in zip(pairs, cut(manifest, pixels[[3, 2, 1]]), strict=True):
        assert np.array_equal(a.pixels, own)
        assert a.bands == ("nir", "red", "green"), "a PNG would call them red, green, blue"
    with pytest.raises(ConfigError, match="folder of pairs"):
        prepared(tmp_path / "d2", [Inputs(str(tmp_path / "ds"))], source=ReadOptions(bands=(1,)))


def test_areas_have_the_order_and_units_of_the_first(tmp_path: Path, target: str) -> None:
    pixels, names = noise(2, "uint16", 4000), ("vv", "vh")
    one = written(tmp_path / "a.tif", pixels, descriptions=names, scales=(1e-4,) * 2, offsets=(0, 0))
    moved = pixels[::-1] + np.uint16(1000)
    about: dict[str, Any] = {"descriptions": names[::-1], "scales": (1e-4,) * 2, "offsets": (-0.1, -0.1)}
    two = written(tmp_path / "b.tif", moved, east=600_000, **about)
    other = written(tmp_path / "map2.tif", noise(3, seed=3), east=600_000, photometric="rgb")
    manifest, pairs = prepared(tmp_path / "ds", [Inputs(one, target, "a"), Inputs(two, other, "b")])
    assert {area.source.units for area in manifest.areas} == {Units((1e-4,) * 2, (0.0, 0.0))}
    assert manifest.areas[0].source.range == manifest.areas[1].source.range
    assert {place[0] for split in manifest.pairs.values() for place in split.values()} == {0, 1}
    for (a, _), own in zip(pairs, cut(manifest, pixels), strict=True):
        assert np.array_equal(a.pixels, own)
        assert a.units == Units((1e-4,) * 2, (0.0, 0.0))
    raw, _ = prepared(tmp_path / "raw", [Inputs(two, other)], source=ReadOptions(raw=True))
    assert raw.areas[0].source.units is None


def test_areas_of_which_one_does_not_say_its_units_are_told(tmp_path: Path, target: str) -> None:
    one = written(tmp_path / "a.tif", noise(1, "uint16", 4000), scales=(1e-4,), offsets=(0,))
    two = written(tmp_path / "b.tif", noise(1, "uint16", 4000))
    with pytest.warns(InputWarning, match=r"a\.tif says that its values have scale 0.0001, offset 0, and .*b\.tif"):
        prepared(tmp_path / "ds", [Inputs(one, target, "a"), Inputs(two, target, "b")])


def test_undeclared_nodata_is_told_and_can_be_named(tmp_path: Path, target: str) -> None:
    pixels = noise(1, "float32", 300)
    pixels[:, :, ::16] = -9999
    source = written(tmp_path / "a.tif", pixels)
    with pytest.warns(InputWarning, match=r"a\.tif are -9999"):
        manifest, _ = prepared(tmp_path / "ds", [Inputs(source, target)])
    assert manifest.areas[0].source.range[0] < 0  # type: ignore[index]
    named = ReadOptions(nodata=-9999)
    manifest, pairs = prepared(tmp_path / "d2", [Inputs(source, target)], source=named, target=named)
    assert manifest.areas[0].source.range[0] > 0  # type: ignore[index]
    assert np.array_equal(pairs[0][0].mask, cut(manifest, pixels)[0][0] != -9999)


def test_a_pair_of_which_little_is_missing_is_not_whole(tmp_path: Path, target: str) -> None:
    pixels = noise(3)
    pixels[:, 5, 5] = 0
    source = written(tmp_path / "a.tif", pixels, nodata=0)
    options = Options(tile=256, split=SplitRule(fractions=(1.0, 0.0, 0.0)), max_nodata=0.0)
    with pytest.raises(DatasetError, match="1 left out: nodata"):
        prepare(tmp_path / "ds", [Inputs(source, target)], options)


@pytest.mark.parametrize("side", ["source", "target"])
def test_classes_of_either_side_stay_classes(tmp_path: Path, side: str) -> None:
    many = (np.add.outer(np.arange(64), np.arange(64)) // 2 % 60 * 4).astype(np.uint8)[None]
    classes = written(tmp_path / "classes.tif", many, step=4)
    image = written(tmp_path / "image.tif", noise(1))
    area = Inputs(classes, image, "a") if side == "source" else Inputs(image, classes, "a")
    opening = Opening(**{side: ReadOptions(categorical=True)})  # type: ignore[arg-type]
    options = Options(tile=64, split=SPLIT, scale=Scale(resolution=1), opening=opening)
    prepare(tmp_path / "ds", [area], options)
    pair = next(iter(open_pairs(tmp_path / "ds", "train")))
    assert set(np.unique((pair.a if side == "source" else pair.b).pixels)) <= set(np.unique(many))


def test_a_dataset_begun_before_there_was_an_option_goes_on(tmp_path: Path) -> None:
    settings = Options(tile=64).plain()
    Journal(tmp_path / "ds", settings)
    path = tmp_path / "ds" / ".prepare" / "settings.json"
    old = json.loads(path.read_text())
    del old["drop_duplicates"], old["opening"]["source"]
    path.write_text(json.dumps(old))
    Journal(tmp_path / "ds", settings)
    Journal(tmp_path / "ds", settings | {"skip_bad": True})
    with pytest.raises(DatasetError, match="nodata"):
        Journal(tmp_path / "ds", Options(tile=64, opening=Opening(source=ReadOptions(nodata=0))).plain())
