"""A bundle at work: images, lists of images, and whole rasters.

model = load("model.safetensors")
map_raster = model.translate("aerial.tif")
sweep(model, "ortho.tif", "map.tif")      # of any size, in bounded memory
"""

from terramorph.translate.area import read_area
from terramorph.translate.arrays import translate_array
from terramorph.translate.backends import Backend, OnnxBackend, OpenVinoBackend, TorchBackend
from terramorph.translate.files import Translated, translate_files
from terramorph.translate.model import Model, load
from terramorph.translate.sweep import SweepOptions, sweep

__all__ = [
    "Backend",
    "Model",
    "OnnxBackend",
    "OpenVinoBackend",
    "SweepOptions",
    "TorchBackend",
    "Translated",
    "load",
    "read_area",
    "sweep",
    "translate_array",
    "translate_files",
]
