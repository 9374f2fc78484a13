from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from terramorph.cartography import CLASSES, classify
from terramorph.errors import DatasetError, RasterError
from terramorph.raster import read_image, write_image
from terramorph.town import make_town, write_town_pairs


def test_every_class_has_its_share_of_every_quarter():
    town = make_town()
    assert town.grid.shape == (2048, 2048)
    assert town.grid.resolution == (1.0, 1.0)
    assert town.grid.crs.to_epsg() == 32633
    classes = classify(town.map().pixels)
    for rows in (slice(0, 1024), slice(1024, 2048)):
        for columns in (slice(0, 1024), slice(1024, 2048)):
            shares = np.bincount(classes[rows, columns].ravel(), minlength=7) / 1024**2
            assert (shares >= 0.005).all(), dict(zip(CLASSES, shares, strict=True))


def test_a_seed_is_a_town_and_another_seed_another():
    one, same, other = make_town(192, seed=5), make_town(192, seed=5), make_town(192, seed=6)
    assert np.array_equal(one.aerial().pixels, same.aerial().pixels)
    assert np.array_equal(one.map().pixels, same.map().pixels)
    assert not np.array_equal(one.map().pixels, other.map().pixels)


def test_a_small_town_is_quick_and_whole():
    start = time.process_time()
    town = make_town(256)
    aerial, drawn = town.aerial(), town.map()
    assert time.process_time() - start < 1.0
    assert aerial.pixels.shape == drawn.pixels.shape == (3, 256, 256)
    assert aerial.grid == drawn.grid == town.grid
    assert {f.kind for f in town.features} >= {"building", "road", "highway", "arterial", "park", "water", "rail"}


def test_aerial_tells_the_classes_apart_and_lies_under_the_map(small_town):
    """Nearest mean colour over a small neighbourhood must beat chance by far, on the same pixels only."""
    aerial = small_town.aerial().pixels.astype(np.float32)
    classes = classify(small_town.map(antialias=False).pixels)
    blurred = sum(np.roll(aerial, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    names = [CLASSES.index(n) for n in ("road", "highway", "arterial", "park", "water")]

    def score(truth: np.ndarray) -> float:
        means = np.stack([blurred[:, truth == k].mean(1) for k in names])
        chosen = ((blurred[None] - means[:, :, None, None]) ** 2).sum(1).argmin(0)
        return float(np.mean([(chosen[truth == k] == i).mean() for i, k in enumerate(names)]))

    assert score(classes) > 0.6
    assert score(np.roll(classes, 60, 0)) < 0.45


def test_buildings_stand_clear_of_roads_and_water(small_town):
    import shapely

    buildings = [f.geometry for f in small_town.features if f.kind == "building"]
    assert len(buildings) > 50
    ways = [f.geometry.buffer(f.width_m / 2) for f in small_town.features if f.width_m and f.kind != "rail"]
    tree = shapely.STRtree(ways + [f.geometry for f in small_town.features if f.kind == "water"])
    hits = tree.query(buildings, predicate="intersects")
    assert hits.shape[1] == 0


def test_pairs_are_cut_by_place_and_share_no_ground(small_town, tmp_path):
    aerial, drawn = small_town.aerial(), small_town.map()
    counts = write_town_pairs(small_town, tmp_path, tile=64, stride=32, aerial=aerial, drawn=drawn)
    files = {s: sorted((tmp_path / s).glob("*.png")) for s in ("train", "val")}
    assert counts == (len(files["train"]), len(files["val"]))
    assert counts.val == 16
    ground = {s: np.zeros((512, 512), int) for s in files}
    for split, paths in files.items():
        for path in paths:
            y, x = map(int, path.stem.split("_"))
            ground[split][y : y + 64, x : x + 64] += 1
    assert not ((ground["train"] > 0) & (ground["val"] > 0)).any()
    assert ground["val"].max() == 1
    assert ground["train"].max() > 1
    assert (ground["val"][256:, 256:] == 1).all()
    y, x = map(int, files["val"][5].stem.split("_"))
    pair = np.asarray(Image.open(files["val"][5])).transpose(2, 0, 1)
    assert np.array_equal(pair[:, :, :64], aerial.crop(y, x, 64, 64).pixels)
    assert np.array_equal(pair[:, :, 64:], drawn.crop(y, x, 64, 64).pixels)


def test_number_of_pairs_can_be_limited(small_town, tmp_path):
    aerial, drawn = small_town.aerial(), small_town.map()
    assert write_town_pairs(small_town, tmp_path, 64, limit=(5, 2), aerial=aerial, drawn=drawn) == (5, 2)


def test_heldout_quarter_goes_to_a_georeferenced_tiff(small_town, tmp_path):
    part = small_town.map().crop(*small_town.heldout_window)
    write_image(part, tmp_path / "map.tif")
    read = read_image(tmp_path / "map.tif")
    assert read.grid == part.grid == small_town.grid.crop(*small_town.heldout_window)
    assert read.grid.bounds.left == small_town.grid.bounds.left + 256
    assert read.grid.bounds.bottom == small_town.grid.bounds.bottom


def test_impossible_wishes_are_refused(small_town, tmp_path):
    with pytest.raises(RasterError, match="64"):
        make_town(16)
    with pytest.raises(RasterError, match="seed of a town must be >= 0"):
        make_town(128, seed=-1)
    with pytest.raises(DatasetError, match="300"):
        write_town_pairs(small_town, tmp_path, tile=300)
