"""Import of other people's checkpoints; export to ONNX."""

from terramorph.interop.deepness import export_deepness
from terramorph.interop.int8 import QualityLoss, export_int8
from terramorph.interop.onnx import export_onnx, note_loss
from terramorph.interop.pytorch_pix2pix import import_checkpoint
from terramorph.interop.web import MAX_LOSS, StorageLoss, Store, export_web

__all__ = [
    "MAX_LOSS",
    "QualityLoss",
    "StorageLoss",
    "Store",
    "export_deepness",
    "export_int8",
    "export_onnx",
    "export_web",
    "import_checkpoint",
    "note_loss",
]
