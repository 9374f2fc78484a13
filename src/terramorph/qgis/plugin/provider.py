"""The provider of Processing algorithms."""

from pathlib import Path

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import AreasAlgorithm, TranslateAlgorithm


class TerramorphProvider(QgsProcessingProvider):
    """The group terramorph in the Processing toolbox."""

    def id(self):
        """Return the prefix of algorithm names: terramorph:translate."""
        return "terramorph"

    def name(self):
        """Return the name for people."""
        return "terramorph"

    def icon(self):
        """Return the group's icon."""
        return QIcon(str(Path(__file__).parent / "icon.svg"))

    def supportedOutputRasterLayerExtensions(self):
        """Return the raster formats that the program writes."""
        return ["tif"]

    def supportedOutputVectorLayerExtensions(self):
        """Return the vector formats that the program writes."""
        return ["gpkg", "fgb", "geojson"]

    def loadAlgorithms(self):
        """Add the algorithms."""
        for algorithm in (TranslateAlgorithm(), AreasAlgorithm()):
            self.addAlgorithm(algorithm)
