"""`translate` of rasters of any size: its options, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odc.geo.crs import CRS
from odc.geo.geom import box

from terramorph.geo import project_extent
from terramorph.raster import Raster, read_image, write_image
from terramorph.sources import open_source

from .conftest import Cli


@pytest.fixture
def ortho(small_town_sides: tuple[Raster, Raster], tmp_path: Path) -> Path:
    """512 x 512 px at 1 m, UTM."""
    write_image(small_town_sides[0], tmp_path / "ortho.tif")
    return tmp_path / "ortho.tif"


def area_of(ortho: Path, folder: Path) -> Path:
    """A square of 100 m in its middle, in degrees."""
    grid = read_image(ortho).grid
    x, y = grid.affine @ (200, 200)
    shape = project_extent(box(x, y - 100, x + 100, y, grid.crs), CRS("EPSG:4326"))
    path = folder / "area.geojson"
    feature = {"type": "Feature", "properties": {}, "geometry": shape.json}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_a_raster_with_every_option(cli: Cli, trained: Path, ortho: Path, tmp_path: Path) -> None:
    area, grid = area_of(ortho, tmp_path), read_image(ortho).grid
    made = tmp_path / "map.tif"
    words = ["translate", trained, ortho, made, "--resolution", 2, "--match-source", "--area", area]
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    got = read_image(made)
    assert got.grid.resolution == (1.0, 1.0)
    assert 9000 < got.mask.sum() < 10500
    with open_source(made) as source:
        assert source.extent.boundingbox.left >= grid.bounds.left
    spread = tmp_path / "std.tif"
    words = ["translate", trained, ortho, made, "--mode", "paper", "--samples", 2, "--uncertainty", spread]
    before = made.read_bytes()
    outcome = cli(*words, "--area", area)
    assert outcome.code == 2
    assert "map.tif would be replaced" in outcome.err
    assert made.read_bytes() == before
    outcome = cli(*words, "--area", area, "--overwrite")
    assert outcome.code == 0, outcome.err
    assert read_image(spread).pixels.max() > 0
    for name, more in (("map.pmtiles", []), ("map.mbtiles", []), ("tiles", ["--to", "xyz"])):
        outcome = cli("translate", trained, ortho, tmp_path / name, *more)
        assert outcome.code == 0, outcome.err
        with open_source(tmp_path / name) as source:
            assert source.read(grid.crop(128, 128, 64, 64)).mask.all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ORTHO", "ORTHO"], "would replace the source"),
        (["ORTHO", "map.tif", "--to", "pmtiles"], "archive of tiles must be named .pmtiles"),
        (["ORTHO", "map.png", "--to", "cog"], "GeoTIFF must be named .tif"),
        (["ORTHO", "s3://bucket/map"], "must be named .tif, .mbtiles or .pmtiles, got s3://bucket/map"),
        (["ORTHO", "folder", "--area", "nowhere.geojson"], "folder is a folder of images, each translated whole"),
        (["ORTHO", "folder", "--workers", "1"], "Workers need an output of one raster"),
        (["ORTHO", "map.tif", "--resolution", "0.00001"], "nothing is to be seen at 1e-05 m"),
        (["ORTHO", "map.tif", "--resolution", "0"], "resolution must be > 0 metres per pixel and finite, got 0.0"),
        (["ORTHO", "map.tif", "--area", "nowhere.geojson"], "nowhere.geojson cannot be read"),
        (["ORTHO", "map.tif", "--samples", "2"], "2 samples would be equal"),
        (["ORTHO", "map.tif", "--skip-bad"], "--skip-bad and `suffix` need a folder of images"),
        (["ORTHO", "map.pmtiles", "--match-source"], "leave --match-source out"),
        (["nothing.tif", "map.tif"], "nothing.tif"),
        (["CUT", "map.tif"], "cut.tif"),
        (["GREY", "map.tif"], "The image has 1 band"),
        (["ORTHO", "map.tif", "--backend", "openvino"], "backend of a bundle must be torch, got openvino"),
    ],
)
def test_what_is_refused_is_one_sentence(
    cli: Cli, trained: Path, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = ortho.read_bytes()
    (tmp_path / "cut.tif").write_bytes(before[: len(before) // 2])
    aerial = read_image(ortho)
    write_image(type(aerial).from_pixels(aerial.pixels[:1], aerial.grid), tmp_path / "grey.tif")
    names = {"ORTHO": ortho, "CUT": tmp_path / "cut.tif", "GREY": tmp_path / "grey.tif"}
    outcome = cli("translate", trained, *(names.get(word, word) for word in words))
    assert outcome.code == 2, outcome.err
    assert sentence in outcome.err.replace("\n", " ")
    assert "Traceback" not in outcome.err
    assert ortho.read_bytes() == before
    assert not (tmp_path / "map.tif").exists()
