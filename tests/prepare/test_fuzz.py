"""Mutated journals and tables: a preparation goes on, or says what is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from terramorph.prepare import Inputs, Options, SplitRule, prepare
from terramorph.prepare.finish import finish
from terramorph.prepare.journal import FOLDER, Journal
from terramorph.prepare.page.figures import read_footprints
from terramorph.raster import write_image
from terramorph.town import make_town

from ..fuzz import MUTATIONS, only_ours

OPTIONS = Options(tile=64, split=SplitRule(fractions=(0.6, 0.2, 0.2)))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    town = make_town(size_px=192, seed=5)
    write_image(town.aerial(), folder / "ortho.tif")
    write_image(town.map(), folder / "map.tif")
    prepare(folder / "ds", [Inputs(str(folder / "ortho.tif"), str(folder / "map.tif"))], OPTIONS)
    return folder / "ds"


def test_settings(made: Path, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()

    def parse(content: bytes) -> None:
        (tmp_path / FOLDER / "settings.json").write_bytes(content)
        Journal(tmp_path, OPTIONS.plain())

    assert only_ours(parse, (made / FOLDER / "settings.json").read_bytes()) > MUTATIONS / 2


def test_areas(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / FOLDER, tmp_path / FOLDER)

    def parse(content: bytes) -> None:
        (tmp_path / FOLDER / "areas.json").write_bytes(content)
        journal = Journal(tmp_path, OPTIONS.plain())
        assert finish(tmp_path, journal, OPTIONS, lambda step, done, total: None).pairs

    assert only_ours(parse, (made / FOLDER / "areas.json").read_bytes()) > MUTATIONS / 3


def test_rows(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / FOLDER, tmp_path / FOLDER)

    seen = 0

    def parse(content: bytes) -> None:
        nonlocal seen
        seen += 1
        (tmp_path / FOLDER / "ortho.jsonl").write_bytes(content)
        journal = Journal(tmp_path, OPTIONS.plain())
        journal.rows("ortho")
        if seen % 10 == 0:  # a table and a manifest take their time
            finish(tmp_path, journal, OPTIONS, lambda step, done, total: None)

    assert only_ours(parse, (made / FOLDER / "ortho.jsonl").read_bytes()) < MUTATIONS / 20


def test_footprints(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "ds")

    def parse(content: bytes) -> None:
        (tmp_path / "ds" / "footprints.parquet").write_bytes(content)
        read_footprints(tmp_path / "ds")

    assert only_ours(parse, (made / "footprints.parquet").read_bytes()) > MUTATIONS / 3


def test_manifest(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "ds")

    def parse(content: bytes) -> None:
        (tmp_path / "ds" / "manifest.json").write_bytes(content)
        manifest = read_footprints(tmp_path / "ds").manifest
        for split, pairs in manifest.pairs.items():
            for pair in pairs:
                manifest.grid_of(split, pair)

    assert only_ours(parse, (made / "manifest.json").read_bytes()) > MUTATIONS / 3
