"""The benchmarks still run; what they print is measured elsewhere."""

from __future__ import annotations

import contextlib
import gc
import io
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from terramorph.study import load_study

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytestmark = pytest.mark.filterwarnings("ignore")


def _module(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a benchmark with the given words, and what it starts with `subprocess.run`, in this process."""

    def run(name: str, *words: str) -> str:
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as told:
            patch.setattr(sys, "argv", [name, *words])
            module = _module(BENCHMARKS / name)
            if hasattr(module, "subprocess"):  # its own alone: dask starts others
                patch.setattr(module, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": started}))
            patch.setattr(module, "computing", time.perf_counter, raising=False)  # of processes, and there are none
            module.main()
        return told.getvalue()

    def started(words: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        python, script, *rest = words
        assert python == sys.executable
        if script != "-c":
            return subprocess.CompletedProcess(words, 0, run(Path(script).name, *rest))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", rest)
            code, threshold = None, gc.get_threshold()
            try:
                exec(rest[0], {})
            except SystemExit as ended:
                code = ended.code
            gc.set_threshold(*threshold)
        assert not code
        return subprocess.CompletedProcess(words, 0)

    return run


def test_the_pipeline_table_has_a_row_a_way(printed: Callable[..., str]) -> None:
    assert printed("pipeline.py", "--pairs", "4", "--seconds", "0.05").count("cache, crop") == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_its_benchmark_refuses_with_a_sentence(printed: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match=r"^There is no CUDA device here; "):
        printed("gpu.py")


@pytest.mark.parametrize("row", ["plain eager fp32, batch 1", "terramorph, batch 4"])
def test_every_kind_of_row_of_the_training_table_runs(row: str, printed: Callable[..., str]) -> None:
    assert '"seconds"' in printed("train.py", "--row", row, "--width", "2", "--steps", "1")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["memory.py", "--sides", "600", "--width", "2"], ["600"]),
        (["scale.py", "--side", "300", "--width", "2", "--workers", "1"], ["1.00x"]),
        (["mosaic.py", "--width", "2", "--side", "512", "--plain-tiles", "1"], ["usual script", "translate_to"]),
        (["backends.py", "--network", "unet64", "--width", "2", "--seconds", "0.01"], ["torch eager", "int8"]),
        (
            ["start.py", "--width", "2", "--rounds", "1"],
            ["import torch", "info", "translate PNG", "translate GeoTIFF"],
        ),
    ],
    ids=lambda value: value[0].removesuffix(".py"),
)
def test_a_table_has_its_rows(words: list[str], rows: list[str], printed: Callable[..., str]) -> None:
    found = printed(*words)
    for row in rows:
        assert row in found


@pytest.mark.parametrize("name", ["sat2map", "map2sat"])
def test_studies_of_the_recipes_can_be_run(name: str) -> None:
    study = load_study(str(BENCHMARKS / f"{name}.toml"))
    assert len({str(variant.config) for variant in study.variants}) == len(study.variants) > 10


def test_road_lines_grow_with_what_is_missed() -> None:
    loss = _module(BENCHMARKS / "road_lines.py").loss
    land, road = torch.tensor([232, 228, 220]), torch.tensor([254, 254, 253])
    target = land.view(1, 3, 1, 1).repeat(1, 1, 64, 64)
    blank = target / 127.5 - 1
    target[..., 28:36, :] = road.view(3, 1, 1)
    target = target / 127.5 - 1
    broken = torch.where(torch.arange(64) < 40, target, blank)
    whole, less, none = (float(loss(SimpleNamespace(target=target), image, None)) for image in (target, broken, blank))
    assert whole < 0.01 < 0.15 < less < 0.4 < 0.9 < none
