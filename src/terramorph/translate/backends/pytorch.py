"""PyTorch as a backend, and which form of a network and batch size are fastest on this CPU, measured once and noted.

When a U-Net is first loaded on a machine, its two forms are compared for a second (`best_form`); `terramorph doctor
--bench MODEL` measures batch sizes as well. A note holds for one processor, number of cores, version of torch, network
and precision. Outputs with another form or batch size are equal to float32 rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from terramorph import processor
from terramorph.atomic import write_text
from terramorph.bundle import Mode
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, StorageError
from terramorph.networks import Core, NoiseDropout, describe_network, network_name, set_noise
from terramorph.networks.inference import cpu_form, fold_batchnorm, per_image_statistics
from terramorph.processor import native_bf16
from terramorph.translate.backends.protocol import resolve_device, resolve_precision

TUNED = DEFAULT_CACHE / "tuned.json"
WORTH_MEASURING = 1_000_000
"""Weights of a network from which its forms are compared: a smaller one takes a few milliseconds in either."""
Run = Callable[[Tensor], Tensor]


class TorchBackend:
    """PyTorch.

    In raster mode batch norm is folded into the convolutions, and the weights are float32 or bfloat16 (cast
    once, after folding; autocast would cast in every call). A network that has a form of its own for the CPU runs in
    it where that is faster (`best_form`). In paper mode the network runs as it is, with the statistics of each image
    alone.

    Args:
        network: A generator; a copy is used.
        mode: `raster` or `paper`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:1`.
        precision: `fp32`, `bf16`, or `auto`: bf16 in raster mode where the hardware multiplies it natively
            (AVX512_BF16, AMX, CUDA from Ampere on), otherwise fp32. Paper mode is for comparison with
            published figures, and its `auto` is fp32. Asked for where it is emulated, bf16 works, slowly.
        batch_size: Images per pass; default in raster mode: as measured on this CPU, or 4; 16 on CUDA. Always 1 in
            paper mode.
        dropout: Whether dropout is live in paper mode. It never is in raster mode.
        rearranged: Whether it runs in its own form for the CPU, if it has one; default: the faster one here.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mode: Mode = "raster",
        device: str | torch.device = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        dropout: bool = True,
        rearranged: bool | None = None,
    ) -> None:
        if mode not in ("raster", "paper"):
            raise ConfigError(f"There is no mode {mode!r}; use raster or paper.")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"A batch of {batch_size} images is not possible; use 1 or more.")
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device, mode)
        self.name = f"torch {self.device.type} {str(self.dtype).removeprefix('torch.')}"
        if mode == "paper" and not dropout:
            self.name += " without dropout"  # which makes other pixels
        self.noise_bands = int(getattr(network, "noise", 0))
        drops = dropout and any(isinstance(m, NoiseDropout) and m.p > 0.0 for m in network.modules())
        self.noisy = mode == "paper" and (drops or self.noise_bands > 0)
        on_cuda, bf16 = self.device.type == "cuda", self.dtype == torch.bfloat16
        asked = mode == "raster" and bool(getattr(network, "channels_last", False))
        # What cuDNN's tensor cores and oneDNN's bfloat16 want; float32 on a CPU mostly does without.
        channels_last = on_cuda or bf16 or asked
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._generator: torch.Generator | None = None
        if mode == "paper":
            self.batch_size = 1
            self._network: Any = self._placed(per_image_statistics(network, dropout=drops))
            if self.noisy:
                self._generator = torch.Generator(self.device)
                set_noise(self._network, self._generator)
        else:
            # Emulated products are slower still than emulated convolutions.
            if on_cuda or cpu_form(network) is None or (bf16 and not native_bf16("cpu")):
                tuning = Tuning(rearranged=False, batch_size=16 if on_cuda else 1 if asked else 4)
            elif rearranged is None:
                tuning = best_form(network, self.dtype, partial(self._timed, network))
            else:
                tuning = Tuning(rearranged)
            self._network = self._form(network, tuning.rearranged)
            self.batch_size = batch_size or tuning.batch_size
        # The statistics of each image are those of all of it.
        self.takes_core = mode == "raster" and bool(getattr(self._network, "takes_core", False))

    def _form(self, network: nn.Module, rearranged: bool) -> Callable[..., Tensor]:
        form = cpu_form(network) if rearranged else None
        return self._placed(fold_batchnorm(network)) if form is None else form(self.dtype)

    def _timed(self, network: nn.Module, rearranged: bool) -> Run:
        made = self._form(network, rearranged)
        return lambda source: made(self._given(source))

    def _given(self, source: Tensor) -> Tensor:
        return source.to(self.device, self.dtype).contiguous(memory_format=self._memory_format)

    def _placed(self, network: nn.Module) -> nn.Module:
        network.to(self.device, self.dtype)
        if self._memory_format == torch.channels_last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return network

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None, core: Core | None = None) -> Tensor:
        """Translate float32 (N, C, H, W) in [-1, 1], any H and W, to (N, D, h, w), on the same device.

        Args:
            source: Images, on any device.
            seed: Seed of dropout and noise image in paper mode, which differ between images of a batch.
            noise: float32 (N, noise_bands, H, W) in raster mode; None: the mean of the noise, 0.
            core: (rows, columns) that are wanted, if the backend takes it; None: all.
        """
        with torch.no_grad():
            if self._generator is not None:
                self._generator.manual_seed(seed)
            x = self._given(source)
            if self.noise_bands and self._generator is not None:
                shape = (len(x), self.noise_bands, *x.shape[2:])
                noise = torch.randn(shape, generator=self._generator, device=self.device)
            inputs = [x] if noise is None else [x, noise.to(self.device, self.dtype)]
            y: Tensor = self._network(*inputs, **({} if core is None else {"core": core}))
            return y.float().contiguous().to(source.device)

    def release(self) -> None:
        getattr(self._network, "release", lambda: None)()


@dataclass(frozen=True)
class Tuning:
    """The fastest form, rearranged for the CPU or plain with folded norms, and the fastest batch size."""

    rearranged: bool = True
    batch_size: int = 4


def best_form(network: nn.Module, dtype: torch.dtype, make: Callable[[bool], Run]) -> Tuning:
    """Return the tuning noted for a network; without a note, time its two forms on one image and note the faster."""
    found = remembered(network, dtype)
    if found is not None or sum(weight.numel() for weight in network.parameters()) < WORTH_MEASURING:
        return found or Tuning()
    with torch.no_grad():
        side = max(int(network.stride), 256)  # type: ignore[arg-type]
        image = torch.zeros(1, describe_network(network)["in_bands"], side, side)
        plain, rearranged = fastest_runs([make(False), make(True)], image, seconds=1.0)
    tuning = Tuning(rearranged=rearranged < plain)
    with suppress(StorageError):  # it is measured again next time
        remember(network, dtype, tuning)
    return tuning


def fastest_runs(runs: Sequence[Run], source: Tensor, seconds: float) -> list[float]:
    """Return the seconds of the fastest call of each; the calls take turns, and other load on the machine only adds.

    Args:
        seconds: Approximate time to measure for, after a first call of each that is not counted.
    """
    for run in runs:
        run(source)
    fastest, end = [float("inf")] * len(runs), time.perf_counter() + seconds
    while True:
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run(source)
            fastest[number] = min(fastest[number], time.perf_counter() - start)
        if time.perf_counter() > end:
            return fastest


def remembered(network: nn.Module, dtype: torch.dtype) -> Tuning | None:
    """Return the tuning noted for a network on this machine; None if there is none, or the file cannot be read."""
    return notes_of_this_machine().get(_called(network, dtype))


def remember(network: nn.Module, dtype: torch.dtype, tuning: Tuning) -> None:
    """Note the tuning of a network on this machine."""
    here = notes_of_this_machine() | {_called(network, dtype): tuning}
    notes = _read() | {_machine(): {called: asdict(one) for called, one in here.items()}}
    write_text(TUNED, json.dumps(notes, indent=1), make_folder=True)


def notes_of_this_machine() -> dict[str, Tuning]:
    here = _read().get(_machine())
    found = {}
    for called, note in here.items() if isinstance(here, dict) else ():
        match note:
            case {"rearranged": bool(rearranged), "batch_size": int(batch_size)} if batch_size >= 1:
                found[called] = Tuning(rearranged, batch_size)
    return found


def _called(network: nn.Module, dtype: torch.dtype) -> str:
    """Return the key of a network: the properties that its speed depends on."""
    described, precision = describe_network(network), "bf16" if dtype == torch.bfloat16 else "fp32"
    bands = f"{described['in_bands']} to {described['out_bands']} bands"
    return f"{network_name(network)}, width {described.get('width')}, {bands}, {precision}"


def _machine() -> str:
    # A limit on oneDNN's instructions shows in how it computes bfloat16.
    bf16 = "native" if processor.native_bf16("cpu") else "emulated"
    units = f"{processor.vector_units()}, bf16 {bf16}"
    return f"{processor.name()}, {processor.cores()} cores, {units}, torch {torch.__version__}"


def _read() -> dict[str, Any]:
    try:
        notes = parse_json(TUNED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
