"""`terramorph doctor`: what this machine offers."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from terramorph._version import __version__
from terramorph.cli.console import show_table

NAME = "doctor"
EXAMPLE = "Example: terramorph doctor"


def run() -> None:
    """Print what this machine offers: versions, processor, devices, backends, disk."""
    show_table("terramorph doctor", [*_versions(), *_processor(), *_devices(), *_backends(), *_disk()])


def _versions() -> list[tuple[str, str]]:
    import torch

    return [
        ("terramorph", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("torch", torch.__version__),
        ("numpy", _version("numpy")),
        ("rasterio", _rasterio()),
        ("lightning-fabric", _version("lightning-fabric")),
    ]


def _processor() -> list[tuple[str, str]]:
    import torch

    from terramorph.pixels import native_bf16

    flags = _cpu_flags()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        ("processor cores", f"{usable} usable of {os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        ("vector units", torch.backends.cpu.get_cpu_capability()),
        ("AVX-512", _yes("avx512f" in flags, flags)),
        ("bf16 on the processor", "native" if native_bf16("cpu") else "emulated: train with precision=fp32"),
        ("AMX", _yes("amx_tile" in flags, flags)),
        ("memory", _memory()),
    ]


def _devices() -> list[tuple[str, str]]:
    import torch

    from terramorph.pixels import native_bf16

    if not torch.cuda.is_available():
        built = "torch was built without it" if torch.version.cuda is None else "no device or driver found"
        rows = [("CUDA", f"no ({built})")]
    else:
        rows = []
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if native_bf16(torch.device("cuda", index)) else "no bf16"
            rows.append((f"CUDA {index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {bf16}"))
    present = torch.backends.mps.is_available()
    rows.append(("MPS", "present, not used by terramorph" if present else "no"))
    return rows


def _backends() -> list[tuple[str, str]]:
    rows = [("backend torch", "yes")]
    try:
        import onnxruntime

        providers = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
        rows.append(("backend onnxruntime", f"{onnxruntime.__version__} ({providers})"))
    except ImportError:
        rows.append(("backend onnxruntime", "not installed: pip install 'terramorph[onnx]'"))
    rows.append(
        (
            "ONNX export",
            "yes" if _version("onnx") != "not installed" else "not installed: pip install 'terramorph[onnx]'",
        )
    )
    return rows


def _disk() -> list[tuple[str, str]]:
    return [(f"free at {Path.cwd()}", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB")]


def _rasterio() -> str:
    # Its home is terramorph.raster; once that is imported, the module can be asked which GDAL it carries.
    import terramorph.raster  # noqa: F401

    module: Any = sys.modules.get("rasterio")
    return f"{_version('rasterio')}, GDAL {getattr(module, '__gdal_version__', 'unknown')}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_flags() -> frozenset[str]:
    """The processor's flags as Linux lists them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _yes(present: bool, flags: frozenset[str]) -> str:
    return ("yes" if present else "no") if flags else "unknown"


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB"
