"""The panel: a server's layers, starting a server, and the program's path."""

from qgis.core import (
    Qgis,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsMapLayerProxyModel,
    QgsNetworkContentFetcher,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.gui import QgsFileWidget, QgsMapLayerComboBox
from qgis.PyQt.QtCore import QProcess, Qt, QUrl
from qgis.PyQt.QtNetwork import QNetworkReply
from qgis.PyQt.QtWidgets import (
    QDockWidget,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from .algorithm import file_of
from .command import COMMAND, SERVER, CommandError, Lines, Told, end, new_process, save, saved
from .layers import ServerError, base_address, read_listing

GROUP = "terramorph"
_SERVING = "Serving at "


class Panel(QDockWidget):
    """The dock widget.

    Attributes:
        offered: `Tiles` that the server lists.
        server: The process of a server that was started here, or None.

    Args:
        iface: QGIS' interface to its main window.
    """

    def __init__(self, iface):
        super().__init__("terramorph", iface.mainWindow())
        self.setObjectName("TerramorphPanel")  # so that QGIS remembers where it was
        self.iface, self.offered, self.server = iface, [], None
        self._fetcher = self._lines = self._told = None
        body = QWidget(self)
        column = QVBoxLayout(body)
        column.addWidget(self._layers_group())
        column.addWidget(self._server_group())
        column.addWidget(self._program_group())
        self.status = QLabel("Connect to a running server, or start one.", body)
        self.status.setWordWrap(True)
        column.addWidget(self.status)
        column.addStretch(1)
        self.setWidget(body)

    def _layers_group(self):
        group = QGroupBox("Layers of a server")
        column = QVBoxLayout(group)
        self.address = QLineEdit(saved(SERVER, "http://127.0.0.1:8765/"))
        self.address.returnPressed.connect(self.connect_server)
        connect = QPushButton("Connect")
        connect.clicked.connect(self.connect_server)
        self.tree = QTreeWidget()
        self.tree.setHeaderHidden(True)
        add = QPushButton("Add to the map")
        add.clicked.connect(self.add_checked)
        for widget in (self.address, connect, self.tree, add):
            column.addWidget(widget)
        return group

    def _server_group(self):
        group = QGroupBox("A server of your own")
        form = QFormLayout(group)
        self.model = QLineEdit("town-sat2map")
        self.model.setToolTip("A file, the folder of a run, or the name of a published model.")
        self.raster = QgsMapLayerComboBox()
        self.raster.setFilters(QgsMapLayerProxyModel.Filter.RasterLayer)
        self.raster.setAllowEmptyLayer(True)
        self.raster.setToolTip("The raster to translate. None: the procedural town, to look around.")
        self.resolution = QLineEdit()
        self.resolution.setPlaceholderText("those of the raster")
        start, stop = QPushButton("Start"), QPushButton("Stop")
        start.clicked.connect(self.start_server)
        stop.clicked.connect(self.end_server)
        form.addRow("Model", self.model)
        form.addRow("Raster", self.raster)
        form.addRow("Metres a pixel", self.resolution)
        buttons = QHBoxLayout()
        for button in (start, stop):
            buttons.addWidget(button)
        form.addRow(buttons)
        return group

    def _program_group(self):
        group = QGroupBox("The program terramorph, or a Python that has it")
        form = QFormLayout(group)
        self.program = QgsFileWidget()
        self.program.setStorageMode(QgsFileWidget.StorageMode.GetFile)
        self.program.setFilePath(saved(COMMAND))
        self.program.fileChanged.connect(lambda path: save(COMMAND, path))
        form.addRow(self.program)
        return group

    def tell(self, text, level=None):
        """Show a sentence in the panel; with a level in QGIS' message bar too."""
        self.status.setText(text)
        if level is not None:
            self.iface.messageBar().pushMessage("terramorph", text, level, 8)

    def fail(self, error):
        """Show an error."""
        self.tell(str(error), Qgis.MessageLevel.Warning)

    # Layers of a server.

    def connect_server(self):
        """Request the layers of the server at the address."""
        try:
            address = base_address(self.address.text())
        except ServerError as error:
            self.fail(error)
            return
        self.address.setText(address)
        self.tell(f"Asking {address} ...")
        self._fetcher = QgsNetworkContentFetcher()
        self._fetcher.finished.connect(lambda: self._listed(address))
        self._fetcher.fetchContent(QUrl(f"{address}layers"))

    def _listed(self, address):
        reply = self._fetcher.reply()
        if reply is None or reply.error() != QNetworkReply.NetworkError.NoError:
            reason = "no answer" if reply is None else reply.errorString()
            self.fail(f"{address} does not answer ({reason}); start a server, or correct the address.")
            return
        try:
            self.offered = read_listing(address, self._fetcher.contentAsString())
        except ServerError as error:
            self.fail(error)
            return
        save(SERVER, address)
        self._fill()
        self.tell(f"{len(self.offered)} views at {address}")

    def _fill(self):
        self.tree.clear()
        parents = {}
        for number, one in enumerate(self.offered):
            if one.layer not in parents:
                parents[one.layer] = QTreeWidgetItem(self.tree, [one.title])
                parents[one.layer].setExpanded(True)
            item = QTreeWidgetItem(parents[one.layer], [one.view])
            item.setData(0, Qt.ItemDataRole.UserRole, number)
            chosen = one.view in ("Input", "Output")
            item.setCheckState(0, Qt.CheckState.Checked if chosen else Qt.CheckState.Unchecked)

    def add_checked(self):
        """Add the checked views to the map, in a group, and zoom to them."""
        chosen = []
        for row in range(self.tree.topLevelItemCount()):
            parent = self.tree.topLevelItem(row)
            items = (parent.child(place) for place in range(parent.childCount()))
            chosen += [item for item in items if item.checkState(0) == Qt.CheckState.Checked]
        tiles = [self.offered[item.data(0, Qt.ItemDataRole.UserRole)] for item in chosen]
        if not tiles:
            self.fail("Connect to a server and check what is to be added.")
            return
        for one in tiles:
            self.add(one)
        self._look_at(tiles[-1].bounds)

    def add(self, tiles):
        """Add a view to the map, above the server's other layers.

        Returns:
            The layer; None if QGIS cannot open it.
        """
        layer = QgsRasterLayer(tiles.uri, tiles.name, "wms")
        if not layer.isValid():
            self.fail(f"QGIS cannot open {tiles.name}.")
            return None
        properties = layer.serverProperties()  # QGIS 3.38 has moved attributions there
        (properties if hasattr(properties, "setAttribution") else layer).setAttribution(tiles.attribution)
        layer.setExtent(_in(layer.crs(), tiles.bounds))
        root = QgsProject.instance().layerTreeRoot()
        group = root.findGroup(GROUP) or root.insertGroup(0, GROUP)
        QgsProject.instance().addMapLayer(layer, False)
        group.insertLayer(0, layer)
        return layer

    def _look_at(self, bounds):
        canvas = self.iface.mapCanvas()
        canvas.setExtent(_in(canvas.mapSettings().destinationCrs(), bounds))
        canvas.refresh()

    # A server of one's own.

    def start_server(self):
        """Start a server of the chosen raster, and connect to it once it has printed its address."""
        self.end_server()
        layer = self.raster.currentLayer()
        words = ["serve", "--port", "0"]
        try:
            if layer is not None:
                words += [self.model.text().strip(), file_of(layer)]
                if self.resolution.text().strip():
                    words += ["--resolution", self.resolution.text().strip()]
            process = new_process(words, self)
        except CommandError as error:
            self.fail(error)
            return
        self.server, self._lines, self._told = process, (Lines(), Lines()), Told()
        process.readyReadStandardOutput.connect(self._read_output)
        process.readyReadStandardError.connect(self._read_errors)
        process.finished.connect(self._ended)
        process.errorOccurred.connect(self._could_not)
        self.tell("The server starts; this takes some seconds ...")
        process.start()

    def _read_output(self):
        for line in self._lines[0].add(self.server.readAllStandardOutput()):
            if line.startswith(_SERVING):
                self.address.setText(line[len(_SERVING) :])
                self.connect_server()

    def _read_errors(self):
        for line in self._lines[1].add(self.server.readAllStandardError()):
            warning = self._told.add(line)
            if warning is not None:
                self.tell(warning, Qgis.MessageLevel.Info)

    def _could_not(self, error):
        if error == QProcess.ProcessError.FailedToStart:
            self.fail(f"{self.server.program()} cannot be started ({self.server.errorString()}).")
            self.server = None

    def _ended(self, code, status):
        self._read_errors()
        self.server = None
        self.fail(self._told.sentence or f"The server ended with code {code} and said nothing.")

    def end_server(self):
        """End the server that was started here, if there is one."""
        process, self.server = self.server, None
        if process is None:
            return
        for signal in (process.finished, process.errorOccurred, process.readyReadStandardOutput):
            signal.disconnect()
        process.readyReadStandardError.disconnect()
        end(process)
        process.deleteLater()
        self.tell("The server has ended.")


def _in(crs, bounds):
    """Return a rectangle of degrees (west, south, east, north) in a CRS; in degrees where there is no CRS yet."""
    degrees, box = QgsCoordinateReferenceSystem("EPSG:4326"), QgsRectangle(*bounds)
    if not crs.isValid():
        return box
    return QgsCoordinateTransform(degrees, crs, QgsProject.instance()).transformBoundingBox(box)
