"""Other people's checkpoints in, ONNX out."""

from terramorph.interop.onnx import export_onnx
from terramorph.interop.pytorch_pix2pix import import_checkpoint, load_discriminator

__all__ = ["export_onnx", "import_checkpoint", "load_discriminator"]
