"""Other people's checkpoints in, ONNX out."""

from terramorph.interop.deepness import export_deepness
from terramorph.interop.int8 import QualityLoss, export_int8, note_quality
from terramorph.interop.onnx import export_onnx
from terramorph.interop.pytorch_pix2pix import import_checkpoint

__all__ = ["QualityLoss", "export_deepness", "export_int8", "export_onnx", "import_checkpoint", "note_quality"]
