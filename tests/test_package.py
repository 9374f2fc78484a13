"""The wheel: it has every file of the package, its licences and metadata, and works from an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.metadata import Metadata

import terramorph
from terramorph.models import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked. It is built from a copy: what is left in `build` of the repository would get into it."""
    copy, made, unpacked = (tmp_path_factory.mktemp(name) for name in ("copy", "made", "unpacked"))
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(SOURCE, copy / "src", ignore=unwanted)
    shutil.copytree(ROOT / "LICENSES", copy / "LICENSES")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    (copy / "src/terramorph/__pycache__").mkdir()
    (copy / "src/terramorph/__pycache__/errors.cpython-311.pyc").touch()
    build = [sys.executable, "-c", f"from setuptools.build_meta import build_wheel; build_wheel({str(made)!r})"]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = made.iterdir()
    assert path.name == f"terramorph-{terramorph.__version__}-py3-none-any.whl"
    assert path.stat().st_size < 60e6  # PyPI takes files up to 100 MB
    with zipfile.ZipFile(path) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def info(wheel: Path) -> Path:
    """The folder of its metadata."""
    (folder,) = wheel.glob("*.dist-info")
    return folder


@pytest.fixture(scope="module")
def metadata(info: Path) -> Message:
    """Its metadata, valid."""
    text = (info / "METADATA").read_bytes()
    Metadata.from_email(text, validate=True)
    return BytesParser().parsebytes(text)


def _files(folder: Path) -> set[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


def test_it_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    there = _files(wheel / "terramorph")
    assert there == _files(SOURCE / "terramorph")
    assert there >= {
        "py.typed", "models/registry.toml", "training/presets/pix2pix.toml", "cartography/styles/classic.toml",
        "cartography/tables/osm.toml", "study/studies/improvements.toml", "report/base.html.j2", "report/theme.css",
        "serve/static/viewer.html", "serve/static/vendor/maplibre-gl/maplibre-gl.mjs",
    }  # fmt: skip
    assert not list(wheel.rglob("*.pyc"))
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {"terramorph"}  # nothing beside the package


def test_it_has_no_weights_but_those_that_are_free(wheel: Path) -> None:
    carried = {path.stem for path in wheel.rglob("*.safetensors")}
    assert carried == {name for name, entry in registry().items() if entry.licence.startswith("Free to use")}


def test_its_licences_are_there(info: Path, metadata: Message) -> None:
    files = metadata.get_all("License-File")
    assert files is not None
    assert all((info / "licenses" / file).read_text(encoding="utf-8").strip() for file in files)
    assert {"LICENSE", "NOTICE", "LICENSES/Apache-2.0.txt"} <= set(files)
    used = metadata["License-Expression"].split(" AND ")
    for manifest in (SOURCE / "terramorph").rglob("vendor.toml"):
        for name, package in tomllib.loads(manifest.read_text(encoding="utf-8")).items():
            folder = manifest.parent.relative_to(ROOT).as_posix()
            assert any(file.startswith(f"{folder}/{name}/LICENSE") for file in files), name
            assert package["licence"] in used, name


def test_its_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Version"] == terramorph.__version__
    assert metadata["Author"] == "terramorph contributors"
    assert metadata["License-Expression"].startswith("MIT")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(metadata.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert {line.partition(",")[0] for line in metadata.get_all("Project-URL") or ()} == set(PROJECT["urls"])


def test_the_readme_says_what_each_extra_is_for() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| extra |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(PROJECT["optional-dependencies"])


def test_the_command_finds_the_models_of_the_wheel_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom terramorph.cli.app import run\nsys.exit(run(['info', 'town-sat2map', '--json']))\n"
    environment = {**os.environ, "PYTHONPATH": str(wheel), "TERRAMORPH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(wheel / "terramorph" / "models" / "town-sat2map.safetensors") in done.stdout


def test_the_workflow_installs_what_the_makefile_does() -> None:
    """The same extras, but for the documentation, which is built on Linux only."""
    files = (".github/workflows/ci.yml", "CONTRIBUTING.md", "Makefile")
    extras = [re.findall(r"-e '\.\[([\w,]+)\]'", (ROOT / file).read_text(encoding="utf-8")) for file in files]
    assert [len(found) for found in extras] == [1, 1, 1]
    ours, told, made = (set(found[0].split(",")) for found in extras)
    assert ours == told == made - {"docs"}
