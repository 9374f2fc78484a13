"""The plug-in in a real QGIS without a window; run by the Python that has QGIS, prints one JSON object.

python3 in_qgis.py PLUGIN_ZIP PROGRAM ADDRESS RASTER FOLDER NAMES [PICTURE]
"""

import importlib
import json
import sys
import time
import zipfile
from pathlib import Path

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
    QgsSettings,
    QgsVectorLayer,
)
from qgis.gui import QgsMapCanvas, QgsMessageBar
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtWidgets import QMainWindow

archive, program, address, raster, folder, names, *picture = sys.argv[1:]


class Interface:
    """What of QGIS' interface to its main window the plug-in uses."""

    def __init__(self):
        self.window = QMainWindow()
        self.canvas = QgsMapCanvas(self.window)
        self.window.setCentralWidget(self.canvas)
        self.bar = QgsMessageBar(self.window)
        self.menu = []

    def mainWindow(self):
        return self.window

    def mapCanvas(self):
        return self.canvas

    def messageBar(self):
        return self.bar

    def addDockWidget(self, area, widget):
        self.window.addDockWidget(area, widget)

    def removeDockWidget(self, widget):
        self.window.removeDockWidget(widget)

    def addRasterToolBarIcon(self, action):
        self.menu.append(action)

    def removeRasterToolBarIcon(self, action):
        self.menu.remove(action)

    def addPluginToRasterMenu(self, name, action):
        self.menu.append(action)

    def removePluginRasterMenu(self, name, action):
        self.menu.remove(action)


class Feedback(QgsProcessingFeedback):
    """Remembers progress, and cancels at the first of it if told so."""

    def __init__(self, cancel=False):
        super().__init__()
        self.shares, self.cancel_at_once = [], cancel
        self.progressChanged.connect(self._progressed)

    def _progressed(self, share):
        self.shares.append(share)
        if self.cancel_at_once:
            self.cancel()


def wait(until, seconds=90):
    """Turns the event loop until something holds."""
    stop = time.monotonic() + seconds
    while not until() and time.monotonic() < stop:
        QCoreApplication.processEvents()
        time.sleep(0.02)
    assert until(), "nothing came of it"


def run(name, **parameters):
    """Runs an algorithm; its results and feedback, or the sentence of its failure."""
    feedback = Feedback(parameters.pop("cancel", False))
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(f"terramorph:{name}")
    results, fine = algorithm.run(parameters, context, feedback)
    return results, fine, feedback


QCoreApplication.setOrganizationName("terramorph-test")
app = QgsApplication([], True, folder)
app.initQgis()
QgsSettings().setValue("terramorph/command", program)
with zipfile.ZipFile(archive) as content:
    content.extractall(folder)
sys.path.insert(0, folder)
import terramorph_qgis  # noqa: E402

found = {"qgis": Qgis.QGIS_VERSION, "unknown": []}
for module, classes in json.loads(Path(names).read_text(encoding="utf-8")).items():
    for name, members in classes.items():
        owner = getattr(importlib.import_module(module), name, None)
        missing = [member for member in members.split() if not hasattr(owner, member)]
        found["unknown"] += [f"{module}.{name} {missing}"] if owner is None or missing else []

iface = Interface()
plugin = terramorph_qgis.classFactory(iface)
plugin.initGui()
found["algorithms"] = [one.id() for one in plugin.provider.algorithms()]

# A layer of a running server.
panel = plugin.panel
panel.address.setText(address)
panel.connect_server()
wait(lambda: panel.offered)
project = QgsProject.instance()
project.setCrs(QgsCoordinateReferenceSystem("EPSG:3857"))
panel.add_checked()
layers = list(project.mapLayers().values())
found["layers"] = {layer.name(): layer.isValid() for layer in layers}
output = next(layer for layer in layers if layer.name().endswith("output"))
found["uri"] = output.source()
found["extent"] = [round(side) for side in (output.extent().width(), output.extent().height())]
block = output.dataProvider().block(1, output.extent(), 64, 64)
found["colours"] = len({block.color(row, column) for row in range(64) for column in range(64)})
if picture:
    # As a user sees it once all tiles are there.
    iface.window.resize(1280, 800)
    panel.show()
    iface.window.show()
    canvas = iface.canvas
    canvas.setLayers([output, *(layer for layer in layers if layer is not output)])
    canvas.zoomToFeatureExtent(output.extent())
    wait(lambda: not canvas.isDrawing())
    canvas.waitWhileRendering()
    stop = time.monotonic() + 20
    wait(lambda: time.monotonic() > stop)
    canvas.refresh()
    canvas.waitWhileRendering()
    iface.window.grab().save(picture[0])

# Algorithms.
ground = QgsRasterLayer(raster, "ground", "gdal")
area = ground.extent()
made, fine, feedback = run("translate", INPUT=ground, MODEL="town-sat2map", OUTPUT=f"{folder}/a map.tif", KIND=0)
result = QgsRasterLayer(made["OUTPUT"], "map", "gdal")
found["translate"] = [fine, result.isValid(), result.extent() == area, result.bandCount(), feedback.shares[-1:]]
box = f"{area.xMinimum()},{area.center().x()},{area.yMinimum()},{area.center().y()} [{ground.crs().authid()}]"
made, fine, _ = run("areas", INPUT=ground, MODEL="town-sat2map", OUTPUT=f"{folder}/areas.gpkg", AREA=box)
areas = QgsVectorLayer(made["OUTPUT"], "areas", "ogr")
found["areas"] = [fine, areas.isValid(), areas.featureCount() > 3, area.contains(areas.extent())]
_, fine, feedback = run("translate", INPUT=ground, MODEL="nowhere", OUTPUT=f"{folder}/b.tif")
found["failure"] = [fine, feedback.textLog()[-400:]]
_, fine, feedback = run("translate", INPUT=output, MODEL="town-sat2map", OUTPUT=f"{folder}/c.tif")
found["no file"] = [fine, feedback.textLog()[-200:]]
made, fine, feedback = run("translate", INPUT=ground, MODEL="town-sat2map", OUTPUT=f"{folder}/d.tif", cancel=True)
found["cancelled"] = [made, feedback.textLog()[-200:]]

plugin.unload()
found["left"] = [len(iface.menu), QgsApplication.processingRegistry().providerById("terramorph") is None]
print(json.dumps(found))
sys.stdout.flush()
