"""Without extras everything works that needs none, and what needs one says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.bands import default_bands
from terramorph.geo import Grid
from terramorph.raster import Raster, write_image

from .conftest import tiny_settings

SCRIPT = Path(__file__).with_name("base_install.py")


@pytest.fixture(scope="module")
def outcomes(town_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and error output by name of the command line, all run in one process."""
    folder = tmp_path_factory.mktemp("base")
    photo = next((town_pairs / "val").iterdir())
    pixels = np.asarray(Image.open(photo))[:, :128]
    Image.fromarray(pixels).save(folder / "photo.png")
    grid = Grid(128, 128, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5e6), CRS("EPSG:32633"))
    write_image(
        Raster(pixels.transpose(2, 0, 1), np.ones((128, 128), np.bool_), grid, default_bands(3)), folder / "ortho.tif"
    )
    model, pairs, cache = folder / "run" / "model.safetensors", town_pairs, folder / "cache"
    lines = {
        "train": ["train", pairs, "--out", folder / "run", "--cache", cache, "--max-steps", 2, *tiny_settings()],
        "info": ["info", model],
        "evaluate": ["evaluate", model, pairs, "--split", "val", "--out", folder / "scores"],
        "image": ["translate", model, folder / "photo.png", folder / "map.png"],
        "raster": ["translate", model, folder / "ortho.tif", folder / "map.tif", "--any-resolution"],
        "tiles": ["translate", model, folder / "ortho.tif", folder / "map.pmtiles", "--any-resolution"],
        "recalibrate": ["recalibrate", model, pairs, "--out", folder / "again.safetensors", "--cache", cache],
        "doctor": ["doctor"],
        "onnx": ["export", model, folder / "model.onnx"],
        "cluster": ["translate", model, folder / "ortho.tif", folder / "b.tif", "--any-resolution", "--workers", 1],
        "s3": ["translate", model, "s3://bucket/ortho.tif", folder / "c.tif"],
        "study": ["tune", pairs, "--out", folder / "tune"],
    }
    (folder / "there.onnx").touch()
    lines["onnxruntime"] = ["translate", folder / "there.onnx", folder / "photo.png", folder / "d.png"]
    lines["openvino"] = [*lines["onnxruntime"], "--backend", "openvino"]
    lines["mlflow"] = ["compare", pairs, "--study", "improvements", "--out", folder / "compare", "--mlflow"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps([[str(word) for word in line] for line in lines.values()]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("name", ["train", "info", "evaluate", "image", "raster", "tiles", "recalibrate", "doctor"])
def test_works_without_extras(outcomes: dict[str, tuple[int, str]], name: str) -> None:
    code, told = outcomes[name]
    assert code == 0, told


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("onnx", "onnx"), ("onnxruntime", "onnx"), ("openvino", "openvino"), ("cluster", "cluster"), ("s3", "s3"),
        ("study", "study"), ("mlflow", "mlflow"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_sentence_that_names_it(
    outcomes: dict[str, tuple[int, str]], name: str, extra: str
) -> None:
    code, told = outcomes[name]
    assert code == 1, told
    *_, last = told.strip().splitlines()
    assert f"terramorph[{extra}]" in last
    assert "Unexpected" not in told


def test_a_data_array_without_dask_names_the_extra() -> None:
    code = (
        "import base_install; base_install.hide_extras()\n"
        "import numpy, xarray\n"
        "from terramorph.errors import MissingPackageError\n"
        "from terramorph.raster.array_source import ArraySource\n"
        "try: ArraySource(xarray.DataArray(numpy.zeros((4, 4)), dims=('y', 'x')))\n"
        "except MissingPackageError as error: assert 'terramorph[cluster]' in str(error)\n"
        "else: raise AssertionError('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
