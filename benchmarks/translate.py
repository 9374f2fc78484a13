"""How fast tiles are translated, and in how much memory, beside the plain way in the same run.

    python benchmarks/translate.py                  # U-Net 256 at full width
    python benchmarks/translate.py --width 8 --tiles 8 --rounds 1

Every variant runs in a process of its own (its peak memory is then its own), `--rounds` times in turn. In each process
the variant, the plain way and a matrix product of the variant's precision then take turns: what else the machine does
falls on all three. Times are medians; read the ratios, not the milliseconds. The bound is the arithmetic of a tile at
the rate of that product. What was measured for `load` on this machine is not used: it is measured again.

Aims, on every processor: one image in fp32 no slower than plain; many at 1.4 times its pace or more, or within 1.25
times of the bound.
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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.errors import MissingPackageError
from terramorph.interop import export_onnx
from terramorph.networks import build_network, initialize
from terramorph.processor import native_bf16, vector_units
from terramorph.translate import OnnxBackend, TorchBackend
from terramorph.translate.backends import pytorch

Run = Callable[[Tensor], Tensor]

VARIANTS: dict[str, tuple[str, str, int]] = {
    "plain": ("eager, batch statistics and dropout: the public script", "fp32", 1),
    "eval": ("eager, running statistics", "fp32", 1),
    "eager-bf16": ("eager, channels_last", "bf16", 4),
    "onnx": ("OnnxBackend", "fp32", 4),
    "torch-fp32-1": ("TorchBackend", "fp32", 1),
    "torch-fp32": ("TorchBackend", "fp32", 4),
    "torch-bf16-1": ("TorchBackend", "bf16", 1),
    "torch-bf16": ("TorchBackend", "bf16", 4),
}
REFERENCE = "eval"
ONE, MANY = "torch-fp32-1", "torch-fp32"
SIDE = 1024
"""Of the matrices whose product is timed."""


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
        return eager(variant, bundle, device)
    if variant == "onnx":
        with tempfile.TemporaryDirectory() as folder:
            return OnnxBackend(export_onnx(bundle, Path(folder) / "model.onnx"), threads=torch.get_num_threads()).run
    return TorchBackend(bundle.network, device=device, precision=VARIANTS[variant][1]).run


def eager(variant: str, bundle: Bundle, device: str) -> Run:
    """The network as it is."""
    where = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    network = copy.deepcopy(bundle.network).train(variant == "plain").to(where)
    if variant != "eager-bf16":
        return lambda x: network(x.to(where)).cpu()
    network.to(torch.bfloat16, memory_format=torch.channels_last)
    layout = torch.channels_last
    return lambda x: network(x.to(where, torch.bfloat16, memory_format=layout)).float().cpu()


def measure(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times one variant in this process, the plain way, and a matrix product."""
    torch.set_num_threads(arguments.threads)
    pytorch.TUNED = arguments.bundle.parent / "tuned.json"
    bundle, again = load_bundle(arguments.bundle), partial(load_bundle, arguments.bundle)
    _, precision, batch = VARIANTS[variant]
    source = tiles(max(arguments.tiles, batch))
    with torch.no_grad():
        run = prepare(variant, bundle, arguments.device)
        bundle.network.to("meta")  # what a variant keeps is its own copy
        outputs = [run(part) for part in tiles(8).split(batch)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        np.save(arguments.output, torch.cat(outputs).float().contiguous().numpy())
        plain = run if variant == "plain" else eager("plain", again(), arguments.device)
        where = "cpu" if arguments.device == "auto" and not torch.cuda.is_available() else arguments.device
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        matrix, ours = torch.rand(SIDE, SIDE, device=where.replace("auto", "cuda")).to(dtype), source[:batch]
        turns: list[tuple[Callable[[], Any], list[float]]] = [
            (lambda: plain(source[:1]), []),
            (lambda: run(ours), []),
            (lambda: (matrix @ matrix)[0, 0].item(), []),
        ]
        for number in range(1 + arguments.repeats * len(source) // batch):
            for call, times in turns:
                start = time.perf_counter()
                call()
                if number:  # the first does not count
                    times.append(time.perf_counter() - start)
        with FlopCounterMode(display=False) as counter:
            again().network(source[:1])
    usual, took, product = (statistics.median(times) * 1000 for _, times in turns)
    bound = counter.get_total_flops() / (2 * SIDE**3) * product
    return {"ms": took / batch, "plain": usual, "bound": bound, "peak": peak}


def child(variant: str, arguments: argparse.Namespace, bundle: Path, output: Path) -> dict[str, Any] | None:
    """Runs `measure` in another process; None if the variant cannot run here."""
    on_cpu = arguments.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and VARIANTS[variant][1] == "bf16" and not native_bf16("cpu"):
        return None
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
    machine = f"{vector_units()}, {arguments.threads} threads"
    sizes = f"{arguments.network}, width {arguments.width}, 256 px tiles"
    table = Table(title=f"{sizes}, {machine}, medians of {arguments.rounds} rounds")
    columns = ("variant", "precision", "batch", "ms / tile", "x plain", "x bound", "peak MB", "max diff", "mean diff")
    for name in columns:
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant, results in found.items():
        label, precision, batch = VARIANTS[variant]
        peak = statistics.median(r["peak"] for r in results) / 1e6
        difference = ["-", "-"]
        if REFERENCE in outputs and variant not in ("plain", REFERENCE):
            levels = np.abs(outputs[variant] - outputs[REFERENCE]) * 127.5
            difference = [f"{levels.max():.2f}", f"{levels.mean():.3f}"]
        pace, distance = pace_of(results)
        ms = f"{statistics.median(r['ms'] for r in results):.1f}"
        table.add_row(label, precision, str(batch), ms, f"{pace:.2f}", f"{distance:.2f}", f"{peak:.0f}", *difference)
    console = Console(width=max(Console().width, 120))
    console.print(table)
    console.print("Differences are to eager fp32 with running statistics, in grey levels of 255.")
    for variant in VARIANTS:
        if variant in arguments.variants and variant not in found:
            console.print(f"Not here: {' '.join(VARIANTS[variant][:2])} (emulated, or not installed).")
    if ONE in found and MANY in found:
        (one, _), (many, distance) = pace_of(found[ONE]), pace_of(found[MANY])
        console.print(f"One image: {one:.2f} x plain, aim 1.0: {'reached' if one >= 1.0 else 'missed'}.")
        reached = "reached" if many >= 1.4 or distance <= 1.25 else "missed"
        console.print(f"Many: {many:.2f} x plain, aim 1.4, and {distance:.2f} x the bound, aim 1.25: {reached}.")


def pace_of(results: list[dict[str, Any]]) -> tuple[float, float]:
    """How many times as fast as the plain way, and how many times as long as the bound."""
    pace = statistics.median(r["plain"] / r["ms"] for r in results)
    return pace, statistics.median(r["ms"] / r["bound"] for r in results)


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
