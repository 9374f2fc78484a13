"""The provider of Processing algorithms."""

from pathlib import Path

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import AreasAlgorithm, TranslateAlgorithm


class TerramorphProvider(QgsProcessingProvider):
    """The group terramorph in the Processing toolbox."""

    def id(self):
        """In names of algorithms: terramorph:translate."""
        return "terramorph"

    def name(self):
        """For people."""
        return "terramorph"

    def icon(self):
        """Of the group."""
        return QIcon(str(Path(__file__).parent / "icon.svg"))

    def supportedOutputRasterLayerExtensions(self):
        """What the program writes."""
        return ["tif"]

    def supportedOutputVectorLayerExtensions(self):
        """What the program writes."""
        return ["gpkg", "fgb", "geojson"]

    def loadAlgorithms(self):
        """Adds the algorithms."""
        for algorithm in (TranslateAlgorithm(), AreasAlgorithm()):
            self.addAlgorithm(algorithm)
