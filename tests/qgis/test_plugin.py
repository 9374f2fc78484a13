"""The QGIS plug-in: its archive, and what it does of QGIS and of the program, over stubs of QGIS' classes."""

from __future__ import annotations

import configparser
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

import terramorph
from terramorph.cartography import CLASSIC
from terramorph.cli.app import run
from terramorph.qgis import FOLDER, write_plugin
from terramorph.raster import read_image

from ..processes import wait_until
from .stubs import BUILT, ProcessingError, calls, settings

Module = Callable[..., Any]


class Feedback:
    """QgsProcessingFeedback.

    Args:
        cancel_after: calls of setProgress after which it is cancelled.
    """

    def __init__(self, cancel_after: float = float("inf")) -> None:
        self.told: list[str] = []
        self.shares: list[float] = []
        self._most = cancel_after

    def pushCommandInfo(self, text: str) -> None:
        self.told.append(text)

    pushInfo = pushWarning = setProgressText = pushCommandInfo

    def setProgress(self, share: float) -> None:
        self.shares.append(share)

    def isCanceled(self) -> bool:
        return len(self.shares) >= self._most


def called(owner: str, name: str) -> list[tuple[Any, ...]]:
    return [values for one, method, values in calls if (one, method) == (owner, name)]


def test_the_archive_installs(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_plugin(tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        about = configparser.ConfigParser()
        about.read_string(content.read(f"{FOLDER}/metadata.txt").decode())
        ElementTree.fromstring(content.read(f"{FOLDER}/icon.svg"))
        assert content.read(f"{FOLDER}/LICENSE") == (Path(__file__).parents[2] / "LICENSE").read_bytes()
    assert FOLDER.isidentifier()
    assert {name.partition("/")[0] for name in names} == {FOLDER}
    assert {f"{FOLDER}/{name}" for name in ("__init__.py", "metadata.txt", "icon.svg", "help.html")} <= set(names)
    general = about["general"]
    assert general["version"] == terramorph.__version__
    assert (general["qgisMinimumVersion"], general["qgisMaximumVersion"]) == ("3.22", "4.99")
    assert general["hasProcessingProvider"] == "yes"
    assert all(general[key] for key in ("name", "description", "about", "author", "email", "repository", "tracker"))
    assert run(["qgis", "--out", str(tmp_path / "new" / "p.zip")]) == 0
    assert (tmp_path / "new" / "p.zip").read_bytes() == archive.read_bytes()
    assert run(["qgis", "--out", str(tmp_path / "p.tar")]) == 2
    assert "must end in .zip" in capsys.readouterr().err


def test_it_comes_and_goes(plugin: Module) -> None:
    iface = BUILT["QgisInterface"]()
    made = plugin().classFactory(iface)
    made.initGui()
    made.provider.loadAlgorithms()
    algorithms = [one for (one,) in called("TerramorphProvider", "addAlgorithm")]
    assert [one.name() for one in algorithms] == ["translate", "areas"]
    for one in algorithms:
        copy = one.createInstance()
        copy.initAlgorithm()
        assert {"INPUT", "MODEL", "RESOLUTION", "AREA", "MORE", "OUTPUT"} <= set(copy.declared)
        assert copy.displayName()
        assert "published model" in copy.shortHelpString()
    assert len(called("QgisInterface", "addPluginToRasterMenu")) == 2
    made.show_panel()
    made.show_help()
    (address,) = called("QDesktopServices", "openUrl")
    assert address is not None
    made.unload()
    for came, went in (("addDockWidget", "removeDockWidget"), ("addRasterToolBarIcon", "removeRasterToolBarIcon"),
                       ("addPluginToRasterMenu", "removePluginRasterMenu")):  # fmt: skip
        assert [v[-1] for v in called("QgisInterface", came)] == [v[-1] for v in called("QgisInterface", went)]
    assert called("QgsProcessingRegistry", "addProvider") == called("QgsProcessingRegistry", "removeProvider")


def algorithm(plugin: Module, name: str = "TranslateAlgorithm") -> Any:
    made = getattr(plugin("algorithm"), name)()
    made.initAlgorithm()
    return made


def test_a_raster_is_translated(plugin: Module, raster: Path, model: Path, tmp_path: Path) -> None:
    output, feedback = tmp_path / "the map.tif", Feedback()
    layer = BUILT["QgsRasterLayer"](str(raster), "a town", "gdal")
    given = {
        "INPUT": layer, "MODEL": str(model), "OUTPUT": str(output), "KIND": 1, "RESOLUTION": 1.0,
        "MORE": "--precision fp32",
    }  # fmt: skip
    made = algorithm(plugin).processAlgorithm(given, None, feedback)
    assert made == {"OUTPUT": str(output)}
    expected = terramorph.load(model, precision="fp32", device="cpu").translate(read_image(raster))
    assert read_image(output).grid == expected.grid
    with rasterio.open(output) as dataset:
        assert (dataset.read(1) == CLASSIC.classify(expected.pixels)).mean() > 0.95  # greys, between all colours
    assert feedback.shares[-1] == 100.0
    assert "translating: 1 of 1" in feedback.told
    assert f'"{output}"' in feedback.told[0]


def test_what_cannot_run(plugin: Module, raster: Path, tmp_path: Path) -> None:
    given = {"INPUT": BUILT["QgsRasterLayer"]("type=xyz&url=x", "tiles", "wms"), "OUTPUT": "x.tif"}
    with pytest.raises(ProcessingError, match=r"tiles is not a file \(its provider is wms\)"):
        algorithm(plugin).processAlgorithm(given, None, Feedback())
    given["INPUT"] = BUILT["QgsRasterLayer"](f"{raster}|option", "a town", "gdal")
    settings["terramorph/command"] = str(tmp_path / "none")
    with pytest.raises(ProcessingError, match="none cannot be started"):
        algorithm(plugin).processAlgorithm(given, None, Feedback())
    settings["terramorph/command"] = ""
    with pytest.raises(ProcessingError, match="terramorph is not found; choose it"):
        algorithm(plugin).processAlgorithm(given, None, Feedback())


def fake_program(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fake"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    settings["terramorph/command"] = str(path)


def test_cancelling_ends_the_program(plugin: Module, tmp_path: Path) -> None:
    fake_program(tmp_path, 'echo \'{"step": "predict", "done": 1, "total": 4}\'\nexec sleep 3600')
    feedback = Feedback(cancel_after=1)
    assert plugin("command").run(["translate"], feedback) is False
    assert feedback.shares == [25.0]
    given = {"INPUT": BUILT["QgsRasterLayer"]("a.tif", "a", "gdal"), "OUTPUT": "x.tif"}
    feedback = Feedback(cancel_after=1)
    assert algorithm(plugin).processAlgorithm(given, None, feedback) == {}
    assert "run it again with the output x.tif" in feedback.told[-1]


def test_words_of_the_command_line(plugin: Module, tmp_path: Path) -> None:
    fake_program(tmp_path, 'for word in "$@"; do printf "word %s\\n" "$word"; done')
    given = {
        "INPUT": BUILT["QgsRasterLayer"](r"C:\My maps\a.tif", "a", "gdal"), "MODEL": "my model", "OUTPUT": "a b.gpkg",
        "AREA": BUILT["QgsRectangle"](-16.5, 47.0, -16.25, 48.0), "MORE": "--seed 3",
    }  # fmt: skip
    feedback = Feedback()
    assert algorithm(plugin, "AreasAlgorithm").processAlgorithm(given, None, feedback) == {"OUTPUT": "a b.gpkg"}
    assert [text[len("word ") :] for text in feedback.told[1:]] == [
        "translate", "my model", r"C:\My maps\a.tif", "a b.gpkg", "--progress", "json", "--overwrite", "--to",
        "polygons", "--area=-16.500000000,47.000000000,-16.250000000,48.000000000", "--seed", "3",
    ]  # fmt: skip
    fake_program(tmp_path, "echo 'terramorph: Nothing of it lies in the area.' >&2; exit 2")
    with pytest.raises(ProcessingError, match=r"^Nothing of it lies in the area\.$"):
        algorithm(plugin, "AreasAlgorithm").processAlgorithm(given, None, Feedback())


def test_what_the_program_says(plugin: Module, tmp_path: Path) -> None:
    command = plugin("command")
    fake_program(
        tmp_path,
        "echo 'some text'; echo 'terramorph: warning: Bands are taken as they are.' >&2\n"
        "echo 'Über: Traceback' >&2; echo 'terramorph: The raster is too coarse.' >&2; echo 'and more' >&2; exit 2",
    )
    feedback = Feedback()
    with pytest.raises(command.CommandError, match=r"^The raster is too coarse\.$"):
        command.run([], feedback)
    assert feedback.told[1:] == ["some text", "Bands are taken as they are."]
    fake_program(tmp_path, "echo 'No module named terramorph' >&2; exit 1")
    with pytest.raises(command.CommandError, match=r"^No module named terramorph$"):
        command.run([], Feedback())
    fake_program(tmp_path, "exit 3")
    with pytest.raises(command.CommandError, match="code 3 and said nothing"):
        command.run([], Feedback())
    settings["terramorph/command"] = r"C:\Program Files\Python 3.12\python.exe".replace("\\", "/")
    assert command.program()[1:] == ["-m", "terramorph"]


def test_the_program_gets_none_of_what_qgis_sets_for_its_own(
    plugin: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/qgis/python")
    monkeypatch.setenv("PROJ_LIB", "/qgis/proj")
    fake_program(tmp_path, 'echo "home=$PYTHONHOME proj=$PROJ_LIB encoding=$PYTHONIOENCODING"')
    feedback = Feedback()
    assert plugin("command").run([], feedback)
    assert feedback.told[1:] == ["home= proj= encoding=utf-8"]


def test_a_server_of_ones_own_and_its_layers(plugin: Module, raster: Path, model: Path) -> None:
    panel = plugin("panel").Panel(BUILT["QgisInterface"]())
    panel.model.setText(str(model))
    panel.raster.layer = BUILT["QgsRasterLayer"](str(raster), "a town", "gdal")
    panel.start_server()
    process = panel.server
    try:
        wait_until(lambda: process.waitForFinished(200) or panel.offered or panel.server is None)
        assert [one.view for one in panel.offered] == ["Input", "Output", "Classes"]
        address = settings["terramorph/server"]
        assert panel.address.text() == address
        panel.add_checked()
        uris = {values[1]: parse_qs(values[0]) for values in called("QgsRasterLayer", "__init__") if "wms" in values}
        assert list(uris) == ["a town: input", "a town: output"]
        output = uris["a town: output"]
        (tilejson,) = (json.loads(_get(f"{address}layers/a-town.json")),)
        assert output["type"] == ["xyz"]
        assert (int(output["zmin"][0]), int(output["zmax"][0])) == (tilejson["minzoom"], tilejson["maxzoom"])
        assert output["url"] == tilejson["tiles"]
        assert output["tilePixelRatio"] == ["1"]
        (z, x, y), url = _middle(tilejson), output["url"][0]
        tile = _get(url.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y)))
        assert tile.startswith(b"\x89PNG")
        (box,) = called("QgsMapCanvas", "setExtent")
        assert box[0].made_of == pytest.approx(tilejson["bounds"], abs=1e-6)
    finally:
        panel.end_server()
    assert process.popen.returncode is not None
    assert panel.server is None
    # What answers no more, and what is no address.
    panel.connect_server()
    assert "does not answer" in called("QLabel", "setText")[-1][0]
    panel.address.setText("ftp://x")
    panel.connect_server()
    assert "ftp://x is not the address of a server" in called("QLabel", "setText")[-1][0]
    assert settings["terramorph/server"] == address


def _get(address: str) -> bytes:
    import urllib.request

    with urllib.request.urlopen(address) as answer:
        data: bytes = answer.read()
    return data


def _middle(tilejson: dict[str, Any]) -> tuple[int, int, int]:
    west, south, east, north = tilejson["bounds"]
    z = tilejson["center"][2]
    latitude = np.radians((south + north) / 2)
    x = int(((west + east) / 2 + 180) / 360 * 2**z)
    return z, x, int((1 - np.arcsinh(np.tan(latitude)) / np.pi) / 2 * 2**z)


def test_a_server_that_cannot_start_says_why(plugin: Module, tmp_path: Path) -> None:
    fake_program(tmp_path, "echo 'terramorph: The port 1 is taken.' >&2; exit 2")
    panel = plugin("panel").Panel(BUILT["QgisInterface"]())
    panel.start_server()
    panel.server.waitForFinished(240_000)
    assert called("QgsMessageBar", "pushMessage")[-1][1] == "The port 1 is taken."
    assert panel.server is None
    settings["terramorph/command"] = str(tmp_path / "none")
    panel.start_server()
    assert "none cannot be started" in called("QgsMessageBar", "pushMessage")[-1][1]
    assert panel.server is None


def test_listings(plugin: Module) -> None:
    layers = plugin("layers")
    assert layers.base_address(" localhost:8765 ") == "http://localhost:8765/"
    assert layers.base_address("https://example.org/maps/") == "https://example.org/maps/"
    view = {"title": "Input", "tiles": "t/town/input/abc/{z}/{x}/{y}.webp", "minzoom": 0, "maxzoom": 17}
    listing = {"layers": [{"name": "town", "title": "Town & land", "bounds": [1, 2, 3, 4], "views": [view]}]}
    (one,) = layers.read_listing("https://example.org/maps/", json.dumps(listing))
    assert one.name == "Town & land: input"
    uri = parse_qs(one.uri)
    assert uri["url"] == ["https://example.org/maps/t/town/input/abc/{z}/{x}/{y}.png"]
    assert one.attribution == ""
    for data in ("<html>", "[]", '{"layers": [{}]}', '{"layers": 3}'):
        with pytest.raises(layers.ServerError, match="is not a terramorph server"):
            layers.read_listing("http://x/", data)
