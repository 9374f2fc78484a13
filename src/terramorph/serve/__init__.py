"""The living map: a raster and a model as map layers, whose tiles are computed on request."""

from terramorph.serve.notebook import Shown, show
from terramorph.serve.server import Server, open_server
from terramorph.serve.settings import LayerSettings, Settings, load_settings

__all__ = ["LayerSettings", "Server", "Settings", "Shown", "load_settings", "open_server", "show"]
