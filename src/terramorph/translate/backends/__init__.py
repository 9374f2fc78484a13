"""What runs a generator: PyTorch, ONNX Runtime or OpenVINO, behind one small protocol."""

from terramorph.translate.backends.exported import BackendName, OnnxBackend, OpenVinoBackend, open_exported
from terramorph.translate.backends.protocol import Backend, Ensemble, resolve_device, resolve_precision
from terramorph.translate.backends.pytorch import TorchBackend

__all__ = [
    "Backend",
    "BackendName",
    "Ensemble",
    "OnnxBackend",
    "OpenVinoBackend",
    "TorchBackend",
    "open_exported",
    "resolve_device",
    "resolve_precision",
]
