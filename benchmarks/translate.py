"""How fast tiles are translated, and in how much memory, beside the plain way in the same run.

    python benchmarks/translate.py                  # U-Net 256 at full width
    python benchmarks/translate.py --width 8 --tiles 8 --rounds 1

Every variant runs in a process of its own (its peak memory is then its own), `--rounds` times in turn, so that what
else the machine does falls on all of them. Times are medians; read the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.errors import MissingPackageError
from terramorph.interop import export_onnx
from terramorph.networks import build_network, initialize
from terramorph.translate import OnnxBackend, TorchBackend

Run = Callable[[Tensor], Tensor]

VARIANTS: dict[str, tuple[str, int]] = {
    "plain": ("eager fp32, batch statistics and dropout: the public script", 1),
    "eval": ("eager fp32, running statistics", 1),
    "eager-bf16": ("eager bf16, channels_last", 4),
    "onnx": ("OnnxBackend fp32", 4),
    "torch-fp32": ("TorchBackend fp32", 4),
    "torch-bf16-1": ("TorchBackend bf16", 1),
    "torch-bf16": ("TorchBackend bf16", 4),
    "torch-bf16-8": ("TorchBackend bf16", 8),
}
REFERENCE = "eval"


def make_bundle(network: str, width: int, path: Path) -> None:
    """Writes a bundle of random weights whose statistics fit them, as after training."""
    # Not above: 170 MB that would count as every variant's.
    from terramorph.training.recalibrate import recalibrate_network

    built = build_network(network, width=width)
    initialize(built, torch.Generator().manual_seed(0))
    recalibrate_network(built, [tiles(4)])
    rgb = Bands(names=("red", "green", "blue"))
    Bundle.of(built, network, source=rgb, target=rgb).save(path)


def tiles(count: int) -> Tensor:
    """float32 (count, 3, 256, 256) in [-1, 1]: noise on a coarse pattern."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 17, 17, generator=generator) * 2 - 1
    smooth = nn.functional.interpolate(coarse, size=(256, 256), mode="bilinear")
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp_(-1, 1)


def prepare(variant: str, bundle: Bundle, device: str) -> Run:
    """What runs one batch."""
    if variant in ("plain", "eval", "eager-bf16"):
        where = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        network = copy.deepcopy(bundle.network).train(variant == "plain").to(where)
        if variant != "eager-bf16":
            return lambda x: network(x.to(where)).cpu()
        network.to(torch.bfloat16, memory_format=torch.channels_last)
        layout = torch.channels_last
        return lambda x: network(x.to(where, torch.bfloat16, memory_format=layout)).float().cpu()
    if variant == "onnx":
        with tempfile.TemporaryDirectory() as folder:
            return OnnxBackend(export_onnx(bundle, Path(folder) / "model.onnx"), threads=torch.get_num_threads()).run
    precision = "fp32" if "fp32" in variant else "bf16"
    return TorchBackend(bundle.network, device=device, precision=precision).run


def measure(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one variant in this process."""
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.bundle)
    _, batch = VARIANTS[variant]
    source = tiles(max(arguments.tiles, batch))
    with torch.no_grad():
        run = prepare(variant, bundle, arguments.device)
        bundle.network.to("meta")  # what a variant keeps is its own copy
        outputs = [run(part) for part in tiles(8).split(batch)]
        times = []
        for _ in range(arguments.repeats):
            for part in source.split(batch):
                if len(part) < batch:
                    continue
                start = time.perf_counter()
                run(part)
                times.append((time.perf_counter() - start) / batch * 1000)
    np.save(arguments.output, torch.cat(outputs).float().contiguous().numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"ms": statistics.median(times), "peak": peak}


def child(variant: str, arguments: argparse.Namespace, bundle: Path, output: Path) -> dict[str, Any] | None:
    """Runs `measure` in another process; None if the variant cannot run here."""
    options = ["--tiles", "--repeats", "--threads", "--device"]
    given = [str(getattr(arguments, option.removeprefix("--"))) for option in options]
    line = [value for pair in zip(options, given, strict=True) for value in pair]
    files = ["--bundle", str(bundle), "--output", str(output)]
    command = [sys.executable, __file__, *line, "--child", variant, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        return None
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(arguments: argparse.Namespace) -> None:
    """Runs all variants in turn and prints the table."""
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.safetensors"
        # In a process of its own: what this one has ever held, Linux takes for the least peak of those that it starts.
        with ProcessPoolExecutor(1, get_context("spawn")) as maker:
            maker.submit(make_bundle, arguments.network, arguments.width, bundle).result()
        for number in range(arguments.rounds):
            for variant in arguments.variants:
                print(f"round {number + 1} of {arguments.rounds}: {variant}", file=sys.stderr)
                result = child(variant, arguments, bundle, Path(folder) / f"{variant}.npy")
                if result is not None:
                    found.setdefault(variant, []).append(result)
        outputs = {variant: np.load(Path(folder) / f"{variant}.npy") for variant in found}
    table = Table(
        title=f"{arguments.network}, width {arguments.width}, 256 px tiles, {arguments.threads} threads, "
        f"medians of {arguments.rounds} rounds"
    )
    for name in ("variant", "batch", "ms / tile", "x plain", "peak MB", "max diff", "mean diff"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    plain = statistics.median(r["ms"] for r in found["plain"]) if "plain" in found else float("nan")
    for variant, results in found.items():
        label, batch = VARIANTS[variant]
        ms = statistics.median(r["ms"] for r in results)
        peak = statistics.median(r["peak"] for r in results) / 1e6
        difference = ["-", "-"]
        if REFERENCE in outputs and variant not in ("plain", REFERENCE):
            levels = np.abs(outputs[variant] - outputs[REFERENCE]) * 127.5
            difference = [f"{levels.max():.2f}", f"{levels.mean():.3f}"]
        table.add_row(label, str(batch), f"{ms:.1f}", f"{plain / ms:.2f}", f"{peak:.0f}", *difference)
    console = Console(width=max(Console().width, 120))
    console.print(table)
    console.print("Differences are to eager fp32 with running statistics, in grey levels of 255.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet256", help="a generator's name in the catalogue")
    parser.add_argument("--width", type=int, default=64, help="channels after the first convolution")
    parser.add_argument("--tiles", type=int, default=8, help="tiles in each pass")
    parser.add_argument("--repeats", type=int, default=3, help="passes in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--child", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.tiles, arguments.width, arguments.repeats, arguments.rounds, arguments.threads) < 1:
        parser.error("numbers must be 1 or more")
    if arguments.child is None:
        report(arguments)
        return
    try:
        print(json.dumps(measure(arguments.child, arguments)))
    except MissingPackageError:
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
