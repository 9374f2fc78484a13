"""A bundle at work: images in, images out, each with its mask and its place on Earth."""

from terramorph.translate.backends import Backend, OnnxBackend, TorchBackend
from terramorph.translate.files import Translated, translate_files
from terramorph.translate.translator import Translator, load

__all__ = ["Backend", "OnnxBackend", "TorchBackend", "Translated", "Translator", "load", "translate_files"]
