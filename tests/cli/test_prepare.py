"""`terramorph prepare` and `prepare inspect`: from files to a dataset that trains, with sentences for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terramorph.raster import Raster

from .conftest import TINY, Cli


@pytest.fixture
def exports(small_town_sides: tuple[Raster, Raster], tmp_path: Path) -> tuple[Path, Path]:
    """Two mosaics as SAS.Planet exports them: an image and a world file, no CRS."""
    found = []
    for name, raster in zip(("satellite", "map"), small_town_sides, strict=True):
        file = tmp_path / f"{name}.bmp"
        Image.fromarray(raster.pixels.transpose(1, 2, 0)).save(file)
        file.with_suffix(".bpw").write_text("1\n0\n0\n-1\n392000.5\n5819999.5\n")
        found.append(file)
    return found[0], found[1]


def test_two_mosaics_become_a_dataset_that_trains(cli: Cli, exports: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "ds"
    words = ["prepare", out, "--source", exports[0], "--target", exports[1], "--tile", 64, "--source-crs", "EPSG:32633"]
    outcome = cli(*words, "--target-crs", "EPSG:32633")
    assert outcome.code == 0, outcome.err
    counts = {name: int(n) for name, n in re.findall(r"^  (train|val|test) +(\d+)$", outcome.out, re.MULTILINE)}
    assert all(len(list((out / split).glob("*.png"))) == n > 0 for split, n in counts.items())
    assert json.loads((out / "manifest.json").read_text())["settings"]["tile"] == 64

    run = tmp_path / "run"
    outcome = cli("train", out, "--out", run, "--cache", tmp_path / "cache", "--max-steps", 1, *TINY)
    assert outcome.code == 0, outcome.err
    info = json.loads(cli("info", run / "model.safetensors", "--json").out)
    # 64 px of 1 m were resized to 72 for the crops.
    assert info["ground_resolution"] == pytest.approx(64 / 72, abs=1e-3)

    outcome = cli("prepare", "inspect", out)
    assert outcome.code == 0, outcome.err
    told = dict(re.findall(r"^  (\S.*?)  +(\S.*)$", outcome.out, re.MULTILINE))
    assert re.fullmatch(r"[0-9.]+ %", told["shift can be told"])
    assert re.fullmatch(r"[0-9.]+ m", told["median shift, metres"])
    assert "<svg" in (out / "inspect.html").read_text()


def test_a_style_of_ones_own_and_a_list(cli: Cli, exports: tuple[Path, Path], tmp_path: Path) -> None:
    features = []
    for left, top, kind in ((392000, 5820000, "water"), (392100, 5819900, "park"), (392384, 5819616, "land")):
        ring = [[left, top], [left + 128, top], [left + 128, top - 128], [left, top - 128], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"kind": kind}, "geometry": geometry})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    vectors = tmp_path / "parks.geojson"
    vectors.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    listed = tmp_path / "list.csv"
    listed.write_text("id,split\nsatellite_01_01,train\nsatellite_02_02,val\n")
    out = tmp_path / "ds"
    words = ["prepare", out, "--source", exports[0], "--target", vectors, "--source-crs", "EPSG:32633", "--tile", 128]
    outcome = cli(*words, "--style", "classes", "--split", "by-list", "--split-file", listed)
    assert outcome.code == 0, outcome.err
    drawn = np.asarray(Image.open(out / "val" / "satellite_02_02.png"))[:, 128:]
    assert {tuple(c) for c in drawn.reshape(-1, 3).tolist()} >= {(203, 223, 175)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a", "b"], r"OUT must be one folder, got 'a b'"),
        (["OUT", "--source", "SAT"], r"--source needs a --target, got 1 and 0"),
        (["OUT"], r"nothing to prepare"),
        (["OUT", "--source", "SAT", "--target", "MAP", "--zoom", "40"], r": --zoom must be 0 to 24, got 40\."),
        (["OUT", "--source", "SAT", "--target", "MAP", "--zoom", "17"], r"has a place but no CRS.*--source-crs"),
        (["OUT", "--source", "SAT", "--target", "MAP", "--pixel-grid", "--zoom", "17"], r"leave out --resolution"),
        (
            ["OUT", "--source", "SAT", "--target", "MAP", "--bounds", "1,2,3"],
            r"--bounds must be 4 numbers .*, got '1,2,3'",
        ),
        (
            ["OUT", "--source", "SAT", "--target", "http://localhost:1/{z}/{x}/{y}.png", "--zoom", "9"],
            r"licence or terms",
        ),
        (["OUT", "--source", "SAT", "--target", "MAP", "--tile", "9000"], r": --tile must be 16 to 8192 px"),
        (["OUT", "--source", "SAT", "--target", "MAP", "--tile", "600"], r"smaller than one tile"),
        (["OUT", "--source", "SAT", "--target", "MAP", "--split", "by-list"], r"needs --split-file"),
        (["OUT", "--source", "SAT", "--target", "ECW"], r"map\.ecw .*gdal_translate"),
        (["inspect", "OUT"], r"OUT"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    cli: Cli, exports: tuple[Path, Path], tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "map.ecw").write_bytes(b"\x65\x02" + bytes(range(256)))
    known = {"OUT": tmp_path / "OUT", "SAT": exports[0], "MAP": exports[1], "ECW": tmp_path / "map.ecw"}
    outcome = cli("prepare", *(known.get(word, word) for word in words))
    assert outcome.code == 2, outcome.err
    assert re.search(sentence, outcome.err), outcome.err
    assert sum(": warning: " not in line for line in outcome.err.splitlines()) == 1
