"""URLs of files: their names, what GDAL calls them, and what is said of those that are none. No server is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from terramorph.errors import InputError, MissingPackageError, RasterError
from terramorph.raster.storage import Remote, from_gdal, location, placed
from terramorph.sources import open_source


@pytest.mark.parametrize("spec", ["s3://town/a/map.tif", Path("s3://town/a/map.tif"), "S3://town/a/map.tif"])
def test_a_url_is_one_even_as_a_path(spec: str | Path) -> None:
    place = location(spec)
    assert isinstance(place, Remote)
    assert str(place) == "s3://town/a/map.tif"
    assert (place.name, place.stem, place.suffix) == ("map.tif", "map", ".tif")
    assert str(place.with_name(".map.tif.parts") / "plan.json") == "s3://town/a/.map.tif.parts/plan.json"


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert location("maps/map.tif") == Path("maps/map.tif")
    with placed(tmp_path / "map.tif", tmp_path / "scratch") as local:
        assert local == tmp_path / "map.tif"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://town/map.tif", "/vsis3/town/map.tif"),
        ("gs://town/map.tif", "/vsigs/town/map.tif"),
        ("az://town/map.tif", "/vsiaz/town/map.tif"),
        ("https://maps.example/map.tif?key=1", "/vsicurl/https://maps.example/map.tif?key=1"),
    ],
)
def test_what_gdal_calls_it(url: str, name: str) -> None:
    assert Remote(url).gdal_name == name
    assert from_gdal(name) == Remote(url)
    assert from_gdal("/maps/map.tif") == Path("/maps/map.tif")


def test_secrets_in_a_url_are_not_told() -> None:
    assert str(Remote("https://me:word@maps.example/map.tif?signature=1")) == "https://maps.example/map.tif"


def test_what_is_no_place_for_an_output_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"^s3://town/ names no file; give one, such as s3://town/map\.tif"):
        location("s3://town/")
    for place in ("s3://[town/map.tif", "https://[town/map.tif"):
        with pytest.raises(InputError, match="is no URL"):
            open_source(place)
    with pytest.raises(InputError, match="is on a web server, which takes no files"):
        location("https://maps.example/map.tif")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    for call in (lambda: Remote("s3://town/map.tif").identity(), lambda: open_source("s3://town/map.tif")):
        with pytest.raises(MissingPackageError, match=r"pip install 'terramorph\[s3\]'"):
            call()
    with pytest.raises(MissingPackageError, match="pip install gcsfs"):
        Remote("gs://town/map.tif").identity()


def test_a_url_of_one_image_is_no_server_of_tiles() -> None:
    with pytest.raises(RasterError, match="is a database"):
        open_source("https://maps.example/city.mbtiles")
    with pytest.raises(RasterError, match=r"http://127\.0\.0\.1:1/map\.tif cannot be read"):
        open_source("http://127.0.0.1:1/map.tif")
