"""The plug-in as QGIS loads it: a panel, its action, and a provider of Processing algorithms."""

from pathlib import Path

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import Qt, QUrl
from qgis.PyQt.QtGui import QDesktopServices, QIcon
from qgis.PyQt.QtWidgets import QAction

from .panel import Panel
from .provider import TerramorphProvider

HERE = Path(__file__).parent


class TerramorphPlugin:
    """The plug-in: QGIS calls initProcessing where there is no window (qgis_process), otherwise initGui, then unload.

    Args:
        iface: QGIS' interface to its main window.
    """

    def __init__(self, iface):
        self.iface = iface
        self.provider = self.panel = None
        self.actions = []

    def initProcessing(self):
        """Register the algorithms."""
        self.provider = TerramorphProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Add the panel and its actions."""
        self.initProcessing()
        self.panel = Panel(self.iface)
        self.iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.panel)
        self.panel.hide()
        icon = QIcon(str(HERE / "icon.svg"))
        window = self.iface.mainWindow()
        show, explain = QAction(icon, "terramorph", window), QAction("Help", window)
        show.triggered.connect(self.show_panel)
        explain.triggered.connect(self.show_help)
        self.actions = [show, explain]
        self.iface.addRasterToolBarIcon(show)
        for action in self.actions:
            self.iface.addPluginToRasterMenu("terramorph", action)

    def unload(self):
        """Remove all of it, and end a server that the panel has started."""
        if self.panel is not None:
            self.panel.end_server()
            self.iface.removeRasterToolBarIcon(self.actions[0])
            for action in self.actions:
                self.iface.removePluginRasterMenu("terramorph", action)
            self.iface.removeDockWidget(self.panel)
            self.panel.deleteLater()
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
        self.provider = self.panel = None
        self.actions = []

    def show_panel(self):
        """Show the panel and its server's layers."""
        self.panel.show()
        self.panel.raise_()

    def show_help(self):
        """Open the help in a browser."""
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(HERE / "help.html")))
