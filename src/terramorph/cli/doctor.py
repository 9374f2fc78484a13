"""`terramorph doctor`: versions and hardware of this machine, and its fastest backend."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from terramorph._version import __version__
from terramorph.cli.choices import Allow, from_here, option
from terramorph.cli.console import Meter, say, show_columns, show_table

if TYPE_CHECKING:
    from terramorph.translate.bench import Way

NAME = "doctor"
EXAMPLE = "Example: terramorph doctor | terramorph doctor --bench maps.safetensors --bench maps-int8.onnx"

REFUSED = "int8, refused"


def run(
    bench: Annotated[
        list[str] | None, option("Measure the speed of a bundle or .onnx file; repeatable.", metavar="MODEL")
    ] = None,
    seconds: Annotated[float, option("Approximate measuring time per model in seconds.", min=0.0)] = 20.0,
    allow: Allow = None,
) -> None:
    """Print versions, processor, devices, backends and disk of this machine; or measure the fastest backend."""
    if bench:
        _bench(bench, seconds, from_here(allow))
        return
    free = (f"free at {Path.cwd()}", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB")
    show_table("terramorph doctor", [*_versions(), *_processor(), *_devices(), *_backends(), free])


def _bench(models: list[str], seconds: float, allowed: list[str]) -> None:
    """Measure every model, print one table, and note the fastest form and batch size for PyTorch."""
    from terramorph import processor

    found = [(model, speed) for model in models for speed in _speeds(model, seconds, allowed)]
    measured = [(model, speed) for model, speed in found if not speed.missing]
    first = measured[0][1].tiles
    names = ("backend", "precision", "batch", "tiles / s", "window, MPx / s", "ratio")
    rows = [(s.backend, s.precision, s.batch, s.tiles, s.megapixels, s.tiles / first) for _, s in measured]
    show_columns(f"{processor.name()}, {processor.cores()} cores, ratios to the first row", names, rows)
    for sentence in dict.fromkeys(speed.missing for _, speed in found if speed.missing):
        say(sentence)
    for sentence in _advice(measured):
        say(sentence)


def _speeds(model: str, seconds: float, allowed: list[str]) -> list[Way]:
    from terramorph.bundle import load_bundle
    from terramorph.errors import MissingPackageError
    from terramorph.interop import export_onnx
    from terramorph.translate import OnnxBackend
    from terramorph.translate.bench import measure, remember_fastest, ways_of_bundle, ways_of_exported

    with Meter(f"measuring {Path(model).name}") as meter, tempfile.TemporaryDirectory() as folder:
        if Path(model).suffix == ".onnx":
            opened = OnnxBackend(model, accept_quality_loss=True)
            called = {None: "fp32", "refused": REFUSED}.get(opened.quality, "int8")
            ways, header = ways_of_exported(Path(model), called), opened.header
        else:
            bundle = load_bundle(model, allowed)
            ways, header = ways_of_bundle(bundle), bundle.header
            try:
                exported = export_onnx(bundle, Path(folder) / "model.onnx", mode="raster")
                ways += ways_of_exported(exported)
            except MissingPackageError as error:
                meter.say(str(error))
        speeds = []
        for speed in measure(ways, header, seconds):
            speeds.append(speed)
            meter.update(len(speeds), len(ways))
        if Path(model).suffix != ".onnx":
            remember_fastest(bundle, speeds)
    return speeds


def _advice(measured: list[tuple[str, Way]]) -> list[str]:
    """Return sentences on the fastest backend of each model and how to use it; refused files are left out."""
    kept = [one for one in measured if one[1].precision != REFUSED]
    if not kept:
        return ["This 8-bit file lost too much quality at export; use the bundle that it was exported from."]
    model, best = max(kept, key=lambda one: one[1].tiles)
    exported = model if model.endswith(".onnx") else "model.onnx"
    how = f"terramorph translate {model} INPUT OUTPUT --precision {best.precision}"
    if not best.backend.startswith("torch"):
        how = f"terramorph translate {exported} INPUT OUTPUT --backend {best.backend}"
        how += f" --precision {best.precision}" if best.precision == "bf16" else ""
        how = how if exported == model else f"terramorph export {model} {exported}, then {how}"
    said = [f"Fastest here: {best.backend} in {best.precision}. {how}"]
    if any(speed.backend == "torch" for _, speed in measured):
        said.append("The fastest PyTorch settings are remembered for this machine and network.")
    if not any(speed.precision in ("int8", REFUSED) for _, speed in measured):
        said.append(
            "8 bits were not measured: run terramorph export MODEL OUT.onnx --int8 --calibrate PAIRS, and add "
            "--bench OUT.onnx."
        )
    return said


def _versions() -> list[tuple[str, str]]:
    import torch

    # rasterio is loaded by terramorph.raster; after its import it states its GDAL version.
    import terramorph.raster  # noqa: F401

    gdal = getattr(sys.modules.get("rasterio"), "__gdal_version__", "unknown")
    return [
        ("terramorph", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("torch", torch.__version__),
        ("numpy", _version("numpy")),
        ("rasterio", f"{_version('rasterio')}, GDAL {gdal}"),
        ("lightning-fabric", _version("lightning-fabric")),
    ]


def _processor() -> list[tuple[str, str]]:
    import torch

    from terramorph import processor
    from terramorph.translate.backends.pytorch import notes_of_this_machine

    native = processor.native_bf16("cpu")
    forms = {True: "rearranged, with matrix products", False: "plain torch"}
    tuned = [
        (name, f"{forms[one.rearranged]}, batches of {one.batch_size}") for name, one in notes_of_this_machine().items()
    ]
    return [
        ("processor", processor.name()),
        ("processor cores", f"{processor.cores()} usable of {os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        ("vector units", processor.vector_units()),
        ("bf16 on the processor", "native, used by precision=auto" if native else "emulated, precision=auto is fp32"),
        ("memory", _memory()),
        *(tuned or [("U-Nets", "not measured yet; measured on first use")]),
    ]


def _devices() -> list[tuple[str, str]]:
    import torch

    from terramorph.processor import native_bf16

    rows = []
    if not torch.cuda.is_available():
        built = "torch was built without it" if torch.version.cuda is None else "no device or driver found"
        rows = [("CUDA", f"no ({built})")]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if native_bf16(torch.device("cuda", index)) else "no bf16"
        rows.append((f"CUDA {index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {bf16}"))
    present = torch.backends.mps.is_available()
    return [*rows, ("MPS", "present, not used by terramorph" if present else "no")]


def _backends() -> list[tuple[str, str]]:
    onnx = _version("onnxruntime", "onnx")
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        providers = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
        onnx = f"{onnxruntime.__version__} ({providers})"
    return [
        ("backend torch", "yes"),
        ("backend onnxruntime", onnx),
        ("backend openvino", _version("openvino", "openvino")),
        ("ONNX export", _version("onnx", "onnx")),
    ]


def _version(package: str, extra: str = "") -> str:
    """Return the version of an installed package; else the extra that installs it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" + (f": pip install 'terramorph[{extra}]'" if extra else "")


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB"
