"""What the processor can do is found by trying, and holds under the limits that the environment sets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch.nn import functional

from terramorph import processor
from terramorph.errors import InputWarning
from terramorph.translate.backends import resolve_precision


@pytest.mark.parametrize("how", ["slow", "refused"])
def test_bf16_that_is_slow_or_refused_is_not_native(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = functional.conv2d

    def conv2d(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            if how == "refused":
                raise RuntimeError("needs the cpu support avx_ne_convert")
            until = time.thread_time() + 0.05  # at work: waiting for others is not counted
            while time.thread_time() < until:
                pass
        return plain(x, *args, **kwargs)

    monkeypatch.setattr(functional, "conv2d", conv2d)
    assert not processor._bf16_on_cpu.__wrapped__()


def test_asked_for_bf16_is_said_to_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_bf16_on_cpu", lambda: False)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu, "raster") == torch.float32
    with pytest.warns(InputWarning, match="emulated on this cpu"):
        assert resolve_precision("bf16", cpu, "raster") == torch.bfloat16
    monkeypatch.setattr(processor, "_bf16_on_cpu", lambda: True)
    assert resolve_precision("auto", cpu, "raster") == resolve_precision("bf16", cpu, "raster") == torch.bfloat16


def test_a_limit_of_the_environment_counts() -> None:
    # It is the last without bfloat16, whatever the processor has. Limits are read when torch is imported.
    code = "from terramorph.processor import native_bf16; print(native_bf16('cpu'))"
    limited = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    assert subprocess.check_output([sys.executable, "-c", code], env=limited, text=True).strip() == "False"
