"""The benchmarks still run; what they print is measured elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARKS / name), *words], capture_output=True, text=True, timeout=240)


def test_the_pipeline_table_has_a_row_a_way() -> None:
    done = _run("pipeline.py", "--pairs", "4", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cache, crop") == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_its_benchmark_refuses_with_a_sentence() -> None:
    done = _run("gpu.py")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no CUDA device here; ")
    assert "Traceback" not in done.stderr


def test_every_row_of_the_training_table_runs() -> None:
    for row in ("plain eager fp32, batch 1", "terramorph, batch 4"):
        done = _run("train.py", "--row", row, "--width", "4", "--steps", "1")
        assert done.returncode == 0, done.stderr
        assert '"seconds"' in done.stdout


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["memory.py", "--sides", "1200", "--width", "4"], ["1,200"]),
        (["scale.py", "--side", "900", "--width", "4"], ["1.00x"]),
        (["mosaic.py", "--width", "4", "--side", "1024", "--plain-tiles", "2"], ["translate_to"]),
        (["backends.py", "--width", "4", "--seconds", "0.5"], ["torch eager", "int8"]),
    ],
)
def test_tables_of_whole_rasters(words: list[str], rows: list[str]) -> None:
    done = _run(*words)
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert row in done.stdout


def test_the_table_of_starts_has_a_row_a_line() -> None:
    done = _run("start.py", "--width", "4", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    for row in ("import torch", "info", "translate PNG", "translate GeoTIFF"):
        assert row in done.stdout
