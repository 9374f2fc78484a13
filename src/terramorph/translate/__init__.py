"""Translation of images, of rasters of any size, and lazily of the windows that are read.

model = load("model.safetensors")
drawn = model.translate("aerial.tif")
model.translate_to("ortho.tif", "map.tif")      # of any size, in bounded memory
"""

from terramorph.translate.backends import Backend, OnnxBackend, OpenVinoBackend, TorchBackend
from terramorph.translate.model import Model, load

__all__ = ["Backend", "Model", "OnnxBackend", "OpenVinoBackend", "TorchBackend", "load"]
