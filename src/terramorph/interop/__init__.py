"""Import of other people's checkpoints; export to ONNX."""

from terramorph.interop.deepness import export_deepness
from terramorph.interop.onnx import export_onnx
from terramorph.interop.pytorch_pix2pix import import_checkpoint
from terramorph.interop.small import INT8_LIMITS, WEB_LIMITS, QualityLoss, Store, export_int8, export_web, note_loss

__all__ = [
    "INT8_LIMITS",
    "WEB_LIMITS",
    "QualityLoss",
    "Store",
    "export_deepness",
    "export_int8",
    "export_onnx",
    "export_web",
    "import_checkpoint",
    "note_loss",
]
