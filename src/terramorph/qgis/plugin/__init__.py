"""terramorph in QGIS: live layers of a server, and rasters translated by Processing. Needs nothing but QGIS itself."""


def classFactory(iface):
    """Return the plug-in; QGIS calls this once."""
    from .plugin import TerramorphPlugin

    return TerramorphPlugin(iface)
