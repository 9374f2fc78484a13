"""Abilities of this processor, found once per process by trying.

Speed depends on the processor, on this build of torch and on limits in the environment (`ATEN_CPU_CAPABILITY`,
`ONEDNN_MAX_CPU_ISA`); a trial sees all three.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from terramorph.errors import warn

_clock = time.perf_counter if os.name == "nt" else time.thread_time  # which Windows counts in steps of 16 ms


def native_bf16(device: str | torch.device) -> bool:
    """Return whether a device computes bfloat16 faster than float32; emulated, it is up to 50 times slower.

    Args:
        device: `cpu`, `cuda`, or one of several, as `cuda:1`.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return _bf16_on_cpu()
    if not torch.cuda.is_available():
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def warn_of_emulation(device: str | torch.device) -> None:
    """Warn if a device only emulates bfloat16."""
    if not native_bf16(device):
        warn(f"bf16 is emulated on this {torch.device(device).type} and slower than fp32; use precision fp32.")


@cache
def _bf16_on_cpu() -> bool:
    """Time a small convolution in both dtypes: native bfloat16 takes about half of float32, emulated more.

    What other processes take of the cores must not decide: the time is the processor's for one thread. Several would
    wait for each other on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _bf16_is_faster()
    finally:
        torch.set_num_threads(threads)


def _bf16_is_faster() -> bool:
    source = torch.linspace(-1.0, 1.0, 64 * 64 * 64).view(1, 64, 64, 64)
    weight = torch.linspace(-0.1, 0.1, 128 * 64 * 16).view(128, 64, 4, 4)
    fastest = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(7):
        for dtype in fastest:
            x, w = (values.to(dtype, memory_format=torch.channels_last) for values in (source, weight))
            start = _clock()
            try:
                functional.conv2d(x, w, stride=2, padding=1)
            except RuntimeError:  # this build or processor has no such convolution
                return False
            fastest[dtype] = min(fastest[dtype], _clock() - start)
        if fastest[torch.bfloat16] > 4 * fastest[torch.float32]:
            return False
    return fastest[torch.bfloat16] < 0.8 * fastest[torch.float32]


def vector_units() -> str:
    """Return the instructions that torch's own loops use here, such as AVX2 or AVX512."""
    return torch.backends.cpu.get_cpu_capability()


def name() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
