"""What importing a part of terramorph brings along, and what it must not."""

from __future__ import annotations

import subprocess
import sys

FOR_FEW = {
    "boto3", "dask", "matplotlib", "torchmetrics", "tensorboard", "lightning_fabric", "pandas", "geopandas", "pyarrow",
    "pyogrio", "xarray", "scipy", "sympy", "cv2", "skia",
}  # fmt: skip


def test_an_import_brings_what_it_needs() -> None:
    # Each is allowed what those before it are, and more: so one process shows all of them.
    code = f"import sys\nfor_few = {FOR_FEW!r}\n"
    for line, others in (
        ("import terramorph", {"torch", "rasterio", "odc", "numpy"}),
        ("import terramorph.prepare", {"torch", "rasterio", "odc"}),
        ("import terramorph.raster\nfrom terramorph.prepare import Inputs, Opening", {"torch"}),
        ("from terramorph.raster import write_image\nfrom terramorph.sources import open_source", {"torch"}),
        ("from terramorph.translate import load\nfrom terramorph.translate import lazy, plan, writing", set()),
        ("from terramorph.training import train, resume, load_config, recalibrate", set()),
    ):
        code += f"{line}\nslow = (for_few | {others!r}) & set(sys.modules)\nassert not slow, ({line!r}, slow)\n"
    code += "import terramorph.evaluation, terramorph.serve\n"
    code += "slow = (for_few - {'cv2', 'skia'}) & set(sys.modules)\nassert not slow, slow\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_import_without_leaves_packages_as_they_were() -> None:
    code = (
        "import sys, terramorph.raster, rasterio.session\n"
        "assert rasterio.session.boto3 is None and 'boto3' not in sys.modules\n"
        "import boto3\n"
        "assert boto3.Session\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
