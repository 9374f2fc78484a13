"""The plug-in in a real QGIS without a window (Debian: apt install python3-qgis, 231 MB to fetch).

It takes up to a minute, so it runs when it is asked for: pytest -m qgis tests/qgis.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from terramorph.serve import LayerSettings, Server, Settings, open_server

from . import stubs

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"


def _has_qgis() -> bool:
    done = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.qgis
def test_the_plugin_works_in_qgis(
    archive: Path, raster: Path, program: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "qgis" not in request.config.option.markexpr:
        pytest.skip("runs with -m qgis")
    if not _has_qgis():
        pytest.skip("needs QGIS with its Python, such as Debian's python3-qgis")
    layer = LayerSettings(name="town", model="town-sat2map", source=str(raster), attribution="© the town")
    server = Server(open_server(Settings(layers=(layer,), port=0)))
    thread = threading.Thread(target=server.serve_until_told, args=(lambda address: None,))
    thread.start()
    names = tmp_path / "names.json"
    names.write_text(json.dumps(stubs.API), encoding="utf-8")
    script = Path(__file__).with_name("in_qgis.py")
    words = [archive, program, server.address, raster, tmp_path / "a folder", names]
    (tmp_path / "a folder").mkdir()
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PYTHONPATH": ""}
    try:
        done = subprocess.run(
            [PYTHON, str(script), *map(str, words)], env=environment, capture_output=True, text=True, check=False
        )
    finally:
        server.should_exit = True
        thread.join(20)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["unknown"] == []
    assert found["algorithms"] == ["terramorph:areas", "terramorph:translate"]
    assert found["layers"] == {"town: input": True, "town: output": True}
    assert found["extent"][0] < 1000  # metres of EPSG:3857: the town and not the world
    assert found["colours"] > 10
    assert found["translate"] == [True, True, True, 4, [100.0]]
    assert found["areas"] == [True, True, True, True]
    assert found["failure"][0] is False
    assert "There is no bundle nowhere" in found["failure"][1]
    assert "is not a file (its provider is wms)" in found["no file"][1]
    assert found["cancelled"][0] == {}
    assert found["left"] == [0, True]
